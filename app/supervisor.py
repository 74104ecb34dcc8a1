"""Owns the worker process of a service: starts it, wakes it, and starts it again when it dies."""

import os
import subprocess
import sys
import threading
import time
from typing import Literal

import structlog

from app.settings import Settings

STOP_GRACE_SEC = 30.0
GOOD_LIFE_SEC = 5.0
MAX_RESTART_WAIT_SEC = 30.0

WorkerState = Literal["off", "running", "restarting"]

log = structlog.get_logger(__name__)


def restart_wait_sec(quick_deaths: int) -> float:
    """Before a worker is started again, after so many in a row that died within GOOD_LIFE_SEC."""
    return 0.0 if quick_deaths < 2 else min(2.0 ** min(quick_deaths - 3, 9), MAX_RESTART_WAIT_SEC)


class WorkerSupervisor:
    """The worker follows the pipe at its stdin: a line wakes it, the end (our death) stops it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell the worker to look at the store now."""
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return
            try:
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                log.info("the worker is being restarted and will look by itself")

    @property
    def state(self) -> WorkerState:
        """`restarting` between a death and the next start."""
        if not self._thread.is_alive():
            return "off"
        process = self._process
        return "running" if process is not None and process.returncode is None else "restarting"

    @property
    def pid(self) -> int | None:
        """Of the worker, if it runs."""
        process = self._process
        return process.pid if process is not None and self.state == "running" else None

    def stop(self) -> None:
        """Tell the worker to save what it trains and end, for good; returns at once."""
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()

    def close(self) -> None:
        """Stop the worker and wait for it: another one goes on from what it saved."""
        self.stop()
        process = self._process
        if process is not None:
            try:
                process.wait(STOP_GRACE_SEC)
            except subprocess.TimeoutExpired:
                log.error("the worker did not stop in time and is killed", pid=process.pid)
                process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        quick_deaths = 0
        while (process := self._spawn()) is not None:
            began = time.monotonic()
            code = process.wait()
            if self._stopping.is_set():
                break
            lived_sec = time.monotonic() - began
            quick_deaths = 0 if lived_sec >= GOOD_LIFE_SEC else quick_deaths + 1
            wait_sec = restart_wait_sec(quick_deaths)
            log.error("the worker died and is started again", code=code, wait_sec=wait_sec)
            self._stopping.wait(wait_sec)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            settings = self._settings
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "app.worker", "--follow-stdin"),
                    *("--data-dir", str(settings.data_dir), "--device", settings.device),
                ],
                stdin=subprocess.PIPE,
                # The other settings are read from the environment; the key is none of its business.
                env={k: v for k, v in os.environ.items() if k != "NOISEWELL_API_KEY"},
                start_new_session=True,  # Ctrl-C reaches the service, which then stops the worker
            )
            return self._process
