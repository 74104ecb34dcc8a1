"""Owns the URL of a seed: one image, the same bytes for as long as its version lives."""

from typing import Annotated, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response

from app.answers import admit, image_headers, loaded_version, unless_gone
from app.ask import Ask, class_from_text, split_ref
from app.context import Context, Ctx
from app.errors import BadRequestError
from app.schemas import MAX_SEED, Truncation

_MAX_AGE = "max-age=31536000, immutable"


class Wanted(NamedTuple):
    """What the URL says."""

    model: str
    seed: int
    class_: str | None = None
    truncation: float = 1.0


router = APIRouter(prefix="/v1", tags=["images"])


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
    return await answer(request, ctx, Wanted(model, int(seed), class_, truncation))


async def answer(request: Request, ctx: Context, wanted: Wanted) -> Response:
    """The file, from memory or drawn; 304 if the client has it."""
    if wanted.seed > MAX_SEED:
        raise BadRequestError(f"seed is {wanted.seed}; expected 0 to {MAX_SEED}", field="seed")
    loaded = await loaded_version(ctx, wanted.model)
    index = None if wanted.class_ is None else class_from_text(loaded, wanted.class_)
    etag = f'"{loaded.tag}-{wanted.seed}-{"" if index is None else index}-{wanted.truncation!r}"'
    headers = {
        **image_headers(loaded),
        "X-Seed": str(wanted.seed),
        "ETag": etag,
        "Cache-Control": _cache_control(ctx, wanted.model),
        "Content-Location": _pinned_url(loaded.ref, wanted),
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    caller = admit(request, ctx, 1)
    headers |= caller.headers
    file = ctx.files.get(etag)
    if file is None:
        classes = None if index is None else np.array([index], np.int64)
        ask = Ask(loaded, [wanted.seed], None, classes, wanted.truncation)
        file = await unless_gone(request, ctx.batcher.png(ask, caller.name))
        ctx.files.put(etag, file)
    return Response(file, headers=headers, media_type="image/png")


def _cache_control(ctx: Context, ref: str) -> str:
    if split_ref(ref)[1] is None:
        return "no-cache"
    return f"{'private' if ctx.keyring.locked else 'public'}, {_MAX_AGE}"


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
