"""Owns the proof that damaged and hostile images get a verdict each, and harm nobody (Linux).

    python -m benchmarks.imports.mutated                  20,000 mutations and the corpus: minutes
    python -m benchmarks.imports.mutated --count 1000     each twentieth, and the corpus
    python -m benchmarks.imports.mutated --keep FOLDER    and keep the files that cost a worker
    python -m benchmarks.imports.mutated --service        all of it through a running service

Every good file of `seed_images.py` is cut at every 1 % of its length; the other mutations are drawn
from a seed. Then the corpus of `corpus.py`, whose verdicts are known. The importing process may not
die, and no worker may take 1 GB or 5 s of CPU for an image; a service has to make images all the
while. What is WRONG ends the command with 1.
"""

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.imports.batches import Importer, Tally, by_command
from benchmarks.imports.corpus import all_cases, judged
from benchmarks.imports.seed_images import seed_images
from benchmarks.imports.service_batches import by_service

TOTAL, PER_BATCH = 20_000, 500
PERCENT = range(1, 100)
# What is written over a length: little- and big-endian, of 2 and of 4 bytes.
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 64

Mutate = Callable[[random.Random, bytes, list[bytes]], bytes]


@dataclass(frozen=True)
class Mutation:
    """One damaged file: which one, and what makes it."""

    number: int
    seed_file: str
    kind: str
    data: bytes

    @property
    def name(self) -> str:
        stem, _, suffix = self.seed_file.rpartition(".")
        return f"all/{self.number:05}-{self.kind}-{stem}.{suffix}"


def main(
    count: Annotated[int, typer.Option(min=1, help="Evenly among all.")] = TOTAL,
    seed: int = 7,
    only_corpus: Annotated[bool, typer.Option("--only-corpus")] = False,
    keep: Annotated[Path | None, typer.Option(help="For files that cost a worker.")] = None,
    service: Annotated[bool, typer.Option("--service", help="Upload them to one.")] = False,
) -> None:
    """Import all in batches, print what became of them, and what is WRONG."""
    with by_service() if service else nullcontext(by_command) as importer:
        wrong = [] if only_corpus else mutated(importer, count, seed, keep)
        wrong += judged(importer, all_cases())
    for text in wrong:
        print(f"WRONG: {text}")
    raise typer.Exit(bool(wrong))


def mutated(importer: Importer, count: int, seed: int, keep: Path | None) -> list[str]:
    """Import `count` of TOTAL mutations; returns what was wrong."""
    tally, every = Tally(), TOTAL / min(count, TOTAL)
    numbers = [int(i * every) for i in range(min(count, TOTAL))]
    batches = [numbers[i : i + PER_BATCH] for i in range(0, len(numbers), PER_BATCH)]
    made = Maker(seed)
    for batch in track(batches, "Mutations", console=Console(stderr=True)):
        files = {mutation.name: mutation.data for mutation in map(made.mutation, batch)}
        before = len(tally.killed)
        importer(files, tally)
        for verdict in tally.killed[before:]:
            print(f"cost a worker: {verdict.file}: {verdict.why}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / Path(verdict.file).name).write_bytes(files[verdict.file])
    Console().print(table(tally))
    print("\n".join(f"mutated: {line}" for line in tally.told()))
    return tally.wrong


def table(tally: Tally) -> Table:
    told = Table("format", "accept", "convert", "reject")
    for suffix in sorted({suffix for suffix, _ in tally.by_kind}):
        counts = (tally.by_kind[suffix, verdict] for verdict in ("accept", "convert", "reject"))
        told.add_row(suffix, *(f"{count:,}" for count in counts))
    return told


class Maker:
    """Mutations by their number: the cuts first, then those that are drawn."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._files = seed_images()
        self._names = list(self._files)
        self._all = list(self._files.values())

    def mutation(self, number: int) -> Mutation:
        cuts = len(self._names) * len(PERCENT)
        if number < cuts:
            name = self._names[number // len(PERCENT)]
            percent = PERCENT[number % len(PERCENT)]
            data = self._files[name]
            return Mutation(number, name, f"cut{percent:02}", data[: len(data) * percent // 100])
        rng = random.Random(f"{self._seed} {number}")
        name, mutate = rng.choice(self._names), rng.choice(MUTATIONS)
        data = mutate(rng, self._files[name], self._all)
        return Mutation(number, name, mutate.__name__, data)


def flip(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to eight bits, anywhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_header(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to four bits, where sizes and kinds are told."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(HEADER_BYTES, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def length(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A number of 2 or 4 bytes becomes an extreme one, in the header half of the time."""
    width = rng.choice((2, 4))
    value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
    span = min(2 * HEADER_BYTES, len(data)) if rng.random() < 0.5 else len(data)
    at = rng.randrange(max(1, span - width))
    new = value.to_bytes(width, rng.choice(("little", "big")))
    return data[:at] + new + data[at + width :]


def duplicate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A piece stands there again, up to a hundred times."""
    at, piece = _piece(rng, data)
    times = rng.choice((1, 1, 2, 100))
    return data[:at] + piece * times + data[at:]


def drop(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A piece is gone."""
    at, piece = _piece(rng, data)
    return data[:at] + data[at + len(piece) :]


def fill(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A piece is all zeros, all ones, or noise."""
    at, piece = _piece(rng, data)
    new = rng.choice((bytes(len(piece)), b"\xff" * len(piece), rng.randbytes(len(piece))))
    return data[:at] + new + data[at + len(piece) :]


def splice(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The head of one file and the tail of another, of the same format or not."""
    other = rng.choice(others)
    return data[: rng.randrange(1, len(data))] + other[rng.randrange(len(other)) :]


def swap(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Two pieces change places."""
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _piece(rng: random.Random, data: bytes) -> tuple[int, bytes]:
    at = rng.randrange(len(data))
    return at, data[at : at + rng.choice((1, 2, 4, 16, 64, 1024))]


MUTATIONS: tuple[Mutate, ...] = (
    *(flip, flip_header, length, length, duplicate, drop, fill, splice, swap),
)


if __name__ == "__main__":
    typer.run(main)
