"""Owns how an import shows how far it is: a bar on a terminal, a few plain lines elsewhere."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_LINES = 10
DRAWN_STEPS = 500


@contextmanager
def shown(what: str) -> Generator[Callable[[int, int], None]]:
    """A callback for (steps done, steps in all), drawn on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: _draw(bar, task, done, total)
    else:
        yield lambda done, total: _plain(what, done, total)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def _draw(bar: Progress, task: TaskID, done: int, total: int) -> None:
    if done % max(1, total // DRAWN_STEPS) == 0 or done == total:
        bar.update(task, completed=done, total=total)


def _plain(what: str, done: int, total: int) -> None:
    tenth = done * PLAIN_LINES // total
    if tenth != (done - 1) * PLAIN_LINES // total:
        print(f"{what}: {100 * tenth // PLAIN_LINES} %", file=sys.stderr, flush=True)
