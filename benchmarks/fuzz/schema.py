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
EXAMPLES = 100  # of each operation in a round
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


def fuzz_schema(
    house: House, findings: Findings, progress: Progress, cases: int, seed: int, end: float
) -> None:
    """At least `cases` cases. The first round has those that follow from the schema alone, too.

    end: as of `fuzz_raw`; a round under way is broken off.
    """
    st, began, done, labels, number = command(), time.monotonic(), 0, set[str](), 0
    task = progress.add_task("schema", total=cases)
    for number in range(MAX_ROUNDS):
        house.furnish()
        phases = "fuzzing" if number else "examples,coverage,fuzzing,stateful"
        seen = _Seen(house.folder / f"round-{number}.ndjson")
        tell = partial(progress.advance, task)
        code = _round(st, house, seen, phases, seed + number, tell, end)
        done, labels = done + seen.cases, labels | seen.labels
        if code:
            said = (house.folder / "schemathesis.txt").read_bytes()
            path = findings.keep(f"schema-seed-{seed + number}", said)
            findings.add("schema", f"seed {seed + number}", f"failures, see {path}", False)
        if done >= cases or time.monotonic() > end:
            break
    told = f"{time.monotonic() - began:.0f} s, {number + 1} rounds from seed {seed}"
    operations = len(labels - {"", "Stateful tests"})
    findings.add("schema", f"{done:,} cases, {operations} operations", told, done >= cases)
    tell_house(findings, "schema", house)


def command() -> str:
    """Raises FileNotFoundError, which says what to install."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("st", path=os.pathsep.join((beside, os.defpath)))
    if found is None:
        raise FileNotFoundError("schemathesis is not installed; pip install '.[fuzz]'")
    return found


def _round(
    st: str,
    house: House,
    seen: _Seen,
    phases: str,
    seed: int,
    tell: Callable[[int], None],
    end: float,
) -> int:
    """Its exit code; what it says is in schemathesis.txt."""
    url = f"http://127.0.0.1:{house.target.port}/openapi.json"
    options = {
        "--header": f"Authorization: Bearer {KEY}",
        "--phases": phases,
        "--seed": str(seed),
        "--max-examples": str(EXAMPLES),
        "--report": "ndjson",
        "--report-ndjson-path": str(seen.report),
        "--output-sanitize": "false",
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": HOOKS}
    words = [word for pair in options.items() for word in pair]
    arguments = (st, "--config-file", str(CONFIG), "run", url, "--continue-on-failure", *words)
    with (house.folder / "schemathesis.txt").open("wb") as said:
        process = subprocess.Popen(
            arguments, env=environment, stdout=said, stderr=said, cwd=house.folder / "cwd"
        )
        while process.poll() is None:
            try:
                process.wait(_LOOK_SEC)
            except subprocess.TimeoutExpired:
                tell(seen.look())
            if time.monotonic() > end:
                process.kill()
    tell(seen.look())
    return process.returncode
