"""Owns what is told of every request: it is counted, timed, and a line of the log."""

import re
import time
from dataclasses import dataclass

import structlog
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import Metrics

GONE = 499  # the client left before its answer began
_QUIET = ("/health/live", "/health/ready", "/metrics")
_CAUSE = re.compile(rb'"code": ?"([a-z_]{1,40})"')
_SHOWN = 120

log = structlog.get_logger(__name__)


@dataclass
class _Seen:
    """What went by of one answer."""

    status: int = 0
    request_id: str | None = None
    cause: str | None = None


class Access:
    """Outside of every other layer, so that what they refuse is told too.

    Probes and scrapes leave no line; a query leaves none either, since it may hold anything.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log_requests: bool = True) -> None:
        self._app = app
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        began, seen = time.perf_counter(), _Seen()

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._begins(scope, message, seen)
            elif seen.status >= 400 and seen.cause is None:
                self._refuses(message.get("body", b""), seen)
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception:
            if not seen.status:  # the answer will be made outside of this layer
                seen.status, seen.cause = 500, "internal"
                self._metrics.request(_route(scope), 500)
                self._metrics.rejected("internal")
            raise
        finally:
            self._ended(scope, seen, time.perf_counter() - began)

    def _begins(self, scope: Scope, message: Message, seen: _Seen) -> None:
        seen.status = message["status"]
        for name, value in message["headers"]:
            if name.lower() == b"x-request-id":
                seen.request_id = value.decode("latin-1")
        self._metrics.request(_route(scope), seen.status)

    def _refuses(self, body: bytes, seen: _Seen) -> None:
        found = _CAUSE.search(body)
        seen.cause = cause = found[1].decode() if found else "other"
        self._metrics.rejected(cause)

    def _ended(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        route = _route(scope)
        self._metrics.answered(route, seconds)
        if not self._log_requests or route in _QUIET:
            return
        told = {"cause": seen.cause, "request_id": seen.request_id, "key": scope.get("key")}
        if route == "other":
            told["path"] = scope["path"][:_SHOWN]
        log.info(
            "request",
            method=scope["method"],
            route=route,
            status=seen.status or GONE,
            ms=round(1000 * seconds, 1),
            **{name: value for name, value in told.items() if value is not None},
        )


def _route(scope: Scope) -> str:
    """The path as the route declares it: a bounded set, whatever people ask for."""
    route = scope.get("route")
    return route.path if isinstance(route, Route | Mount) else "other"
