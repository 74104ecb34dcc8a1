"""Owns what a load run counted, and the rule that says when its figures can be believed."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from app.bench.wire import Answer

WITHIN = 0.1
IN_A_ROW = 3


@dataclass(frozen=True)
class Result:
    """What came back within `seconds`.

    latencies_sec: by status, of every answer. errors: what → how often; a request that got no
    answer, or one that `check` did not like, is there and not among the statuses.
    images: those of the good answers (2xx, 304). retry_after_sec: each value seen.
    """

    seconds: float
    latencies_sec: dict[int, "array[float]"]
    errors: dict[str, int]
    retry_after_sec: "array[float]"
    images: int

    @property
    def statuses(self) -> dict[int, int]:
        return {status: len(seen) for status, seen in sorted(self.latencies_sec.items())}

    @property
    def requests(self) -> int:
        """Requests that were answered, or failed."""
        return sum(self.statuses.values()) + sum(self.errors.values())

    @property
    def ok(self) -> int:
        """Good answers."""
        return sum(n for status, n in self.statuses.items() if _is_ok(status))

    @property
    def failed(self) -> int:
        """Requests without a good answer, of every kind."""
        return self.requests - self.ok

    @property
    def per_sec(self) -> float:
        """Good answers a second."""
        return self.ok / self.seconds

    @property
    def images_per_sec(self) -> float:
        return self.images / self.seconds

    def latency_ms(self, quantile: float, status: int | None = None) -> float:
        """Of the good answers, or of those with one status; NaN without any.

        quantile: 0.5 the median, 1 the largest.
        """
        seen = self.latencies_sec
        some = [s for s in seen if (_is_ok(s) if status is None else s == status)]
        return quantile_of([x for s in some for x in seen[s]], quantile) * 1000

    def to_json(self) -> dict[str, Any]:
        latency = {f"p{q:g}": self.latency_ms(q / 100) for q in (50, 90, 99)}
        return {
            "seconds": round(self.seconds, 3),
            "statuses": self.statuses,
            "errors": self.errors,
            "requests_per_sec": round(self.per_sec, 1),
            "images_per_sec": round(self.images_per_sec, 1),
            "latency_ms": {
                name: None if math.isnan(value) else round(value, 2)
                for name, value in {**latency, "max": self.latency_ms(1)}.items()
            },
            "retry_after_sec": dict(Counter(self.retry_after_sec).most_common(20)),
        }

    def __str__(self) -> str:
        return json.dumps(self.to_json())


@dataclass(frozen=True)
class Steady:
    """A figure by the stability rule: the median of the last three windows' rates of good answers.

    settled: whether those three agreed. rates: of every window. windows: the last three as one.
    """

    per_sec: float
    images_per_sec: float
    settled: bool
    rates: tuple[float, ...]
    windows: Result

    def latency_ms(self, quantile: float) -> float:
        return self.windows.latency_ms(quantile)

    def to_json(self) -> dict[str, Any]:
        about = self.windows.to_json()
        figures = {"requests_per_sec": self.per_sec, "images_per_sec": self.images_per_sec}
        rounded = {name: round(value, 1) for name, value in figures.items()}
        return {**about, **rounded, "settled": self.settled, "rates": self.rates}


@dataclass
class Tally:
    """Counts one window; the load generator owns it and hands it over at its end."""

    began: float
    latencies_sec: dict[int, "array[float]"] = field(default_factory=dict[int, "array[float]"])
    errors: Counter[str] = field(default_factory=Counter[str])
    retry_after_sec: "array[float]" = field(default_factory=lambda: array("d"))
    images: int = 0

    def answered(self, answer: Answer, latency_sec: float, images: int) -> None:
        seen = self.latencies_sec.get(answer.status)
        if seen is None:
            seen = self.latencies_sec[answer.status] = array("d")
        seen.append(latency_sec)
        if answer.ok:
            self.images += images
        elif (told := answer.retry_after_sec) is not None:
            self.retry_after_sec.append(told)

    def result(self, now: float) -> Result:
        return Result(
            max(now - self.began, 1e-9),
            self.latencies_sec,
            dict(self.errors),
            self.retry_after_sec,
            self.images,
        )


def merged(results: Sequence[Result]) -> Result:
    """Windows that followed each other, as one."""
    latencies: dict[int, array[float]] = {}
    errors: Counter[str] = Counter()
    retry_after: array[float] = array("d")
    for result in results:
        for status, seen in result.latencies_sec.items():
            latencies.setdefault(status, array("d")).extend(seen)
        errors.update(result.errors)
        retry_after.extend(result.retry_after_sec)
    seconds = sum(result.seconds for result in results)
    images = sum(result.images for result in results)
    return Result(seconds, latencies, dict(errors), retry_after, images)


def agree(rates: Sequence[float], within: float = WITHIN) -> bool:
    """Whether the last three lie within `within` of each other, the smallest by the largest."""
    last = rates[-IN_A_ROW:]
    return len(last) == IN_A_ROW and min(last) > 0 and max(last) <= min(last) * (1 + within)


def by_the_rule(windows: Sequence[Result]) -> Steady:
    """What at least one window says, by the rule."""
    rates = tuple(round(window.per_sec, 2) for window in windows)
    last = windows[-IN_A_ROW:]
    return Steady(
        per_sec=median(window.per_sec for window in last),
        images_per_sec=median(window.images_per_sec for window in last),
        settled=agree(rates),
        rates=rates,
        windows=merged(last),
    )


def quantile_of(values: Sequence[float], quantile: float) -> float:
    """The smallest value that at least that share of them does not exceed; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(math.ceil(quantile * len(ordered)) - 1, 0)]


def _is_ok(status: int) -> bool:
    return 200 <= status < 300 or status == 304
