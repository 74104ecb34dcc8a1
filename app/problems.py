"""Owns how an error leaves the service: application/problem+json (RFC 9457), and nothing else."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from app.codes import link
from app.errors import (
    BadRequestError,
    ClientGoneError,
    NoisewellError,
    RateLimitError,
    StorageFullError,
    TooLargeError,
    UnavailableError,
)
from app.guards import guarded
from app.storage import free_bytes, is_failed, is_full
from training.model.registry import DamagedError

log = structlog.get_logger(__name__)

FAILED = (
    "the disk failed while this was stored, so it does not count as done; look at the kernel's log "
    "and the file system, and send the request again"
)
MEDIA_TYPE = "application/problem+json"
# The second makes a browser ask its user, who sees the realm.
_CHALLENGES = (
    'Bearer realm="noisewell"',
    'Basic realm="noisewell: any name, the key as password", charset="UTF-8"',
)
_SHOWN = 80
_TOLD = 10  # of the errors in one body: it may hold a hundred thousand


def problem(
    status: int,
    title: str,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    *,
    shared: bool = False,
    **more: Any,
) -> Response:
    """A problem document. ASCII only, so that no lone surrogate of the input can break it.

    shared: it answers several requests, and therefore names none.
    """
    body = {"type": link(code), "title": title, "status": status, "code": code, "detail": detail}
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    known = {} if shared or request_id is None else {"request_id": request_id}
    content = json.dumps({**body, **known, **more}, allow_nan=False)
    return Response(content, status, headers, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Answer every exception a route can raise."""
    app.add_exception_handler(NoisewellError, _noisewell_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(DamagedError, _damaged)
    app.add_exception_handler(OSError, _storage)
    app.add_exception_handler(OperationalError, _storage)
    app.add_exception_handler(Exception, _unexpected)


def of(error: NoisewellError, *, shared: bool = False) -> Response:
    """The answer to one of our own errors."""
    headers: dict[str, str] = {}
    if isinstance(error, RateLimitError):
        headers |= error.headers
    if isinstance(error, UnavailableError | RateLimitError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_sec)))
        headers["Retry-After-Ms"] = str(math.ceil(1000 * error.retry_after_sec))
    more: dict[str, Any] = {"shared": shared} | ({"field": error.field} if error.field else {})
    if isinstance(error, StorageFullError):
        more |= {"needed_bytes": error.needed_bytes, "free_bytes": error.free_bytes}
    response = problem(error.status, error.title, error.code, error.detail, headers, **more)
    if error.status == 401:
        for challenge in _CHALLENGES:
            response.headers.append("WWW-Authenticate", challenge)
    return response


def too_large(scope: Scope) -> Response:
    """The answer to a body over the limit of its route."""
    limit = scope.get(MAX_BODY_SIZE_SCOPE_KEY)
    return of(
        TooLargeError(
            f"the body is over the {limit} bytes allowed here; max_body_bytes (for datasets "
            "max_upload_bytes, for images to verify max_verify_bytes) sets how many"
        )
    )


async def _noisewell_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, NoisewellError):
        raise error
    return of(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """422 naming field, value and what is allowed; `input` itself may hold NaN, so it is shown."""
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()
    errors = [_told(e) for e in found[:_TOLD]]
    detail = "; ".join(f"{e['field']}: {e['message']}, got {e['value']}" for e in errors)
    if len(found) > _TOLD:
        detail += f"; and {len(found) - _TOLD} more"
    title = BadRequestError(detail).title
    return problem(BadRequestError.status, title, BadRequestError.code, detail, errors=errors)


def _told(error: Mapping[str, Any]) -> dict[str, str]:
    place: Sequence[Any] = error["loc"]
    # A JSON syntax error's place is a byte offset, which is no field.
    names = [str(p) for p in place[1:]] if error["type"] != "json_invalid" else []
    return {
        "field": _shown(".".join(names) or str(place[0])),
        "message": _shown(str(error["msg"]), limit=300),
        "value": "nothing" if error["type"] == "missing" else _shown(repr(error.get("input"))),
    }


def _shown(text: str, limit: int = _SHOWN) -> str:
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


async def _http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 413:
        return too_large(request.scope)
    detail, headers = str(error.detail), error.headers
    path = request.scope["path"]
    if error.status_code == 404:
        detail = f"nothing is at {_shown(path)!r}; see /openapi.json for what there is"
    if error.status_code == 405:  # the framework names those of the first route alone
        methods = ", ".join(request.app.state.doors.methods(path))
        detail = f"{_shown(request.method)} is not answered here; {methods} is"
        headers = {"Allow": methods}
    title = HTTPStatus(error.status_code).phrase
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return problem(error.status_code, title, code or "http", detail, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return of(ClientGoneError("the client hung up in the middle of its request"))


async def _damaged(request: Request, error: Exception) -> Response:
    return of(UnavailableError(str(error)))


async def _storage(request: Request, error: Exception) -> Response:
    """The disk, below a file or the database. Whatever was begun has been taken back by then."""
    if is_full(error):
        free = await to_thread.run_sync(free_bytes, request.app.state.context.settings.data_dir)
        return of(StorageFullError(_declared_bytes(request), free))
    if is_failed(error):
        log.error("the disk failed", path=request.scope["path"], exc_info=error)
        return of(UnavailableError(FAILED, retry_after_sec=60))
    return await _unexpected(request, error)


def _declared_bytes(request: Request) -> int | None:
    """Of the body that was to be stored, where its sender said so."""
    declared = request.headers.get("content-length", "")
    return int(declared) if request.method == "POST" and declared.isdecimal() else None


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.scope["path"], exc_info=error)
    detail = "something went wrong here, not with your request; the log says what"
    response = problem(500, "Internal Server Error", "internal", detail)
    # Made outside of the edge, which adds these to the others.
    named = structlog.contextvars.get_contextvars().get("request_id", "none").encode()
    response.raw_headers = [*guarded(response.raw_headers), (b"x-request-id", named)]
    return response
