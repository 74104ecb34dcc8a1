"""Owns what a run says while it works: a bar or plain lines, progress.json and stats.jsonl."""

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from training.model.files import write_json

_PLAIN_LINE_SEC = 10.0


class Reporter:
    """Tells people on stderr, and programs by files in the run folder.

    progress.json: {"phase", "cur_nimg", "total_nimg", "images_per_sec", "eta_sec"}, replaced whole.
    stats.jsonl: one line a tick, appended.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._last_line = 0.0
        self._training: dict[str, float] = {}

    def __enter__(self) -> "Reporter":
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line for a person to read."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def phase(self, name: str) -> None:
        """A new part of the run has begun: importing, measuring, training, evaluating, …"""
        self._phase = name
        self._last_line = 0.0
        if self._bar is not None:
            if self._task is not None:
                self._bar.stop_task(self._task)
            self._task = self._bar.add_task(name, total=None, detail="")
        else:
            self.say(name)
        self._write_progress()

    def advance(self, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` of this phase."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, detail=detail)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_SEC:
            self._last_line = time.monotonic()
            self.say(f"{self._phase} {100 * done / max(total, 1):5.1f} % {detail}".rstrip())

    def tick(
        self,
        cur_nimg: int,
        total_nimg: int,
        elapsed_sec: float,
        speed: float,
        stats: dict[str, Any],
    ) -> None:
        """A moment of training; `speed` in images per second since the last one."""
        eta_sec = (total_nimg - cur_nimg) / speed if speed > 0 else 0.0
        self._training = {
            "cur_nimg": cur_nimg,
            "total_nimg": total_nimg,
            "images_per_sec": round(speed, 1),
            "eta_sec": round(eta_sec, 1),
        }
        rounded = {name: round(value, 5) for name, value in stats.items()}
        line = {**self._training, "elapsed_sec": round(elapsed_sec, 2), **rounded}
        with (self._run_dir / "stats.jsonl").open("a") as f:
            f.write(json.dumps(line) + "\n")
        self._write_progress()
        detail = f"{cur_nimg / 1000:.1f}/{total_nimg / 1000:.1f} kimg, {speed:.0f} images/s"
        if self._bar is None:
            detail += f", {eta_sec:.0f} s left"
        self.advance(cur_nimg, total_nimg, detail)

    def _write_progress(self) -> None:
        write_json(self._run_dir / "progress.json", {"phase": self._phase, **self._training})
