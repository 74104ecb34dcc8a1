"""Owns what becomes of the service under five times what it can carry.

Capacity is measured first, by closed loops: single PNGs (64 connections) and arrays of 64 images (4
connections). Then an open loop asks for 5 times the capacity in images by arrays of 64 and, at the
same time, for 1.5 times the capacity in single PNGs.

Goodput: what was answered, as a share of what could have been: PNGs a second over their capacity
plus images in arrays a second over theirs, since both want the same device.

Retry-After: under an open load nobody knows when there will be room, as every free place is taken
by whoever asks next. What can be known is how long the queue is. So at every tenth of a second the
wait that those who were sent away were told is compared with the wait of single PNGs that were let
in within the same tenth: had they been let in, that would have been theirs. Beside it stands how
many of those who came back when they were told to were let in, while the load went on and after.
"""

import asyncio
import os
import random
import resource
import tempfile
import time
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from verdicts import Verdicts

from app.bench.child import Child, service
from app.bench.load import ClosedLoad, Load, OpenLoad, PushLoad, fetch, run, steady
from app.bench.tally import Result, merged, quantile_of
from app.bench.wire import Answer, Target

N = 64
SETTLE_SEC = 5  # from the beginning of the overload, not judged
WINDOW_SEC = 1.0
BIN_SEC = 0.1
RETURNING = 20  # one in so many of those sent away comes back


@dataclass
class Log:
    """What one kind of request was told: when it was sent, and the answer."""

    sent: "array[float]" = field(default_factory=lambda: array("d"))
    status: "array[int]" = field(default_factory=lambda: array("i"))
    seconds: "array[float]" = field(
        default_factory=lambda: array("d")
    )  # the wait, or the wait told

    def add(self, sent: float, status: int, seconds: float) -> None:
        self.sent.append(sent)
        self.status.append(status)
        self.seconds.append(seconds)

    def bins(self, keep: Callable[[int], bool]) -> dict[int, float]:
        """The median of `seconds` by tenth of a second, of the statuses to keep."""
        seen: dict[int, list[float]] = {}
        for sent, status, seconds in zip(self.sent, self.status, self.seconds, strict=True):
            if keep(status):
                seen.setdefault(int(sent / BIN_SEC), []).append(seconds)
        return {when: median(some) for when, some in seen.items()}


@dataclass
class Kind:
    """One kind of request under overload: makes it, and keeps what it was answered."""

    request: Callable[[], bytes]
    returns: PushLoad | None = None
    log: Log = field(default_factory=Log)
    started: dict[int, float] = field(default_factory=dict)
    sent_away: int = 0

    def make(self, index: int) -> bytes:
        self.started[index] = time.perf_counter()
        return self.request()

    def check(self, index: int, answer: Answer) -> None:
        sent, now = self.started.pop(index), time.perf_counter()
        told = answer.retry_after_sec
        self.log.add(sent, answer.status, now - sent if told is None else told)
        if told is None or self.returns is None:
            return
        self.sent_away += 1
        if self.sent_away % RETURNING == 0:
            back = now + told
            asyncio.get_running_loop().call_later(told, self.returns.push, back)


@dataclass(frozen=True)
class Capacity:
    png_per_sec: float
    npy_images_per_sec: float

    def share(self, png_per_sec: float, npy_images_per_sec: float) -> float:
        return png_per_sec / self.png_per_sec + npy_images_per_sec / self.npy_images_per_sec


def requests_of(target: Target) -> tuple[Callable[[], bytes], Callable[[], bytes]]:
    """A PNG, an array; every seed once."""
    draw = random.Random()

    def single() -> bytes:
        return target.get(f"/v1/models/mnist@1/images/{draw.randrange(2**53)}.png")

    def bulk() -> bytes:
        body = {"model": "mnist@1", "n": N, "seed": draw.randrange(2**53 - N), "response": "npy"}
        return target.post("/v1/images", body)

    return single, bulk


async def measure_capacity(target: Target) -> Capacity:
    single, bulk = requests_of(target)
    rates: list[float] = []
    for request, connections, images in ((single, 64, 1), (bulk, 4, N)):
        async with ClosedLoad(target, lambda _, r=request: r(), connections, images=images) as load:
            await load.window(3)
            rates.append((await steady(load, 3, 6)).images_per_sec)
        await asyncio.sleep(1)
    return Capacity(*rates)


@dataclass
class Overload:
    """What came back, by kind, and what was seen meanwhile."""

    single: Result
    bulk: Result
    probe: Result
    back_during: Result
    back_after: Result
    single_log: Log
    bulk_log: Log
    rss: list[int]
    lag_sec: list[float]
    waiting: int
    cores: tuple[float, float]  # used by the service and by the load generator


async def overload(child: Child, capacity: Capacity, seconds: float) -> Overload:
    target = child.target
    single, bulk = requests_of(target)
    returning = PushLoad(target, lambda _: single(), 1000)
    singles, bulks = Kind(single, returning), Kind(bulk)
    rate = 5 * capacity.npy_images_per_sec / N
    loads: tuple[Load, ...] = (
        OpenLoad(target, singles.make, 6000, 1.5 * capacity.png_per_sec, check=singles.check),
        OpenLoad(target, bulks.make, 2000, rate, seed=1, images=N, check=bulks.check),
        OpenLoad(target, lambda _: target.get("/health/live"), 20, 10, "even"),
        returning,
    )
    rss, lag = [child.rss_bytes()], array("d")
    windows: list[list[Result]] = [[] for _ in loads]
    waiting = 0
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ticking(lag))
        for load in loads:
            await stack.enter_async_context(load)
        await asyncio.sleep(SETTLE_SEC)
        for load in loads:
            load.cut()
        began, cpu = time.perf_counter(), (child.cpu_sec(), time.process_time())
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            await asyncio.sleep(WINDOW_SEC)
            for load, some in zip(loads, windows, strict=True):
                some.append(load.cut())
            rss.append(child.rss_bytes())
            waiting = max(waiting, *(load.waiting for load in loads if isinstance(load, PushLoad)))
        took = time.perf_counter() - began
        cores = (child.cpu_sec() - cpu[0]) / took, (time.process_time() - cpu[1]) / took
        for load in loads[:2]:
            await load.drain(30)
        windows[3].append(returning.cut())
        await asyncio.sleep(3)  # the last of those sent away come back
        after = returning.cut()
    await asyncio.sleep(3)
    rss.append(child.rss_bytes())
    whole = [merged(some) for some in windows]
    return Overload(*whole, after, singles.log, bulks.log, rss, list(lag), waiting, cores)


@asynccontextmanager
async def ticking(lag: "array[float]") -> AsyncGenerator[None, None]:
    """Notes how late the load generator itself is, every 20 ms."""

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.02)
            lag.append(time.perf_counter() - began - 0.02)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def retry_after_errors(told: Log, let_in: Log) -> list[float]:
    """|told - real| / real for each tenth of a second in which both are known."""
    real, said = let_in.bins(lambda s: s == 200), told.bins(lambda s: s in (429, 503))
    return [abs(said[when] - real[when]) / real[when] for when in said if when in real]


def tell(verdicts: Verdicts, capacity: Capacity, seen: Overload) -> None:
    single, bulk = seen.single, seen.bulk
    share = capacity.share(single.images_per_sec, bulk.images_per_sec)
    verdicts.note(
        f"capacity: {capacity.png_per_sec:,.0f} PNG/s, {capacity.npy_images_per_sec:,.0f} images/s "
        f"in arrays of {N}"
    )
    for name, result in (("single PNGs", single), (f"arrays of {N}", bulk)):
        asked = sum(result.statuses.values()) / result.seconds
        verdicts.note(
            f"{name}: {asked:,.0f} req/s answered, {result.per_sec:,.0f} of them with images "
            f"({result.images_per_sec:,.0f} images/s, p50 {result.latency_ms(0.5):,.0f} ms, "
            f"p99 {result.latency_ms(0.99):,.0f} ms); {result.statuses} {result.errors or ''}"
        )
    verdicts.check(f"goodput {share:.1%} of peak (at least 95 %)", share >= 0.95)
    for name, result in (("single PNGs", single), (f"arrays of {N}", bulk)):
        rejected = max((s for s in result.statuses if s in (429, 503)), default=503)
        p99 = result.latency_ms(0.99, rejected)
        verdicts.check(f"{name} sent away: p99 {p99:.1f} ms (below 50)", not p99 >= 50)
    unanswered = sum(sum(result.errors.values()) for result in (single, bulk))
    verdicts.check(f"{unanswered} requests without an answer (none)", unanswered == 0)
    probe = seen.probe.latency_ms(0.99)
    verdicts.check(f"live probe p99 {probe:.1f} ms (below 100)", probe < 100)
    _tell_retry_after(verdicts, seen)
    _tell_memory(verdicts, seen.rss)
    lag = quantile_of(seen.lag_sec, 0.99) * 1000
    verdicts.note(
        f"the load generator itself was late by {lag:.1f} ms (p99), with at most {seen.waiting} "
        "requests waiting for a connection; both are in the figures above"
    )
    verdicts.note(
        f"cores used: {seen.cores[0]:.2f} by the service, {seen.cores[1]:.2f} by the load generator"
    )


def _tell_retry_after(verdicts: Verdicts, seen: Overload) -> None:
    told = sorted(seen.single_log.bins(lambda s: s in (429, 503)).values())
    errors = retry_after_errors(seen.single_log, seen.single_log)
    errors += retry_after_errors(seen.bulk_log, seen.single_log)
    if not errors:
        verdicts.check("Retry-After: nobody was sent away beside one let in", False)
        return
    middle = median(errors)
    verdicts.check(
        f"Retry-After off the real wait by {middle:.0%} (median of {len(errors)} tenths of a "
        f"second; p90 {quantile_of(errors, 0.9):.0%}; told {told[len(told) // 2]:.2f} s; "
        "within 30 %)",
        middle <= 0.3,
    )
    for when, back in (("during", seen.back_during), ("after", seen.back_after)):
        asked = sum(back.statuses.values())
        verdicts.note(
            f"came back {when} the load as told: {asked}, let in {back.ok / max(asked, 1):.0%}"
        )


def _tell_memory(verdicts: Verdicts, rss: list[int]) -> None:
    start, middle, end = (rss[i] / 2**20 for i in (0, len(rss) // 2, -1))
    drift = end / middle - 1
    verdicts.check(
        f"resident memory {start:.0f} MiB at the start, {middle:.0f} in the middle, {end:.0f} at "
        f"the end, {max(rss) / 2**20:.0f} at most: {drift:+.1%} from the middle on (at most 2 %)",
        drift <= 0.02,
    )


def main(
    seconds: Annotated[float, typer.Option(help="Of overload, after it has settled.")] = 180,
) -> None:
    """Measure the capacity, then ask for five times as much."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the service inherits it
    env = {**os.environ, "NOISEWELL_IMAGE_CACHE_BYTES": "0"}  # which fills up meanwhile
    with (
        tempfile.TemporaryDirectory(prefix="noisewell-overload-") as scratch,
        service(Path(scratch) / "data", env) as child,
    ):

        async def measure() -> tuple[Capacity, Overload]:
            await fetch(child.target, child.target.get("/health/live"))
            capacity = await measure_capacity(child.target)
            return capacity, await overload(child, capacity, seconds)

        capacity, seen = run(measure())
        verdicts = Verdicts()
        tell(verdicts, capacity, seen)
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
