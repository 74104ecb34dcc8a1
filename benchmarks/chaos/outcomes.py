"""Owns what became of each fault, and the journal that a campaign goes on from."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

Key = tuple[str, str, str]

BROKEN = "code broken on purpose"


@dataclass(frozen=True)
class Outcome:
    """What one fault, or `cases` of a kind, did to an operation.

    point: where it struck. lost: acknowledged and not there. twice: in effect more than once. half:
    artefacts that a reader could see and that were not whole. wrong: whatever else is not as it
    should be, in words. recovery_sec: until all went on, None where nothing had to.
    """

    fault: str
    operation: str
    point: str
    cases: int = 1
    lost: int = 0
    twice: int = 0
    half: int = 0
    leftovers: int = 0
    recovery_sec: float | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.fault, self.operation, self.point

    @property
    def good(self) -> bool:
        return not (self.lost or self.twice or self.half or self.wrong)


@dataclass(frozen=True)
class Row:
    """All outcomes of one fault on one operation."""

    fault: str
    operation: str
    outcomes: list[Outcome]

    def total(self, name: str) -> int:
        """The sum of a count; of `wrong`, how many cases had something."""
        values = [getattr(outcome, name) for outcome in self.outcomes]
        return sum(bool(v) if isinstance(v, list) else v for v in values)

    @property
    def recoveries_sec(self) -> list[float]:
        return [o.recovery_sec for o in self.outcomes if o.recovery_sec is not None]

    @property
    def recovery(self) -> tuple[float, float] | None:
        """Median and largest, in seconds."""
        seconds = self.recoveries_sec
        return (median(seconds), max(seconds)) if seconds else None


def rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """One a fault and operation, in the order they came up first."""
    found: dict[tuple[str, str], Row] = {}
    for outcome in outcomes:
        key = (outcome.fault, outcome.operation)
        found.setdefault(key, Row(*key, [])).outcomes.append(outcome)
    return list(found.values())


class Journal:
    """Outcomes on the disk, a line each: a campaign that was stopped goes on from there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.outcomes: list[Outcome] = []
        self._known: dict[Key, Outcome] = {}

    @classmethod
    def open(cls, path: Path, *, fresh: bool) -> Self:
        """What is there already counts, unless fresh; a last line cut off by a kill does not."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        journal = cls(path)
        whole = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in whole if line.endswith("\n")]
        path.write_text("".join(whole), "utf-8")
        for line in whole:
            journal._keep(Outcome(**json.loads(line)))
        return journal

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def add(self, outcome: Outcome) -> None:
        line: dict[str, Any] = asdict(outcome)
        with self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
        self._keep(outcome)

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._known[outcome.key] = outcome
