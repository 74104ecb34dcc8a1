"""Owns what a run says while it works: a bar or plain lines, progress.json and stats.jsonl."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
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

from training.metrics.evaluation import told
from training.model.files import write_atomic, write_json

_PLAIN_LINE_SEC = 10.0


class Reporter:
    """Tells people on stderr, and programs by files in the run folder.

    progress.json: {"phase", "cur_nimg", "total_nimg", "images_per_sec", "eta_sec", "metrics"},
    replaced whole. stats.jsonl: one line a tick; metrics.jsonl: one a measurement; events.jsonl:
    what happened, {"event", "cur_nimg", "elapsed_sec", …}, with a "text" where a person should know
    of it. All are appended to, also by a resumed run, and no line of events.jsonl is ever taken
    back. A reporter that is not `speaking` does none of it: of several processes, one does.
    """

    def __init__(
        self, run_dir: Path, speaking: bool = True, board: Callable[..., None] | None = None
    ) -> None:
        self._run_dir = run_dir
        self._speaking = speaking
        self._board = board
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._last_line = 0.0
        self._training: dict[str, float] = {}
        self._metrics: dict[str, Any] | None = None

    def __enter__(self) -> "Reporter":
        if self._speaking:
            _drop_torn_line(self._run_dir / "events.jsonl")
        if self._speaking and sys.stderr.isatty():
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
        if not self._speaking:
            return
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
        elif self._speaking and time.monotonic() - self._last_line >= _PLAIN_LINE_SEC:
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
        self._append("stats.jsonl", line)
        if self._board is not None:
            self._board(line)
        self._write_progress()
        detail = f"{cur_nimg / 1000:.1f}/{total_nimg / 1000:.1f} kimg, {speed:.0f} images/s"
        if self._bar is None:
            detail += f", {eta_sec:.0f} s left"
        self.advance(cur_nimg, total_nimg, detail)

    def event(self, kind: str, text: str, cur_nimg: int, elapsed_sec: float) -> None:
        """Something that happened once, for a person and for the report."""
        self.say(text)
        moment = {"cur_nimg": cur_nimg, "elapsed_sec": round(elapsed_sec, 2)}
        self._append("events.jsonl", {**moment, "event": kind, "text": text})

    def measured(self, metrics: dict[str, Any], cur_nimg: int, elapsed_sec: float) -> None:
        """What an evaluation on the way found."""
        self.say(told(metrics))
        moment = {"cur_nimg": cur_nimg, "elapsed_sec": round(elapsed_sec, 2)}
        self._append("metrics.jsonl", {**moment, **metrics})
        self._append("events.jsonl", {**moment, "event": "metrics", **metrics})
        self._metrics = metrics
        self._write_progress()

    def sampled(self, name: str, cur_nimg: int, elapsed_sec: float) -> None:
        """There is a new grid of samples, the file `name` in the run folder."""
        moment = {"cur_nimg": cur_nimg, "elapsed_sec": round(elapsed_sec, 2)}
        self._append("events.jsonl", {**moment, "event": "samples", "file": name})

    def resume(self, cur_nimg: int, elapsed_sec: float) -> None:
        """A run goes on from a saved state."""
        self.forget_after(cur_nimg)
        text = f"resuming at {cur_nimg / 1000:.1f} kimg"
        self.event("resumed", text, cur_nimg, elapsed_sec)

    def forget_after(self, cur_nimg: int) -> None:
        """Drop the statistics of steps that are about to be taken again, and a torn last line."""
        if not self._speaking:
            return
        for name in ("stats.jsonl", "metrics.jsonl"):
            path = self._run_dir / name
            if path.is_file():
                kept = [line for line in _lines(path) if line["cur_nimg"] <= cur_nimg]
                write_atomic(path, "".join(json.dumps(k) + "\n" for k in kept).encode())

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if self._speaking:
            with (self._run_dir / name).open("a") as f:
                f.write(json.dumps(line) + "\n")

    def _write_progress(self) -> None:
        if self._speaking:
            measured = {} if self._metrics is None else {"metrics": self._metrics}
            value = {"phase": self._phase, **self._training, **measured}
            write_json(self._run_dir / "progress.json", value)


def _drop_torn_line(path: Path) -> None:
    """Take back the line that a kill tore, lest the next one is written behind it."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that a kill may have torn."""
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
