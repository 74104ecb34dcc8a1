"""Owns the raw part: valid requests of every route, their bytes changed, sent by the thousand."""

import time
from collections.abc import Callable, Iterator, Sequence

from rich.progress import Progress

from app.bench.load import run
from app.bench.wire import Target
from app.main import create_app
from app.settings import Settings
from benchmarks.fuzz.findings import Findings, tracebacks, wrong
from benchmarks.fuzz.house import House
from benchmarks.fuzz.mutate import Corpus
from benchmarks.fuzz.orders import Order, orders
from benchmarks.fuzz.pump import Check, Pump, Tally
from benchmarks.fuzz.shots import Shot, aim

MAX_GROWTH = 1.05
WARM = 10  # memory is looked at from this part of all on
SLICE = 20_000  # requests until the house is put in order again: some of them delete
LOOKS = 200  # at its memory
TOLD = 10  # of the kinds of tracebacks
MIN_FOR_MEMORY = 20_000  # fewer are over before memory has settled


def orders_of(house: House) -> list[Order]:
    """The valid requests to a house, after it was put in order."""
    values = house.furnish()
    openapi = house.ask(Order("GET", "/openapi.json"))
    return orders(openapi, create_app(Settings(data_dir=house.data_dir)).routes, values)


def corpus_of(house: House) -> Corpus:
    return Corpus(orders_of(house), house.target.port)


def pour(
    target: Target, shots: Iterator[Shot], seen: Callable[[], None], check: Check = wrong
) -> Tally:
    """Send them all. Raises ConnectionError if the service is gone."""

    async def poured() -> Tally:
        return await Pump(target, shots, check, seen).run()

    return run(poured())


def fuzz_raw(
    house: House, findings: Findings, progress: Progress, count: int, seed: int, end: float
) -> None:
    """`count` mutations; the same seed makes the same, but for the ids of jobs.

    end: on the clock of `time.monotonic`, when no more are begun.
    """
    check_originals(house, findings)
    sizes: list[int] = []
    task = progress.add_task("raw", total=count)
    every = max(1, count // LOOKS)

    def seen() -> None:
        progress.advance(task)
        if int(progress.tasks[task].completed) % every == 0:
            sizes.append(house.child.rss_bytes())

    began, tally = time.monotonic(), Tally()
    for start in range(0, count, SLICE):
        if time.monotonic() > end:
            break
        corpus = corpus_of(house)
        some = range(start, min(count, start + SLICE))
        tally.add(pour(house.target, (aim(i, corpus.mutant(seed, i)) for i in some), seen))
    tell(findings, "raw", tally, time.monotonic() - began, count)
    if count >= MIN_FOR_MEMORY:
        tell_memory(findings, "raw", sizes)
    tell_house(findings, "raw", house)


def check_originals(house: House, findings: Findings) -> None:
    """What mutations start from must itself be taken, or they would not get far."""
    originals = corpus_of(house).originals
    tally = pour(house.target, (aim(i, data) for i, data in enumerate(originals)), lambda: None)
    good = sum(n for status, n in tally.statuses.items() if status[0] in "23")
    told = f"{good} answered 2xx or 3xx: {_told(tally)}"
    findings.add("raw", f"{len(originals)} valid requests", told, not tally.troubles)


def tell(findings: Findings, part: str, tally: Tally, seconds: float, count: int) -> None:
    """All of `count` have to be sent, and each trouble is kept."""
    rate = tally.sent / max(seconds, 1e-9)
    told = f"{seconds:.0f} s, {rate:,.0f}/s: {_told(tally)}"
    findings.add(part, f"{tally.sent:,} of {count:,} requests", told, tally.sent == count)
    for kind, times in tally.troubles.most_common():
        shot = tally.worst[kind]
        path = findings.keep(f"{part}-{kind}", shot.data)
        findings.add(part, kind, f"{times} times; smallest (index {shot.index}): {path}", False)


def _told(tally: Tally) -> str:
    return ", ".join(f"{status} × {n:,}" for status, n in sorted(tally.statuses.items()))


def tell_memory(findings: Findings, part: str, sizes: Sequence[int]) -> None:
    first, last = sizes[len(sizes) // WARM], sizes[-1]
    told = (
        f"{first / 2**20:.1f} MiB at a tenth, {last / 2**20:.1f} at the end: × {last / first:.3f}"
    )
    good = last <= MAX_GROWTH * first
    findings.add(part, f"resident memory (× {MAX_GROWTH} at most)", told, good)


def tell_house(findings: Findings, part: str, house: House) -> None:
    """Whether it is still well: it answers, and its log holds no traceback."""
    house.ask(Order("POST", "/v1/images", json={"model": "mnist", "n": 2}))
    status = house.ask(Order("GET", "/v1/status"))
    told = f"{status['phase']}, {status['queued_images']} images wait"
    findings.add(part, "the service afterwards", told, status["phase"] == "ready")
    found = tracebacks(house.log)
    shown = "".join(f"\n{times} × {told}" for told, times in found.most_common(TOLD))
    findings.add(part, "tracebacks in its log", f"{found.total()}{shown}", not found)
