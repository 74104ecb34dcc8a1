"""Owns the look at the batcher from outside: a call that does not end, a thread that is gone."""

import threading
from collections.abc import Callable
from typing import Protocol

_LOOKS = 4  # in the time that a batch may take
_MAX_WAIT_SEC = 1.0


class Watched(Protocol):
    """A batcher, as far as it is watched."""

    @property
    def busy_sec(self) -> float:
        """For how long the batch it is at has been running; 0 if there is none."""
        ...

    @property
    def broken(self) -> bool:
        """Its thread ended though nobody closed it."""
        ...


def watch(batcher: Watched, max_batch_sec: float, die: Callable[[str], None]) -> Callable[[], None]:
    """Look every second or more often; returns what ends the watch."""
    stopping = threading.Event()

    def look() -> None:
        while not stopping.wait(min(_MAX_WAIT_SEC, max_batch_sec / _LOOKS)):
            if batcher.broken:
                die("the batcher's thread ended")
                return
            if (seconds := batcher.busy_sec) > max_batch_sec:
                die(
                    f"a batch has been running for {seconds:.0f} s; max_batch_sec is"
                    f" {max_batch_sec:g}"
                )
                return

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join()

    return stop
