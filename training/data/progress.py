"""Owns how an import shows how far it is: a bar on a terminal, plain lines, or JSON."""

import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from training.data.options import Progress as Told
from training.data.options import Step

PLAIN_LINES = 10
LINES_A_SEC = 5


@contextmanager
def shown(what: str) -> Generator[Told]:
    """A callback for steps of an import, drawn on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda at: bar.update(task, completed=at.done, total=at.total)
    else:
        yield _Plain(what)


@contextmanager
def as_lines() -> Generator[Told]:
    """A callback for steps of an import: one line of JSON each, at most LINES_A_SEC."""
    last = -1.0

    def tell(at: Step) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= 1 / LINES_A_SEC or at.done == at.total:
            last = now
            print(json.dumps(asdict(at)), flush=True)

    yield tell


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


class _Plain:
    """A line on standard error for each PLAIN_LINES-th of the way."""

    def __init__(self, what: str) -> None:
        self._what, self._told = what, 0

    def __call__(self, at: Step) -> None:
        part = at.done * PLAIN_LINES // at.total
        if part > self._told:
            self._told = part
            percent = 100 * part // PLAIN_LINES
            print(f"{self._what}: {percent} %", file=sys.stderr, flush=True)
