"""Owns how a command of `training` ends: by a signal, with its parent, or with one line."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

BAD_INPUT = 2


def exit_with_stdin() -> None:
    """Treat the end of stdin as SIGTERM: a parent that holds the pipe open has died by then."""

    def wait_for_eof() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_eof, name="parent-watch", daemon=True).start()


class Interrupt:
    """SIGTERM and SIGINT: a request while someone asks `requested`, else the end of the process."""

    def __init__(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._requested = threading.Event()
        self.can_wait = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def requested(self) -> bool:
        """Whether a signal came."""
        return self._requested.is_set()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.can_wait:
            raise SystemExit(self._exit_code)
        self._requested.set()


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """Say in one line what was wrong, and exit."""
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
