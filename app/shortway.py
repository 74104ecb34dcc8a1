"""Owns the short way around the framework: for plain URLs of seeds, and out of a full queue.

Routing, dependencies and validation cost several times what such an answer does. Whatever is not
plain goes the whole way, which says what is wrong with it.
"""

import re
import time
from urllib.parse import parse_qsl

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app import problems
from app.context import Context, get_context
from app.errors import NoisewellError, QueueFullError
from app.routes import images, interpolations, seeds
from app.routes.seeds import Wanted

_SEED_URL = re.compile(
    r"/v1/models/([a-z0-9._-]{1,63}(?:@[0-9a-z]{1,16})?)/images/([0-9]{1,16})\.png"
)
_TRUNCATION = re.compile(r"0?\.[0-9]{0,16}[1-9]|1(\.0)?")
_REFUSAL_SEC = 0.01
_SEED_ROUTE = seeds.router.routes[0]
_GENERATING = {
    "/v1/images": images.router.routes[0],
    "/v1/interpolations": interpolations.router.routes[0],
}


class ShortWay:
    """The innermost layer before the framework's routing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refusal, self._stale_at = problems.of(QueueFullError(""), shared=True), 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            wanted = plain(scope["path"], scope["query_string"])
            if wanted is not None:
                scope["route"] = _SEED_ROUTE  # what the request is counted under
                await self._answer_seed(wanted, scope, receive, send)
                return
        elif scope["type"] == "http" and scope["path"] in _GENERATING:
            try:
                _context(scope).batcher.check()  # before the body is read
            except QueueFullError as error:
                scope["route"] = _GENERATING[scope["path"]]
                await self._refused(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _answer_seed(
        self, wanted: Wanted, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            response = await seeds.answer(Request(scope, receive), _context(scope), wanted)
        except QueueFullError as error:
            response = self._refused(error)
        except NoisewellError as error:
            response = problems.of(error)
        await response(scope, receive, send)

    def _refused(self, error: QueueFullError) -> Response:
        """Under five times the load, four of five answers: each serves for a few milliseconds."""
        now = time.monotonic()
        if now > self._stale_at:
            self._refusal = problems.of(error, shared=True)
            self._stale_at = now + _REFUSAL_SEC
        return self._refusal


def _context(scope: Scope) -> Context:
    return get_context(Request(scope))


def plain(path: str, query: bytes) -> Wanted | None:
    """What a URL of a seed says, if that needs no more than a look."""
    found = _SEED_URL.fullmatch(path)
    if found is None:
        return None
    model, seed = found.groups()
    if not query:
        return Wanted(model, int(seed))
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    class_, truncation = given.pop("class", None), given.pop("truncation", "1")
    if given or not _TRUNCATION.fullmatch(truncation) or len(class_ or "") > 63:
        return None
    return Wanted(model, int(seed), class_, float(truncation))
