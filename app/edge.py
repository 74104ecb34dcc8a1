"""Owns what every request passes first: the key and whether a browser may, security headers."""

import base64
import binascii
import re
import secrets

import structlog
from starlette.datastructures import Headers
from starlette.routing import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import problems
from app.doors import Doors
from app.errors import ForbiddenError, NoisewellError, UnauthorizedError
from app.guards import guarded
from app.keys import Keyring
from app.origins import Origins, is_elsewhere
from app.scopes import PUBLIC

OPEN = (
    "this service has no key, so it answers to its own machine alone; noisewell keys create, or"
    " NOISEWELL_API_KEY, gives it one"
)
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Edge:
    """The outermost layer: once there is a key, every path but the probes wants one that opens it.

    A key is read from `Authorization: Bearer …`, `X-API-Key`, or as the password of
    `Authorization: Basic …`, which is what browsers ask people for and keep.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, doors: Doors, origins: Origins) -> None:
        self._app = app
        self._keyring = keyring
        self._doors = doors
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":  # none is served
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        replaced, named = False, (b"x-request-id", request_id)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*guarded(message["headers"]), named]
            await send(message)

        async def send_problems(message: Message) -> None:
            nonlocal replaced
            if _is_plain_413(message):  # the framework's own, for a Content-Length over the limit
                replaced = True
                await problems.too_large(scope)(scope, receive, send_on)
            elif not replaced:
                await send_on(message)

        try:
            self._check(scope)
        except NoisewellError as error:
            await problems.of(error)(scope, receive, send_on)
            return
        await self._app(scope, receive, send_problems)

    def _check(self, scope: Scope) -> None:
        """Raises the error to answer; a probe knows neither a key nor a name of the service.

        Of requests that a proxy passes on, the client is whom it says that it had them from.
        """
        wanted = self._doors.wanted(scope["method"], get_route_path(scope))
        if wanted == PUBLIC:
            return
        headers = Headers(scope=scope)
        self._origins.check(scope["method"], headers)
        if self._keyring.locked:
            self._unlock(scope, wanted, headers)
        elif is_elsewhere(scope.get("server")) or is_elsewhere(scope.get("client")):
            raise UnauthorizedError(OPEN)

    def _unlock(self, scope: Scope, wanted: str | None, headers: Headers) -> None:
        key = self._keyring.find(_shown_key(headers))
        scope["key"] = key.id  # for the log, and for whose turn it is
        if wanted is not None and not key.opens(wanted):
            raise ForbiddenError(
                f"key {key.id} has the scope {' and '.join(sorted(key.scopes))}, and"
                f" {scope['method']} here wants {wanted}; noisewell keys create --scope {wanted}"
                " makes one that has it"
            )


def _shown_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if "x-api-key" in headers or scheme.lower() != "basic":
        return headers.get("x-api-key", "")
    try:
        return base64.b64decode(token, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _request_id(scope: Scope) -> bytes:
    """The caller's own if it is harmless in a header and a log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value
    return secrets.token_hex(8).encode()


def _is_plain_413(message: Message) -> bool:
    if message["type"] != "http.response.start" or message["status"] != 413:
        return False
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/plain")
