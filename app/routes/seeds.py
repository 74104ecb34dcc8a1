"""Owns the URL of a seed: one image, the same bytes for as long as its version lives.

The service's hot path: everything that can be known before a request is made before it.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.routing import APIRoute

from app.answers import caller_of, loaded_version, unless_gone
from app.ask import Ask, class_from_text, split_ref
from app.context import Context, Ctx, get_context
from app.errors import BadRequestError
from app.schemas import MAX_SEED, Truncation

_MAX_AGE = "max-age=31536000, immutable"
_PLAIN_REF = re.compile(r"[a-z0-9._-]{1,63}(@[0-9a-z]{1,16})?")
_PLAIN_SEED = re.compile(r"[0-9]{1,16}")
_PLAIN_TRUNCATION = re.compile(r"0?\.[0-9]{0,16}[1-9]|1(\.0)?")


class Wanted(NamedTuple):
    """What the URL says."""

    model: str
    seed: int
    class_: str | None = None
    truncation: float = 1.0


class SeedRoute(APIRoute):
    """Reads a plain URL itself, in a fraction of the time; any other goes the framework's way,
    which says what is wrong with it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's hook for this."""
        handle_any = super().get_route_handler()

        async def handle(request: Request) -> Response:
            wanted = _plain(request)
            if wanted is None:
                return await handle_any(request)
            return await _answer(request, get_context(request), wanted)

        return handle


router = APIRouter(prefix="/v1", tags=["images"], route_class=SeedRoute)


@router.get(
    "/models/{model}/images/{seed}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, 304: {"description": "As you have it"}},
)
async def get_image(
    request: Request,
    ctx: Ctx,
    model: Annotated[str, Path(max_length=96, description="mnist, mnist@2 or mnist@champion")],
    seed: Annotated[str, Path(pattern=r"^[0-9]{1,16}$", description="0 … 2^53-1")],
    class_: Annotated[str | None, Query(alias="class", max_length=255)] = None,
    truncation: Truncation = 1.0,
) -> Response:
    """The image of a seed. A pinned version's URL never changes what it answers."""
    return await _answer(request, ctx, Wanted(model, int(seed), class_, truncation))


def _plain(request: Request) -> Wanted | None:
    model, seed = request.path_params["model"], request.path_params["seed"]
    if not (_PLAIN_REF.fullmatch(model) and _PLAIN_SEED.fullmatch(seed)):
        return None
    query: bytes = request.scope["query_string"]
    if not query:
        return Wanted(model, int(seed))
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    class_, truncation = given.pop("class", None), given.pop("truncation", "1")
    plain = _PLAIN_TRUNCATION.fullmatch(truncation) and (class_ is None or len(class_) < 64)
    if given or not plain:
        return None
    return Wanted(model, int(seed), class_, float(truncation))


async def _answer(request: Request, ctx: Context, wanted: Wanted) -> Response:
    if wanted.seed > MAX_SEED:
        raise BadRequestError(f"seed is {wanted.seed}; expected 0 to {MAX_SEED}", field="seed")
    loaded = await loaded_version(ctx, wanted.model)
    index = None if wanted.class_ is None else class_from_text(loaded, wanted.class_)
    etag = f'"{loaded.tag}-{wanted.seed}-{"" if index is None else index}-{wanted.truncation!r}"'
    headers = {
        **dict(loaded.headers),
        "X-Seed": str(wanted.seed),
        "ETag": etag,
        "Cache-Control": _cache_control(ctx, wanted.model),
        "Content-Location": _pinned_url(loaded.ref, wanted),
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    file = ctx.files.get(etag)
    if file is None:
        classes = None if index is None else np.array([index], np.int64)
        ask = Ask(loaded, [wanted.seed], None, classes, wanted.truncation)
        file = await unless_gone(request, ctx.batcher.png(ask, caller_of(request)))
        ctx.files.put(etag, file)
    return Response(file, headers=headers, media_type="image/png")


def _cache_control(ctx: Context, ref: str) -> str:
    if split_ref(ref)[1] is None:
        return "no-cache"
    return f"{'private' if ctx.settings.api_key else 'public'}, {_MAX_AGE}"


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    candidates = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in candidates or etag in candidates


def _pinned_url(ref: str, wanted: Wanted) -> str:
    path = f"/v1/models/{quote(ref, safe='@')}/images/{wanted.seed}.png"
    query = {} if wanted.class_ is None else {"class": wanted.class_}
    if wanted.truncation != 1.0:
        query["truncation"] = repr(wanted.truncation)
    return f"{path}?{urlencode(query)}" if query else path
