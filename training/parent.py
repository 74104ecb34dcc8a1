"""Owns how a command of `training` ends: by a signal, with its parent, or with one line."""

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

BAD_INPUT = 2
ORPHAN_GRACE_SEC = 30.0


def exit_with_stdin() -> None:
    """Treat the end of stdin as SIGTERM: a parent that holds the pipe open has died by then.

    One that does not end by that, waiting for a device or for another process, is ended.
    """

    def wait_for_eof() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_SEC)
        os._exit(1)

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


@contextmanager
def exit_code_in(path: Path) -> Generator[None]:
    """Leave in `path` how this process ends, unless one of its crew has ended before.

    A launcher of several processes answers 1, however they ended.
    """
    code: object = 0
    try:
        yield
    except SystemExit as end:
        code = end.code
        raise
    except BaseException:
        code = 1
        raise
    finally:
        if code and path.parent.is_dir():
            with suppress(FileExistsError), path.open("x") as f:
                f.write(str(code))


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """Say in one line what was wrong, and exit; where that line goes, the disk may be full."""
    try:
        print(f"Error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    raise SystemExit(code)
