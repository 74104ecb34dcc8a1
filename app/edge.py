"""Owns what every request passes first: the key and whether a browser may, security headers."""

import hashlib
import hmac
import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import problems
from app.errors import NoisewellError, UnauthorizedError
from app.origins import Origins

PUBLIC_PREFIX = "/health/"
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Edge:
    """The outermost layer: with a key set, every path but /health/* wants it.

    The key is read from `Authorization: Bearer …` or `X-API-Key`, and compared as a digest in
    constant time.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        self._digest = _digest(api_key) if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":  # none is served
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced, named = False, (b"x-request-id", _request_id(scope))

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], _NOSNIFF, named]
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
        """Raises the error to answer; a probe knows neither a key nor a name of the service."""
        if scope["path"].startswith(PUBLIC_PREFIX):
            return
        headers = Headers(scope=scope)
        self._origins.check(scope["method"], headers)
        if not self._knows(headers):
            raise UnauthorizedError(
                "this path wants the service's key; send it as 'Authorization: Bearer <key>'"
            )

    def _knows(self, headers: Headers) -> bool:
        if self._digest is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(_digest(given), self._digest)


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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
