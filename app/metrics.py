"""Owns what Prometheus reads: names after Triton's set, one registry for each service."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counters and durations; `inference_count / exec_count` is the mean batch."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._requests = Counter(
            "noisewell_requests",
            "HTTP requests by route and status",
            ["route", "status"],
            registry=r,
        )
        self._images = Counter("noisewell_inference_count", "Images generated", registry=r)
        self._batches = Counter("noisewell_exec_count", "Generator calls", registry=r)
        self._queue_sec = Histogram(
            "noisewell_queue_seconds", "Wait for the device", buckets=_BUCKETS, registry=r
        )
        self._compute_sec = Histogram(
            "noisewell_compute_seconds", "One generator call", buckets=_BUCKETS, registry=r
        )
        self._encode_sec = Histogram(
            "noisewell_encode_seconds", "Answers of one batch", buckets=_BUCKETS, registry=r
        )
        self._version = Gauge(
            "noisewell_model_version", "The version served by default", ["model"], registry=r
        )
        self._swaps = Counter("noisewell_swaps", "Changes of that version", ["model"], registry=r)

    def request(self, route: str, status: int) -> None:
        """An HTTP request was answered."""
        self._requests.labels(route, str(status)).inc()

    def batch(self, images: int, waited_sec: Sequence[float], compute_sec: float) -> None:
        """A generator call ended."""
        self._images.inc(images)
        self._batches.inc()
        self._compute_sec.observe(compute_sec)
        for waited in waited_sec:
            self._queue_sec.observe(waited)

    def encoded(self, seconds: float) -> None:
        """The answers of a batch were made."""
        self._encode_sec.observe(seconds)

    def swapped(self, model: str, version: int) -> None:
        """`version` now serves `model`."""
        self._version.labels(model).set(version)
        self._swaps.labels(model).inc()

    def watch(
        self, queued_images: Callable[[], int], jobs: Callable[[], Mapping[Any, int]]
    ) -> None:
        """Read these two at every scrape, instead of being told of each change."""
        self.registry.register(_Read(queued_images, jobs))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Read(Collector):
    def __init__(
        self, queued_images: Callable[[], int], jobs: Callable[[], Mapping[Any, int]]
    ) -> None:
        self._queued_images = queued_images
        self._jobs = jobs

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # else registering would already read

    def collect(self) -> list[GaugeMetricFamily]:
        queued = GaugeMetricFamily("noisewell_queued_images", "Images waiting for the device")
        queued.add_metric([], self._queued_images())
        jobs = GaugeMetricFamily("noisewell_jobs", "Training jobs by status", labels=["status"])
        for status, count in self._jobs().items():
            jobs.add_metric([status], count)
        return [queued, jobs]
