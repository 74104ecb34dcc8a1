"""Owns how a service asks the trainers beside it to wait: a named pipe it holds open meanwhile.

A pipe without a writer says so to whoever polls it, at once and however the writer ended, so that a
service that dies lets go. Nothing is ever written to it.
"""

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Of the time between two steps. Training keeps two thirds of its time, whatever is asked of it.
GIVEN_WAY = 0.5
MOST_SEC = 1.0


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.mkfifo(path)


class Pressure:
    """The side of the service. Not thread-safe: one thread calls it."""

    def __init__(self, path: Path) -> None:
        _make(path)
        self._path = path
        self._fd: int | None = None

    def set(self, under_pressure: bool) -> None:
        """Ask to wait from now on, or no more; a few microseconds, and none if nothing changes."""
        if under_pressure and self._fd is None:
            with suppress(OSError):  # nobody trains
                self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        elif not under_pressure and self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Ask no more."""
        self.set(False)


class GiveWay:
    """The side of a trainer: call it between two steps."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        _make(path)
        self._clock = clock
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # One that never had a writer does not say that it has none.
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        self._poll = select.poll()
        self._poll.register(self._fd, 0)  # told is only that no writer is left
        self._went_on = clock()

    def __call__(self) -> None:
        """Wait while it is asked for, at most half as long as it has not been waited before."""
        allowed = min(GIVEN_WAY * (self._clock() - self._went_on), MOST_SEC)
        self._poll.poll(allowed * 1000)
        self._went_on = self._clock()

    def close(self) -> None:
        """Stop listening."""
        os.close(self._fd)
