"""Owns what every answer made of images shares: its version, its headers, its client's patience."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from anyio import to_thread
from fastapi import Request

from app.ask import split_ref
from app.context import Context
from app.engine import Loaded
from app.errors import ClientGoneError
from app.keys import FIRST

T = TypeVar("T")


async def loaded_version(ctx: Context, ref: str) -> Loaded:
    """The version that `mnist` or `mnist@2` names now, loaded in a thread if it is not in memory.

    Raises NotFoundError, UnavailableError.
    """
    model, version = split_ref(ref)
    ctx.life.check_able()
    found = ctx.engine.in_memory(model, version)
    return found or await to_thread.run_sync(ctx.engine.get, model, version)


def image_headers(loaded: Loaded) -> dict[str, str]:
    """Which model, version and weights made an answer."""
    return {
        "X-Model": loaded.model,
        "X-Model-Version": str(loaded.version),
        "X-Model-Digest": loaded.digest,
    }


@dataclass(frozen=True)
class Caller:
    """Who asked for images: whose turn it is at the generator, and what their quotas leave."""

    name: str
    headers: dict[str, str]


def admit(request: Request, ctx: Context, images: int) -> Caller:
    """Count images for whoever asks. Raises RateLimitError, or BadRequestError for too many.

    They take turns by stored key; by address where there is one key for all, or none.
    """
    key: str | None = request.scope.get("key")
    address = request.client.host if request.client else ""
    headers = ctx.quotas.take(key, address, images)
    return Caller(key if key not in (None, FIRST) else address, headers)


async def unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """Await `answer`, but cancel it when the client hangs up: its place goes to somebody else."""
    work = asyncio.ensure_future(answer)
    watch = asyncio.ensure_future(_cancel_when_gone(request, work))
    try:
        return await work
    except asyncio.CancelledError:
        if watch.done():
            raise ClientGoneError("the client hung up before its images were ready") from None
        raise
    finally:
        watch.cancel()


async def _cancel_when_gone(request: Request, work: asyncio.Future[T]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.cancel()
