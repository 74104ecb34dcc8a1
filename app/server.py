"""Owns running the application under uvicorn: its address, its limits and its shutdown."""

import gc
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

GRACE_SEC = 25  # requests and streams that are still open after so long are cut
# Python's own 5 ms is how long the generator's thread would wait for the event loop's each time.
_SWITCH_SEC = 0.0005
# Objects between collections: a thousand waiting requests are no garbage, and Python's own numbers
# would have all of them looked at every few hundred objects.
_GC_THRESHOLDS = 20_000, 20, 100

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Says where it listens, and ends the event streams first when it stops: they would keep a
    graceful shutdown waiting for its limit."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # what uvicorn makes of any error of the lifespan
            raise self._app.state.startup_error from None
        # What is there by now stays, and there is much of it: collecting it again and again would
        # stop every thread for a sixth of a second each time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        sys.setswitchinterval(_SWITCH_SEC)
        for listening in sockets or []:
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("listening", url=f"http://{shown}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if (context := getattr(self._app.state, "context", None)) is not None:
            context.store.changes.close()
        await super().shutdown(sockets)


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, which end it in order and with exit code 0.

    Raises what kept the service from starting: OSError for the address, BlockingIOError if another
    one uses the data directory, ValueError for the device, SchemaError for the database.
    """
    app = create_app(settings)
    # Critical only: our own handlers log what goes wrong in a request, and the errors of a start
    # are raised below instead of being printed as a traceback.
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SEC,
    )
    # uvicorn raises a signal again once it has shut down; ending by it would look like a crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _was_handled)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.create_server((settings.host, settings.port), family=family) as listening:
        _Server(config, app).run([listening])


def _was_handled(number: int, frame: FrameType | None) -> None:
    log.info("stopped", signal=signal.Signals(number).name)
