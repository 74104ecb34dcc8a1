"""Owns what Prometheus reads: names after Triton's set, one registry for each service."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Outcome = Literal["success", "cancelled", "late", "error"]

MAX_VERSIONS = 64  # with series of their own; the one that was used longest ago gives way
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_VERSION = ["model", "version"]


@dataclass(frozen=True)
class Reading:
    """What is read at every scrape, instead of being told of each change.

    jobs, datasets: how many by status. memory: bytes by kind.
    """

    queued_images: Callable[[], int]
    jobs: Callable[[], Mapping[Any, int]]
    datasets: Callable[[], Mapping[Any, int]]
    memory: Callable[[], Mapping[str, int]]


class _Series:
    """The series of one version, found once: a look-up by labels costs more than the counting."""

    def __init__(self, families: "_Families", labels: tuple[str, str]) -> None:
        self.images = families.images.labels(*labels)
        self.batches = families.batches.labels(*labels)
        self.sizes = families.sizes.labels(*labels)
        self.queue_sec = families.queue_sec.labels(*labels)
        self.compute_sec = families.compute_sec.labels(*labels)
        self.request_sec = families.request_sec.labels(*labels)
        self.success = families.success.labels(*labels)


class _Families:
    """What is counted of each version that draws images."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(f"noisewell_{name}", text, [*_VERSION, *more], registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(
                f"noisewell_{name}", text, _VERSION, buckets=_BUCKETS, registry=registry
            )

        self.images = counter("inference_count", "Images generated")
        self.batches = counter("exec_count", "Generator calls")
        self.success = counter("inference_request_success", "Requests for images that got them")
        self.failure = counter(
            "inference_request_failure", "Requests for images that were let in and failed", "reason"
        )
        self.queue_sec = seconds("queue_seconds", "Wait for the device")
        self.compute_sec = seconds("compute_seconds", "One generator call")
        self.request_sec = seconds("inference_request_seconds", "From queued to files made")
        self.sizes = Histogram(
            "noisewell_batch_images",
            "Images in a generator call",
            _VERSION,
            buckets=_SIZES,
            registry=registry,
        )

    def forget(self, labels: tuple[str, str]) -> None:
        """Remove a version's series."""
        for family in vars(self).values():
            family.remove_by_labels(dict(zip(_VERSION, labels, strict=True)))


class Metrics:
    """Counters and durations; `inference_count / exec_count` is the mean batch.

    No label holds what a caller wrote: routes are as they are declared, causes are codes of
    `errors.py`, models and versions are those that drew images lately.
    """

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._requests = Counter(
            "noisewell_requests",
            "HTTP requests by route and status",
            ["route", "status"],
            registry=r,
        )
        self._request_sec = Histogram(
            "noisewell_request_seconds",
            "From an HTTP request's head to the end of its answer",
            ["route"],
            buckets=_BUCKETS,
            registry=r,
        )
        self._rejections = Counter(
            "noisewell_rejections", "HTTP requests refused, by cause", ["cause"], registry=r
        )
        self._encode_sec = Histogram(
            "noisewell_encode_seconds", "Answers of one batch", buckets=_BUCKETS, registry=r
        )
        self._served = Gauge(
            "noisewell_model_version", "The version served by default", ["model"], registry=r
        )
        self._swaps = Counter("noisewell_swaps", "Changes of that version", ["model"], registry=r)
        self._families = _Families(r)
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()
        self._ordering = threading.Lock()

    def request(self, route: str, status: int) -> None:
        """The answer to an HTTP request begins."""
        self._requests.labels(route, str(status)).inc()

    def answered(self, route: str, seconds: float) -> None:
        """The answer to an HTTP request ended."""
        self._request_sec.labels(route).observe(seconds)

    def rejected(self, cause: str) -> None:
        """A request was refused, or its answer not taken; `cause` is the code of the error."""
        self._rejections.labels(cause).inc()

    def batch(
        self, model: str, version: int, images: int, waited_sec: Sequence[float], compute_sec: float
    ) -> None:
        """A generator call ended."""
        series = self._of(model, version)
        series.images.inc(images)
        series.batches.inc()
        series.sizes.observe(images)
        series.compute_sec.observe(compute_sec)
        for waited in waited_sec:
            series.queue_sec.observe(waited)

    def done(self, model: str, version: int, outcome: Outcome, seconds: float) -> None:
        """A request for images, let into the queue so long ago, is over."""
        series = self._of(model, version)
        series.request_sec.observe(seconds)
        if outcome == "success":
            series.success.inc()
        else:
            self._families.failure.labels(model, str(version), outcome).inc()

    def encoded(self, seconds: float) -> None:
        """The answers of a batch were made."""
        self._encode_sec.observe(seconds)

    def swapped(self, model: str, version: int) -> None:
        """`version` now serves `model`."""
        self._served.labels(model).set(version)
        self._swaps.labels(model).inc()

    def watch(self, reading: Reading) -> None:
        """Read these at every scrape."""
        self.registry.register(_Read(reading))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _of(self, model: str, version: int) -> _Series:
        labels = (model, str(version))
        with self._ordering:
            series = self._series.get(labels)
            if series is None:
                series = self._series[labels] = _Series(self._families, labels)
            self._series.move_to_end(labels)
            if len(self._series) > MAX_VERSIONS:
                gone, _ = self._series.popitem(last=False)
                self._families.forget(gone)
            return series


class _Read(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # else registering would already read

    def collect(self) -> list[GaugeMetricFamily]:
        read = self._reading
        queued = GaugeMetricFamily("noisewell_queued_images", "Images waiting for the device")
        queued.add_metric([], read.queued_images())
        threads = GaugeMetricFamily("noisewell_threads", "Threads of Python in the service")
        threads.add_metric([], threading.active_count())
        return [
            queued,
            threads,
            _gauge("noisewell_jobs", "Training jobs by status", "status", read.jobs()),
            _gauge("noisewell_datasets", "Datasets by status", "status", read.datasets()),
            _gauge("noisewell_device_memory_bytes", "Of the device", "kind", read.memory()),
        ]


def _gauge(name: str, text: str, label: str, values: Mapping[Any, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
