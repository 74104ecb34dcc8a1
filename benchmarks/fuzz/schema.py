"""Owns the schema part: schemathesis over the whole OpenAPI, with all its checks.

It is a command of its own (`pip install '.[fuzz]'`), told by schemathesis.toml which answers are as
they should be, and run in rounds, each from another seed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.fuzz.findings import Findings
from benchmarks.fuzz.house import ROOT, House
from benchmarks.fuzz.orders import KEY
from benchmarks.fuzz.raw import tell_house

CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = "benchmarks.fuzz.untargeted"
FEWEST, MOST = 10, 100  # examples of each operation in a round
OPERATIONS, FROM_SCHEMA = 40, 1_400  # about; cases that follow from the schema alone
MAX_ROUNDS = 50
_LOOK_SEC = 1.0


@dataclass
class _Seen:
    """What the report of a round has told by now."""

    report: Path
    cases: int = 0
    at: int = 0
    labels: set[str] = field(default_factory=set[str])

    def look(self) -> int:
        """Cases that were not told before."""
        if not self.report.exists():
            return 0
        with self.report.open("rb") as lines:
            lines.seek(self.at)
            new = lines.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        before = self.cases
        for line in whole.splitlines():
            self._add(json.loads(line))
        return self.cases - before

    def _add(self, event: dict[str, Any]) -> None:
        recorder = event.get("ScenarioFinished", {}).get("recorder", {})
        self.cases += len(recorder.get("interactions") or ())
        self.labels.add(recorder.get("label", ""))


@dataclass(frozen=True)
class _Round:
    """One run of schemathesis, with `examples` of each operation."""

    number: int
    seed: int
    examples: int

    @property
    def phases(self) -> str:
        """What follows from the schema alone is the same each time, so the first round has it."""
        return "fuzzing" if self.number else "examples,coverage,fuzzing,stateful"


def fuzz_schema(
    house: House, findings: Findings, progress: Progress, cases: int, seed: int, end: float
) -> None:
    """At least `cases` cases. end: as of `fuzz_raw`; a round under way is broken off."""
    st, began, done, number = command(), time.monotonic(), 0, 0
    labels: set[str] = set()
    tell = partial(progress.advance, progress.add_task("schema", total=cases))
    while done < cases and number < MAX_ROUNDS and time.monotonic() < end:
        house.furnish()
        left = cases - done - (0 if number else FROM_SCHEMA)
        examples = min(MOST, max(FEWEST, left // OPERATIONS))
        seen = _Seen(house.folder / f"round-{number}.ndjson")
        _look_at(findings, house, _Round(number, seed + number, examples), seen, st, tell, end)
        done, labels, number = done + seen.cases, labels | seen.labels, number + 1
    told = f"{time.monotonic() - began:.0f} s, {number} rounds from seed {seed}"
    operations = len(labels - {"", "Stateful tests"})
    findings.add("schema", f"{done:,} cases, {operations} operations", told, done >= cases)
    tell_house(findings, "schema", house)


def _look_at(
    findings: Findings,
    house: House,
    round_: _Round,
    seen: _Seen,
    st: str,
    tell: Callable[[int], None],
    end: float,
) -> None:
    """Run it, and keep what it said if that was no good."""
    said = house.folder / "schemathesis.txt"
    if _run(st, house, round_, seen.report, said, lambda: tell(seen.look()), end):
        path = findings.keep(f"schema-seed-{round_.seed}", said.read_bytes())
        findings.add("schema", f"seed {round_.seed}", f"failures, see {path}", False)


def command() -> str:
    """Raises FileNotFoundError, which says what to install."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("st", path=os.pathsep.join((beside, os.defpath)))
    if found is None:
        raise FileNotFoundError("schemathesis is not installed; pip install '.[fuzz]'")
    return found


def _run(
    st: str,
    house: House,
    round_: _Round,
    report: Path,
    said: Path,
    look: Callable[[], None],
    end: float,
) -> int:
    """Its exit code. look: is called every second; end: when it is killed."""
    options = {
        "--header": f"Authorization: Bearer {KEY}",
        "--phases": round_.phases,
        "--seed": str(round_.seed),
        "--max-examples": str(round_.examples),
        "--report": "ndjson",
        "--report-ndjson-path": str(report),
        "--output-sanitize": "false",
    }
    words = [word for pair in options.items() for word in pair]
    url = f"http://127.0.0.1:{house.target.port}/openapi.json"
    arguments = (st, "--config-file", str(CONFIG), "run", url, "--continue-on-failure", *words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": HOOKS}
    with said.open("wb") as out:
        process = subprocess.Popen(
            arguments, env=environment, stdout=out, stderr=out, cwd=house.folder / "cwd"
        )
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SEC)
            look()
            if time.monotonic() > end:
                process.kill()
    return process.returncode
