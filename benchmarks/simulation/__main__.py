"""Owns the command that looks for a broken promise in many simulated runs of store and registry.

    python -m benchmarks.simulation --runs 100000      seeds 0 to 99999; stops at the first failure
    python -m benchmarks.simulation --seed 4711        one run again, each operation on a line

A run: the real job store and the real registry, a fake clock, a user and three workers doing random
things in random order. Processes die between and inside of operations, leases run out, and workers
that were taken for dead go on. `invariants.py` says what must hold after every step.
"""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.simulation.invariants import check_step
from benchmarks.simulation.play import play
from benchmarks.simulation.world import opened_world

CHUNK = 100


@dataclass(frozen=True)
class Found:
    """What some runs did, by kind; broken: the seed of the first that failed, and why."""

    seen: Counter[str]
    broken: tuple[int, str] | None = None


def main(
    runs: Annotated[int, typer.Option(min=1, help="How many.")] = 100_000,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the first run.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Replay one run, told.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many work at once.")] = 1,
) -> None:
    """Print what was tried and that every invariant held, or the seed of a run that broke one."""
    if seed is not None:
        exit_if_broken(simulate(range(seed, seed + 1), print))
        return
    began, seen = time.monotonic(), Counter[str]()
    end = first_seed + runs
    chunks = [range(start, min(start + CHUNK, end)) for start in range(first_seed, end, CHUNK)]
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(simulate, chunks)
        for one in track(found, "simulating", len(chunks), console=Console(stderr=True)):
            seen += one.seen
            if one.broken:
                pool.shutdown(cancel_futures=True)
            exit_if_broken(one)
    tell(runs, seen, time.monotonic() - began)


def simulate(seeds: range, tell: Callable[[str], None] | None = None) -> Found:
    """One run after the other, until one fails. tell: hears of each operation."""
    with opened_world(check_step, tell) as world:
        for seed in seeds:
            try:
                play(world, seed)
            except Exception as error:  # noqa: BLE001 (whatever a run raises, it is broken)
                return Found(world.seen, (seed, f"{type(error).__name__}: {error}"))
        return Found(world.seen)


def exit_if_broken(found: Found) -> None:
    if found.broken:
        seed, why = found.broken
        print(f"BROKEN by seed {seed}: {why}")
        print(f"replay it: python -m benchmarks.simulation --seed {seed}")
        raise SystemExit(1)


def tell(runs: int, seen: Counter[str], seconds: float) -> None:
    """How much of each kind was tried."""
    stale = seen.pop("stale writes")
    deaths = sum(count for what, count in seen.items() if what.endswith(": died"))
    for what, count in sorted(seen.items()):
        print(f"{count:>12,}  {what}")
    print(
        f"{runs:,} runs, {seen.total():,} operations, {deaths:,} deaths, {stale:,} of {stale:,}"
        f" stale writes fenced, 0 broken invariants; {seconds / 60:.1f} minutes,"
        f" {runs / seconds:.0f} runs/s"
    )


if __name__ == "__main__":
    typer.run(main)
