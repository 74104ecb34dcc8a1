"""Owns the pages for people: the studio at / and the reference of the API at /docs."""

import re
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.codes import codes
from app.context import Context, Ctx
from app.reference import make_reference
from training.model.presets import PRESETS

WEB = Path(__file__).parents[1] / "web"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
_RANGES = (b"range", b"if-range")

router = APIRouter(include_in_schema=False)
_templates = Environment(
    loader=FileSystemLoader(WEB / "templates"), autoescape=True, undefined=StrictUndefined
)


def _code(text: str) -> Markup:
    """What stands between ` and ` as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


_templates.filters["code"] = _code


class Assets(StaticFiles):
    """The pages' files, asked for anew each time: an upgrade never mixes with a cached one.

    Always the whole file: they are short, and a range that is wrong the framework refuses in words
    of its own.
    """

    def __init__(self) -> None:
        super().__init__(directory=WEB / "static")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [header for header in scope["headers"] if header[0] not in _RANGES]
        await super().__call__({**scope, "headers": kept}, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


@router.get("/")
def studio() -> HTMLResponse:
    """The studio; what it shows it fetches from the API."""
    page = _templates.get_template("studio.html").render(presets=PRESETS)
    return HTMLResponse(page, headers=HEADERS)


@router.get("/docs")
def docs(request: Request, ctx: Ctx) -> HTMLResponse:
    """The reference of the API, with examples for this address."""
    keyed = ctx.keyring.locked
    return HTMLResponse(_docs(request.app, _host(request, ctx), keyed), headers=HEADERS)


def _host(request: Request, ctx: Context) -> str:
    """As the client calls this service, where that is a name that can be."""
    try:
        return request.url.netloc
    except ValueError:
        return ctx.settings.address.partition("//")[2]


# A Host header is the client's to choose, hence the small bound.
@lru_cache(maxsize=4)
def _docs(app: FastAPI, host: str, keyed: bool) -> str:
    reference = make_reference(app.openapi(), host, keyed=keyed)
    return _templates.get_template("docs.html").render(
        reference=reference, version=app.version, keyed=keyed, codes=codes()
    )
