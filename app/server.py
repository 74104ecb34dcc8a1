"""Owns running the application under uvicorn: its address, its limits and its end."""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.life import EXIT_DEAD, Life
from app.main import LOADER, create_app
from app.metrics import Metrics
from app.protocol import Protocol, Refusals
from app.settings import Settings

GRACE_SEC = 20  # requests and streams that are still open after so long are cut
END_SEC = 29.0  # after SIGTERM, whatever still hangs
DEAD_SEC = 1.0  # for probes to see that it is dead
DEAD_END_SEC = 5.0
_DESCRIPTORS = 512  # for all that is no connection: files, pipes, those being refused
_LAST_SEC = 0.5  # for the request of a connection that came as the door was shut
# Python's own 5 ms is how long the generator's thread would wait for the event loop's each time.
_SWITCH_SEC = 0.0005
# Objects between collections: a thousand waiting requests are no garbage, and Python's own numbers
# would have all of them looked at every few hundred objects.
_GC_THRESHOLDS = 20_000, 20, 100

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Says where it listens, ends when the service is dead, and drains when it is told to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._settled = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # what uvicorn makes of any error of the lifespan
            raise self._app.state.startup_error from None
        sys.setswitchinterval(_SWITCH_SEC)
        threading.Thread(target=_end_dead, args=(self._life,), name="end", daemon=True).start()
        log.info("listening", url=self._app.state.context.settings.address)

    @property
    def _life(self) -> Life:
        return self._app.state.context.life

    async def on_tick(self, counter: int) -> bool:
        if not self._settled and self._life.phase == "ready":
            self._settled = True
            _settle()
        return await super().on_tick(counter) or self._life.died.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Unready at once; for a while still at the door, with answers that say that it closes;
        then what was accepted is finished."""
        context = getattr(self._app.state, "context", None)
        if context is not None and not context.life.died.is_set():
            began = time.monotonic()
            _end_by(END_SEC)
            context.life.drain()
            context.supervisor.stop()  # saving what is trained takes its own while
            context.store.changes.close()  # event streams would be waited for
            log.info("draining", connections=len(self.server_state.connections))
            await self._drain(context.settings.drain_sec, sockets or [])
            await super().shutdown(sockets)
            log.info("drained", after_sec=round(time.monotonic() - began, 1))
            return
        if context is not None:
            await asyncio.sleep(DEAD_SEC)
            os._exit(EXIT_DEAD)  # a device that hangs would be waited for without end
        await super().shutdown(sockets)

    async def _drain(self, seconds: float, sockets: list[socket.socket]) -> None:
        closing = (b"connection", b"close")
        self.server_state.default_headers = [*self.server_state.default_headers, closing]
        if self.server_state.connections:
            await asyncio.sleep(seconds)
        await self._shut_the_door(sockets)
        end = time.monotonic() + _LAST_SEC
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)  # uvicorn tells nobody when a connection ends

    async def _shut_the_door(self, sockets: list[socket.socket]) -> None:
        """Stop listening. Who is connected already is let in: closing would reset them."""
        came: list[socket.socket] = []
        for listening in sockets:
            listening.setblocking(False)
            came += _waiting(listening)
        for server in self.servers:
            server.close()
        for one in came:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for a connection."""
        make: Any = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _waiting(listening: socket.socket) -> list[socket.socket]:
    """Connections that nobody took yet."""
    came: list[socket.socket] = []
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # none is left
            return came
        connection.setblocking(False)
        came.append(connection)


def _settle() -> None:
    """What is there by now stays, and there is much of it: collecting it again and again would
    stop every thread for a sixth of a second each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _end_by(seconds: float) -> None:
    """End the process by then, whatever it waits for. Trainers notice and save."""

    def end() -> None:
        log.error("it did not end in time and is cut", after_sec=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _end_dead(life: Life) -> None:
    """End a dead process even if its event loop hangs."""
    life.died.wait()
    time.sleep(DEAD_END_SEC)
    os._exit(EXIT_DEAD)


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, which end it in order, within 30 s and with exit code 0.

    A dead service (see `life.py`) ends the process with EXIT_DEAD.

    Raises what kept the service from starting: OSError for the address, BlockingIOError if another
    one uses the data directory, ValueError for the device, SchemaError for the database.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.create_server((settings.host, settings.port), family=family) as listening:
        port = listening.getsockname()[1]  # 0 has become one that was free
        _serve(settings.model_copy(update={"port": port}), listening)


def configured(app: ASGIApp, settings: Settings, metrics: Metrics) -> uvicorn.Config:
    """How `app` is served: by our own protocol, and with nothing of uvicorn's in the log.

    Critical only: our own handlers log what goes wrong in a request, and the errors of a start
    are raised instead of being printed as a traceback.
    """
    make: Any = partial(Protocol, _within_limits(settings), Refusals(metrics))
    return uvicorn.Config(
        app,
        http=make,
        ws="none",
        access_log=False,
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SEC,
    )


def _within_limits(settings: Settings) -> Settings:
    """With no more connections than the system gives descriptors for, which is asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            most = max(soft - _DESCRIPTORS, 1)
            log.warning("fewer connections than max_connections", connections=most, ulimit=soft)
            return settings.model_copy(update={"max_connections": most})
    return settings


def _serve(settings: Settings, listening: socket.socket) -> None:
    app = create_app(settings)
    config = configured(app, settings, app.state.metrics)
    # uvicorn raises a signal again once it has shut down; ending by it would look like a crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _was_handled)
    _Server(config, app).run([listening])
    if any(thread.name == LOADER for thread in threading.enumerate()):
        os._exit(0)  # a model is being loaded still, and Python would not end well beside it


def _was_handled(number: int, frame: FrameType | None) -> None:
    log.info("stopped", signal=signal.Signals(number).name)
