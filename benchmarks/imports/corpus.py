"""Owns the hand-made corpus: files built byte by byte, and whether each got its verdict."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice

from rich.console import Console
from rich.table import Table

from benchmarks.imports.batches import Importer, Tally, Verdict
from benchmarks.imports.handmade.case import Case
from benchmarks.imports.handmade.jpeg import jpegs
from benchmarks.imports.handmade.others import others
from benchmarks.imports.handmade.png import pngs
from benchmarks.imports.handmade.tiff import tiffs

PER_BATCH = 100
ALLOWED = {
    "taken": {"accept", "convert"},
    "convert": {"convert"},
    "reject": {"reject"},
    "any": {"accept", "convert", "reject"},
}


def all_cases() -> Iterator[Case]:
    """More than a thousand; some take seconds to build."""
    return chain(pngs(), jpegs(), tiffs(), others())


def judged(importer: Importer, cases: Iterator[Case]) -> list[str]:
    """Import cases in batches, print what became of them; returns what was wrong."""
    tally, wrong, counts = Tally(), list[str](), Counter[tuple[str, str]]()
    while batch := list(islice(cases, PER_BATCH)):
        files = {f"all/{case.name}": case.data for case in batch}
        assert len(files) == len(batch), "two cases have one name"
        found = importer(files, tally)
        for case in batch:
            verdict = found.get(f"all/{case.name}", Verdict(case.name, "none"))
            counts[case.expected, verdict.verdict] += 1
            wrong += unexpected(case, verdict)
            if verdict.killed:
                print(f"cost a worker: {case.name}: {verdict.why}")
    Console().print(table(counts))
    print("\n".join(f"corpus: {line}" for line in tally.told()))
    return [*tally.wrong, *wrong]


def unexpected(case: Case, verdict: Verdict) -> Iterator[str]:
    """A sentence if that is not the verdict that the case has to have."""
    told = f"{case.name}: {verdict.verdict} ({verdict.why})"
    if verdict.verdict not in ALLOWED[case.expected]:
        yield f"{told}, expected {case.expected}"
    elif not re.search(case.said, verdict.why):
        yield f"{told}, expected words like {case.said!r}"


def table(counts: Counter[tuple[str, str]]) -> Table:
    told = Table("expected", "accept", "convert", "reject", "none")
    for expected in ALLOWED:
        row = (counts[expected, verdict] for verdict in ("accept", "convert", "reject", "none"))
        told.add_row(expected, *(f"{count:,}" for count in row))
    return told
