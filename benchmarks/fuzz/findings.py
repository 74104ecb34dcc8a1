"""Owns what fuzzing found: kept as files from which it can be repeated, and told in one table."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.bench.wire import Answer
from benchmarks.fuzz.shots import Shot

DELIBERATE = (503, 507)
_CODE = re.compile(rb'"code": ?"[a-z_]+"')

_FRAME = re.compile(r'File "([^"]+)", line ([0-9]+)')
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_NO_HTTP = b"Invalid HTTP request received."  # by the server, below the application


@dataclass(frozen=True)
class Line:
    """A line of the table: what was looked at, what came of it, whether that is as it should be."""

    part: str
    what: str
    found: str
    good: bool


@dataclass
class Findings:
    """Lines as they come; files go to `folder`."""

    folder: Path
    lines: list[Line] = field(default_factory=list[Line])

    def add(self, part: str, what: str, found: str, good: bool = True) -> None:
        self.lines.append(Line(part, what, found, good))

    def keep(self, name: str, data: bytes) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')[:80]}.bin"
        path.write_bytes(data)
        return path

    @property
    def bad(self) -> int:
        return sum(not line.good for line in self.lines)

    def show(self, console: Console) -> None:
        table = Table("part", "looked at", "found", "")
        for line in self.lines:
            table.add_row(line.part, line.what, line.found, "ok" if line.good else "WRONG")
        console.print(table)


def wrong(shot: Shot, answer: Answer) -> str | None:
    """What no answer to anything may be: an error of the service, or one without a code."""
    if answer.status < 400:
        return None
    coded = _CODE.search(answer.body) or shot.methods[:1] == (b"HEAD",) or not answer.body
    if answer.status >= 500 and not (answer.status in DELIBERATE and coded):
        return f"answered {answer.status}"
    if not coded and answer.body != _NO_HTTP:
        return f"answered {answer.status} without a code: {answer.body[:40]!r}"
    return None


def tracebacks(log: Path) -> Counter[str]:
    """Exceptions in the service's log, and whatever else it holds that is no event: by what they
    say and where they were raised."""
    found: Counter[str] = Counter()
    with log.open("r", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (told := _trouble(line)) is not None:
                found[told] += 1
    return found


def _trouble(line: str) -> str | None:
    try:
        event = json.loads(line)
    except ValueError:
        return line.strip()[:200] or None
    exception = event.get("exception")
    if exception is None:
        return event["event"] if event.get("level") == "critical" else None
    frames = _FRAME.findall(exception)
    last = exception.strip().splitlines()[-1]
    at = next(
        (f"{Path(file).name}:{line}" for file, line in reversed(frames) if "app/" in file), ""
    )
    return f"{_ADDRESS.sub('0x…', last)[:200]} ({at or event['event']}, {event.get('path', '')})"
