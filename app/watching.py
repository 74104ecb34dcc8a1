"""Owns following a job on a terminal: a bar and lines, lines alone, or JSON for programs."""

import json
import time
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from app.client import Client, StreamedEvent

ENDS = {"succeeded": 0, "failed": 1, "cancelled": 3}  # 2 is an error of the command's own
INTERRUPTED = 130  # as a shell reports what Ctrl-C ended
PLAIN_LINE_SEC = 10.0


class View(AbstractContextManager[Any], Protocol):
    """Something that shows events while it is open."""

    def tell(self, event: StreamedEvent) -> None: ...


def follow(client: Client, path: str, as_json: bool) -> int:
    """Show the job at `path` until it ends; returns the exit code that says how it ended."""
    with JsonLines() if as_json else Screen(Console()) as view:
        for event in client.events(f"{path}/events"):
            view.tell(event)
            if event.type in ENDS:
                return ENDS[event.type]
    raise AssertionError("a stream of events goes on until it raises")


class JsonLines(AbstractContextManager["JsonLines"]):
    """One line an event, as it came."""

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self, event: StreamedEvent) -> None:
        line = {"id": event.id, "type": event.type, "data": event.data}
        print(json.dumps(line), flush=True)


class Screen(AbstractContextManager["Screen"]):
    """A line an event, and under them a bar where there is a terminal to draw it on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("waiting", total=None, detail="")
        self._said_at = float("-inf")
        self._measured = ""

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, event: StreamedEvent) -> None:
        """Show an event, or the newest progress."""
        if event.type == "progress":
            self._progress(event.data)
        else:
            self._event(event.data)

    def _event(self, event: dict[str, Any]) -> None:
        at, kind, data = datetime.fromisoformat(event["at"]), event["type"], event["data"]
        self._measured = _measured(data) or self._measured
        line = f"{at.astimezone():%H:%M:%S}  {kind:<11} {phrase(kind, data)}".rstrip()
        self._console.print(escape(line), highlight=False, soft_wrap=True)
        waiting = {"queued": "waiting", "requeued": "waiting", "paused": "paused"}.get(kind)
        if waiting:
            self._draw(waiting, 0, None, "")

    def _progress(self, progress: dict[str, Any]) -> None:
        self._measured = _measured(progress) or self._measured
        phase = str(progress.get("phase") or "starting")
        done, total = _share(progress)
        detail = "  ".join(filter(None, [*details(progress), self._measured]))
        self._draw(phase, done, total, detail)
        if self._bar.disable and detail and time.monotonic() - self._said_at >= PLAIN_LINE_SEC:
            self._said_at = time.monotonic()
            self._console.print(f"{phase}  {detail}", highlight=False, soft_wrap=True)

    def _draw(self, phase: str, done: int, total: int | None, detail: str) -> None:
        self._bar.tasks[0].total = total  # `update` takes None for no change
        self._bar.update(self._task, description=phase, completed=done, detail=detail)


def describe(job: dict[str, Any]) -> str:
    """How a job stands, in a line."""
    status = job["status"]
    if status == "running" and job["cancel_requested"]:
        return "saving its state, then cancelled"
    if status == "running" and job["pause_requested"]:
        return "saving its state, then paused"
    if status == "running":
        progress = job["progress"] or {}
        done, total = _share(progress)
        percent = [f"{100 * done / total:.0f} %"] if total else []
        return ", ".join(
            ["running", progress.get("phase") or "starting", *percent, *details(progress)]
        )
    said = phrase(status, {"result": job["result"], "error": job["error"]})
    return f"{status}: {said}" if said else status


def phrase(kind: str, data: dict[str, Any]) -> str:
    """What an event tells, in words."""
    result = data.get("result")
    if kind == "succeeded" and isinstance(result, dict) and "version" in result:
        return _outcome(result)
    for name in ("text", "error", "reason", "phase"):
        if isinstance(data.get(name), str):
            return data[name]
    moment = [f"{data['cur_nimg'] / 1000:.1f} kimg"] if "cur_nimg" in data else []
    if level := _measured(data):
        return ", ".join([*moment, level])
    about = {k: v for k, v in data.items() if k not in ("cur_nimg", "elapsed_sec")}
    words = [f"{k} {v}" for k, v in about.items() if isinstance(v, int | float | str)]
    return ", ".join([*moment, *words])


def details(progress: dict[str, Any]) -> list[str]:
    """How far, how fast and how long still, of a job that trains."""
    done, total = _share(progress)
    if not total or progress.get("phase") != "training":
        return []
    speed, left = progress.get("images_per_sec", 0), progress.get("eta_sec", 0)
    return [
        f"{done / 1000:.1f}/{total / 1000:.1f} kimg",
        f"{speed:,.0f} images/s",
        f"{duration(left)} left",
    ]


def duration(sec: float) -> str:
    """Seconds as people say them."""
    if sec < 90:
        return f"{sec:.0f} s"
    return f"{sec / 60:.0f} min" if sec < 5400 else f"{sec / 3600:.1f} h"


def _outcome(result: dict[str, Any]) -> str:
    decision = result.get("decision") or {}
    verdict = "is the champion" if decision.get("promote") else "was kept aside"
    return f"{result.get('model')}@{result['version']} {verdict}: {decision.get('reason', '')}"


def _share(progress: dict[str, Any]) -> tuple[int, int | None]:
    """Images done, and of how many; None where that is not known, as in all phases but training."""
    if progress.get("phase") != "training":
        return 0, None
    return progress.get("cur_nimg") or 0, progress.get("total_nimg") or None


def _measured(data: dict[str, Any]) -> str:
    level = data.get("metrics", data).get("fd_cnn")
    return f"fd {level:.2f}" if isinstance(level, int | float) else ""
