"""Owns the paths part: texts that try to leave a folder, in every text that a request brings.

Canaries lie outside the data folder, behind a link on the shelf that may be imported, and in it,
where nothing serves them. What they say must be in no answer, nobody may read or change
them, and no file may appear where none belongs.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.progress import Progress

from app.bench.wire import Answer
from benchmarks.fuzz.findings import Findings, wrong
from benchmarks.fuzz.house import House
from benchmarks.fuzz.orders import HEADERS, Input, Order, inputs
from benchmarks.fuzz.payloads import payloads
from benchmarks.fuzz.pump import Tally
from benchmarks.fuzz.raw import SLICE, orders_of, pour, tell, tell_house
from benchmarks.fuzz.shots import Shot, aim

SECRET = b"the canary sings 6f1d0c5b"
NAME = "canary.txt"
_LONG_AGO = 1_000_000_000
# What the service makes in its folder; nothing else may appear there.
_OURS = re.compile(
    r"(datasets|uploads|runs|models|evaluators|tmp|serve\.lock|pressure|keys.*|noisewell\.sqlite3(-wal|-shm)?)"
    r"|(datasets|uploads)/\.?ds_[0-9a-z]+(\.deleted)?(\.tmp)?(\.[a-z]+)*(/.*)?"
)


@dataclass(frozen=True)
class Canary:
    """A file that nobody may touch, and how it was left."""

    path: Path
    atime_ns: int
    mtime_ns: int

    @staticmethod
    def put(folder: Path) -> "Canary":
        """Read long before it was written, so that every file system notes when it is read."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        path.write_bytes(SECRET)
        os.utime(path, (_LONG_AGO, _LONG_AGO + 10))
        stat = path.stat()
        return Canary(path, stat.st_atime_ns, stat.st_mtime_ns)

    def harm(self) -> str | None:
        """What was done to it."""
        if not self.path.exists():
            return "gone"
        stat = self.path.stat()
        if stat.st_mtime_ns != self.mtime_ns or stat.st_size != len(SECRET):
            return "written"
        return "read" if stat.st_atime_ns != self.atime_ns else None


def fuzz_paths(
    house: House, findings: Findings, progress: Progress, count: int, seed: int, end: float
) -> None:
    """`count` payloads in every text of every route. end: as of `fuzz_raw`."""
    if _read(Canary.put(house.folder / "probe")).harm() != "read":
        findings.add("paths", "when files are read", "this file system does not note it", False)
    canaries = [Canary.put(house.folder / "outside"), Canary.put(house.data_dir)]
    (house.folder / "shelf" / "link").symlink_to(house.folder / "outside")
    targets = [str(canary.path) for canary in canaries] + [NAME, f"outside/{NAME}", f"data/{NAME}"]
    texts = payloads(targets, count, seed)
    house.furnish()
    before = files_of(house)
    places = places_of(orders_of(house))
    task = progress.add_task("paths", total=len(texts) * len(places))
    began, tally, port = time.monotonic(), Tally(), house.target.port
    every = shots(places, texts, port)
    while time.monotonic() < end and (some := list(islice(every, SLICE))):
        tally.add(pour(house.target, iter(some), lambda: progress.advance(task), check))
        house.furnish()
    tell(findings, "paths", tally, time.monotonic() - began, len(texts) * len(places))
    tell_canaries(findings, canaries, len(texts), len(places))
    new = sorted(p for p in files_of(house) - before if not is_ours(p))
    findings.add("paths", "new files where none belong", f"{len(new)} {new[:3] or ''}", not new)
    tell_house(findings, "paths", house)


def _read(canary: Canary) -> Canary:
    canary.path.read_bytes()
    return canary


def check(shot: Shot, answer: Answer) -> str | None:
    if SECRET in answer.body or SECRET in answer.head:
        return "a canary's words in an answer"
    return wrong(shot, answer)


def places_of(orders: Sequence[Order]) -> list[Input]:
    """Every text of every route once; headers that are no route's own once in all."""
    found: dict[tuple[str, str], Input] = {}
    for order in orders:
        for place in inputs(order):
            name = place.name.removeprefix("headers.")
            found.setdefault(("" if name in HEADERS else order.name, place.name), place)
    return list(found.values())


def shots(places: Sequence[Input], texts: Sequence[bytes], port: int) -> Iterator[Shot]:
    for number, (place, text) in enumerate((p, t) for t in texts for p in places):
        yield aim(number, place.put(text).bytes(port))


def tell_canaries(findings: Findings, canaries: Sequence[Canary], texts: int, places: int) -> None:
    harmed = [
        f"{canary.path.parent.name}: {harm}" for canary in canaries if (harm := canary.harm())
    ]
    told = f"{len(canaries)} canaries, harmed: {harmed or 'none'}"
    findings.add("paths", f"{texts:,} payloads × {places} inputs", told, not harmed)


def files_of(house: House) -> set[str]:
    """Everything there is in the scratch folder, relative to it."""
    return {str(path.relative_to(house.folder)) for path in house.folder.rglob("*")}


def is_ours(path: str) -> bool:
    """Whether the service may have made it."""
    return path.startswith("data/") and _OURS.fullmatch(path.removeprefix("data/")) is not None
