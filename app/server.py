"""Owns running the application under uvicorn: its address, its limits and its shutdown."""

import signal
import socket
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

log = structlog.get_logger(__name__)

GRACE_SEC = 25  # requests and streams that are still open after so long are cut


class _Server(uvicorn.Server):
    """Says where it listens, and ends the event streams first when it stops: they would keep a
    graceful shutdown waiting for its limit."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                log.info("listening", url=f"http://{shown}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if (context := getattr(self._app.state, "context", None)) is not None:
            context.store.changes.close()
        await super().shutdown(sockets)


def _was_handled(number: int, frame: FrameType | None) -> None:
    log.info("stopped", signal=signal.Signals(number).name)


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, which end it in order and with exit code 0."""
    # uvicorn raises a signal again once it has shut down; ending by it would look like a crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _was_handled)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SEC,
    )
    _Server(config, app).run()
