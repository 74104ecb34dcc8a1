"""Owns what a worker reads of a run folder: progress, events, the result, the end of the log."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

MAX_FILE_BYTES = 1_000_000
LOG_TAIL_BYTES = 2_000
LAST_ERROR_BYTES = 50_000

Event = tuple[str, dict[str, Any]]


class RunFolder:
    """A folder that a trainer writes to while it is read here.

    told: how many lines of events.jsonl are known to the job store already.
    """

    def __init__(self, path: Path, told: int) -> None:
        self.path = path
        self._told = told
        self._offset: int | None = None  # in events.jsonl, behind the lines told
        self._progress: bytes | None = None
        self._log_start = 0

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def exit_code_file(self) -> Path:
        """Where the first of several processes that ends leaves its exit code."""
        return self.path / "exit_code"

    def begin(self) -> None:
        """Make the folder if need be; what the log holds now is of earlier attempts."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.exit_code_file.unlink(missing_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0

    def new_progress(self) -> dict[str, Any] | None:
        """progress.json if it changed since the last call and can be read."""
        raw = _read(self.path / "progress.json")
        if raw is None or raw == self._progress:
            return None
        self._progress = raw
        return _parse_object(raw)

    def result(self) -> dict[str, Any] | None:
        """result.json, or None if it is missing or broken."""
        raw = _read(self.path / "result.json")
        return None if raw is None else _parse_object(raw)

    def exit_code(self, code: int) -> int:
        """How the first of several processes ended whose launcher ended with `code`."""
        raw = _read(self.exit_code_file)
        return int(raw) if code and raw is not None and raw.isdigit() else code

    def tell_events(self, tell: Callable[[int, list[Event]], bool]) -> None:
        """Call `tell` with the whole lines of events.jsonl behind those told, and their count then.

        If it says True they are told. A line is at most MAX_FILE_BYTES long, and so is what is told
        at once.
        """
        path = self.path / "events.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as f:
            if self._offset is None:
                self._offset = sum(len(f.readline()) for _ in range(self._told))
            f.seek(self._offset)
            raw = f.read(MAX_FILE_BYTES)
        whole = raw[: raw.rfind(b"\n") + 1]
        events = [_event(line) for line in whole.splitlines()]
        if events and tell(self._told + len(events), events):
            self._told += len(events)
            self._offset += len(whole)

    def log_tail(self, limit: int = LOG_TAIL_BYTES) -> str:
        """The end of what this attempt logged, at most `limit` bytes, from where a line begins."""
        with self.log.open("rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(self._log_start, size - limit))
            text = f.read(limit).decode("utf-8", "replace")
        cut = size - self._log_start > limit and "\n" in text
        return (text.split("\n", 1)[1] if cut else text).strip()

    def error_line(self) -> str:
        """What follows `Error:` in this attempt's last such line; a launcher writes behind it."""
        for line in reversed(self.log_tail(LAST_ERROR_BYTES).splitlines()):
            if line.startswith("Error:"):
                return line.removeprefix("Error:").strip()
        return f"The trainer refused its input: {self.log_tail()}"


def _event(line: bytes) -> Event:
    data = _parse_object(line) or {"event": "unreadable"}
    return str(data.pop("event", "unreadable")), data


def _read(path: Path) -> bytes | None:
    """The content of a small file that may not be there yet."""
    try:
        with path.open("rb") as f:
            return f.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None


def _parse_object(raw: bytes) -> dict[str, Any] | None:
    """A JSON object without NaN or infinities, None if `raw` is something else."""
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except ValueError:
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
