"""Owns looking again and again for what other processes changed."""

import threading
from collections.abc import Callable

_GRACE_SEC = 0.5


def every(
    seconds: float,
    look: Callable[[], None],
    name: str,
    begin: Callable[[], bool] = lambda: True,
) -> Callable[[], None]:
    """Call `look` in a thread until what is returned is called; `begin` first, unless it fails."""
    stopping = threading.Event()

    def follow() -> None:
        if begin():
            while not stopping.wait(seconds):
                look()

    thread = threading.Thread(target=follow, name=name, daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join(_GRACE_SEC)  # it only reads, and nobody will ask for that any more

    return stop
