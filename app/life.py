"""Owns where a service is in its life: starting, ready, draining or dead, and what it is doing."""

import threading
import time
from typing import Literal

import structlog

from app.errors import UnavailableError

Phase = Literal["starting", "ready", "draining", "dead"]

EXIT_DEAD = 70  # EX_SOFTWARE: a supervisor should start another process

log = structlog.get_logger(__name__)


class Life:
    """starting → ready → draining; dead from any of them, and for good. Any thread may call it."""

    def __init__(self) -> None:
        self.started = threading.Event()  # it got ready, or never will
        self.died = threading.Event()
        self._phase: Phase = "starting"
        self._doing = "opening the data directory"
        self._began = time.monotonic()
        self._changing = threading.Lock()

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def doing(self) -> str:
        """What keeps it from being ready; empty if nothing does."""
        return self._doing

    @property
    def uptime_sec(self) -> float:
        return time.monotonic() - self._began

    def tell(self, doing: str) -> None:
        """What a start is busy with."""
        with self._changing:
            if self._phase == "starting":
                self._doing = doing

    def begin(self) -> None:
        """The start is over: models are loaded and warm."""
        with self._changing:
            if self._phase == "starting":
                self._phase, self._doing = "ready", ""
                log.info("ready", after_sec=round(self.uptime_sec, 1))
        self.started.set()

    def drain(self) -> None:
        """What was accepted is finished, and nothing else begun."""
        with self._changing:
            if self._phase != "dead":
                self._phase, self._doing = "draining", "finishing what was accepted, then it ends"
        self.started.set()

    def die(self, reason: str) -> None:
        """Nothing this process does can be trusted any more; the first reason counts."""
        with self._changing:
            if self._phase == "dead":
                return
            self._phase, self._doing = "dead", reason
        log.critical("dead; the process ends for a supervisor to start another", reason=reason)
        self.died.set()
        self.started.set()

    def check_ready(self) -> None:
        """Raises UnavailableError unless it is ready."""
        if self._phase != "ready":
            raise UnavailableError(f"the service is {self._phase}: {self._doing}")

    def check_able(self) -> None:
        """Raises UnavailableError where images cannot be drawn; while draining they are."""
        if self._phase in ("starting", "dead"):
            self.check_ready()

    def check_alive(self) -> None:
        """Raises UnavailableError if it is dead."""
        if self._phase == "dead":
            self.check_ready()
