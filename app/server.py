"""Owns running the application under uvicorn: its address, its limits and its shutdown."""

import socket

import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

GRACE_SEC = 25  # requests and streams that are still open after so long are cut


class _Server(uvicorn.Server):
    """Ends the event streams first: they would keep a graceful shutdown waiting for its limit."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if (context := getattr(self._app.state, "context", None)) is not None:
            context.store.changes.close()
        await super().shutdown(sockets)


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
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
