"""Owns docs/chaos.md: what was tried, what came of it, and how to do it again."""

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chaos.outcomes import BROKEN, Outcome, Row, rows

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "chaos.md"
_INTRODUCTION = """\
# Chaos

What is promised when something is killed or the disk fails, tried out. This page is written by

```
make chaos
make chaos-full
```

The first samples each kind of fault, the second tries them all; stopped and started again, it
goes on where it was (`ARGS=--fresh` begins anew). Both need Linux and `strace`. The exit code is 1
if anything below is not 0.

- **lost**: acknowledged, and not there afterwards. **twice**: in effect more than once. **half**: a
  version, an alias or a saved state that a reader could see and that was not whole.
- **wrong**: anything else, such as two champions, a process that ended by an unexpected exception,
  or an operation that could not be done again.
- **recovery**: seconds until the operation was done again in a fresh process; for killed processes,
  until that role did its work again.

A kill at a system call strikes on entering it, so that it does not happen; the calls of an
operation are all those that can change a file, and the one that acknowledges. An error is returned
once, or by every call of that kind from there on.
"""
_ELSEWHERE = """\
## Faults that are tried elsewhere

| fault | by |
|---|---|
| collapse of a training | `benchmarks/rollback.py` ([measuring](measuring.md)) |
| out of memory | `tests/app/test_life.py` (serving), `tests/training/test_steps.py` |
| slow heads, bodies and readers | `benchmarks/slow_clients.py` ([benchmarks](benchmarks.md)) |
| overload for minutes | `benchmarks/overload.py`, missed ([benchmarks](benchmarks.md)) |
| hostile images and zips | `python -m benchmarks.imports.mutated`, `….hostile_archives` |
| hostile parameters, HTTP, names, keys | `make fuzz` ([fuzz](fuzz.md)), `tests/app/test_doors.py` |
"""
_CAN_FAIL = """\
## The checks can fail

The code is broken on purpose, in the process that is tried; each breakage has to be found.
"""


def write_page(outcomes: Sequence[Outcome], command: str, minutes: float, commit: str) -> None:
    """Replace the page."""
    PAGE.write_text(page(outcomes, command, minutes, commit), "utf-8")


def page(outcomes: Sequence[Outcome], command: str, minutes: float, commit: str) -> str:
    """The whole document."""
    tried = [outcome for outcome in outcomes if outcome.fault != BROKEN]
    broken = [outcome for outcome in outcomes if outcome.fault == BROKEN]
    cases = sum(outcome.cases for outcome in tried)
    bad = [outcome for outcome in outcomes if not outcome.good]
    parts = [
        _INTRODUCTION,
        f"## {command}, {datetime.now(UTC):%Y-%m-%d}\n",
        f"{os.cpu_count()} virtual cores, commit `{commit}`, {minutes:.0f} minutes:"
        f" {cases:,} cases, {len(bad)} not as promised.\n",
        table(rows(tried)),
        _CAN_FAIL,
        *(f"- {o.operation}: found in {o.point} at case {o.cases}" for o in broken if o.good),
    ]
    parts += ["", _ELSEWHERE]
    if bad:
        parts += ["\n## Not as promised\n", *map(failure, bad)]
    return "\n".join(parts).rstrip() + "\n"


def table(found: Sequence[Row]) -> str:
    """A line a fault and operation."""
    lines = [
        "| fault | operation | cases | lost | twice | half | wrong | recovery, median | largest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        counts = " | ".join(
            f"{row.total(name):,}" for name in ("cases", "lost", "twice", "half", "wrong")
        )
        recovery = row.recovery
        seconds = " | ".join(f"{s:.2f} s" for s in recovery) if recovery else " | "
        lines.append(f"| {row.fault} | {row.operation} | {counts} | {seconds} |")
    return "\n".join(lines) + "\n"


def failure(outcome: Outcome) -> str:
    """All that is known of a broken promise."""
    counts = ", ".join(f"{name} {getattr(outcome, name)}" for name in ("lost", "twice", "half"))
    told = "\n".join(outcome.wrong) or "nothing else"
    where = f"{outcome.fault} in {outcome.operation} at {outcome.point}"
    return f"{where}: {counts}\n\n```\n{told}\n```\n"


def commit_of_code() -> str:
    """The last commit of what is tried, `+` if it was changed since, `unknown` outside of git."""
    what = ["--", "app", "training", "benchmarks/chaos"]
    head = _git("log", "-1", "--format=%h", *what)
    return f"{head}+" if head and _git("status", "--porcelain", *what) else head or "unknown"


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return found.stdout.strip()
