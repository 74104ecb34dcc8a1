"""Owns the other benchmarks that break things: how much of each a campaign asks for."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.outcomes import Outcome
from benchmarks.chaos.report import ROOT

TOLD_LINES = 40


@dataclass(frozen=True)
class Companion:
    """A command that takes a number of cases and ends with 1 if one of them went wrong."""

    fault: str
    operation: str
    command: Sequence[str]
    full: int
    sample: int


COMPANIONS = (
    Companion(
        "crashes and a jumping clock, simulated",
        "store and registry",
        ("-m", "benchmarks.simulation", "--processes", "2", "--runs"),
        full=100_000,
        sample=500,
    ),
    Companion(
        "every bit flipped, files mutated",
        "a version",
        ("benchmarks/mutations.py", "--n"),
        full=100_000,
        sample=1_000,
    ),
    Companion(
        "NaN in G, D, data or optimizer",
        "a training",
        ("benchmarks/faults.py", "--n"),
        full=100,
        sample=4,
    ),
    Companion(
        "half of the clients vanish",
        "a service",
        ("benchmarks/departures.py", "--requests"),
        full=10_000,
        sample=500,
    ),
    Companion(
        "swaps under load",
        "a service",
        ("benchmarks/swaps.py", "--swaps"),
        full=1_000,
        sample=40,
    ),
    Companion(
        "stopped past its lease and continued",
        "a worker",
        ("benchmarks/stopped_worker.py", "--tries"),
        full=10,
        sample=2,
    ),
    Companion(
        "SIGTERM under load",
        "a service",
        ("-m", "benchmarks.sigterm", "--rounds"),
        full=50,
        sample=3,
    ),
    Companion(
        "jobs and swaps under load, for minutes",
        "a service",
        ("-m", "benchmarks.soak", "--minutes"),
        full=30,
        sample=3,
    ),
)


def run_companions(campaign: Campaign) -> None:
    """Each once, with as many cases as the campaign is large."""
    with campaign.part("other benchmarks", len(COMPANIONS)) as part:
        for companion in COMPANIONS:
            count = campaign.of(companion.full, companion.sample)
            key = (companion.fault, companion.operation, f"{count:,} cases")
            part.case(key, partial(run, companion, count))


def run(companion: Companion, count: int) -> Outcome:
    """What it said is kept only if something went wrong."""
    command = [sys.executable, *companion.command, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    told = [*done.stdout.splitlines(), *done.stderr.splitlines()][-TOLD_LINES:]
    wrong = [] if done.returncode == 0 else [f"exit code {done.returncode}", *told]
    point = f"{count:,} cases"
    return Outcome(companion.fault, companion.operation, point, cases=count, wrong=wrong)
