"""Owns the routes that make images: a URL for every seed, and POST for anything more."""

import asyncio
import base64
import io
import json
import secrets
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from app import png
from app.ask import Ask, class_from_text, class_index, split_ref
from app.batcher import Classes, Latents, Pixels
from app.context import Context, Ctx
from app.engine import Loaded
from app.errors import BadRequestError, ClientGoneError
from app.schemas import MAX_SEED, Images, ImagesRequest, Truncation
from training.model.grid import make_grid

router = APIRouter(prefix="/v1", tags=["images"])

T = TypeVar("T")
_MEDIA_TYPES = (*png.MEDIA_TYPES.values(), "application/zip", "application/octet-stream")
_MAX_AGE = "max-age=31536000, immutable"


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
    number = int(seed)
    if number > MAX_SEED:
        raise BadRequestError(f"seed is {seed}; expected 0 to {MAX_SEED}", field="seed")
    pinned = split_ref(model)[1] is not None
    loaded = await _loaded(ctx, model)
    classes = None if class_ is None else np.array([class_from_text(loaded, class_)], np.int64)
    ask = Ask(loaded, [number], None, classes, truncation)
    etag = _etag(ask)
    visibility = "private" if ctx.settings.api_key else "public"
    headers = {
        **_headers(loaded),
        "X-Seed": str(number),
        "ETag": etag,
        "Cache-Control": f"{visibility}, {_MAX_AGE}" if pinned else "no-cache",
        "Content-Location": _pinned_url(loaded, number, class_, truncation),
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)

    def finish(images: Pixels, c: Classes) -> bytes:
        return ask.encode(0, images[0], int(c[0]), "png")

    data = await _unless_gone(request, ctx.batcher.submit(loaded, 1, ask.draw, finish))
    return Response(data, headers=headers, media_type="image/png")


@router.post(
    "/images",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in _MEDIA_TYPES}, "model": Images}},
)
async def create_images(request: Request, ctx: Ctx, body: ImagesRequest) -> Response:
    """n images in one answer: a single file, a grid, a zip, JSON with base64, or an .npy array."""
    loaded = await _loaded(ctx, body.model)
    _check_size(ctx, loaded, body.count)
    ask = _ask(loaded, body)
    make, media_type = _RESPONSES[body.response]

    def finish(images: Pixels, c: Classes) -> bytes:
        return make(ask, images, c, body.format)

    data = await _unless_gone(request, ctx.batcher.submit(loaded, body.count, ask.draw, finish))
    headers = _headers(loaded)
    if ask.seeds is not None:
        headers["X-Seed"] = str(ask.seeds[0])
    return Response(data, headers=headers, media_type=media_type or png.MEDIA_TYPES[body.format])


def _image(ask: Ask, images: Pixels, c: Classes, format: png.Format) -> bytes:
    return ask.encode(0, images[0], int(c[0]), format)


def _grid(ask: Ask, images: Pixels, c: Classes, format: png.Format) -> bytes:
    loaded = ask.loaded
    about = {"model": loaded.model, "version": loaded.version, "digest": loaded.digest}
    seeds = None if ask.seeds is None else list(ask.seeds)
    return png.encode(make_grid(images), format, {**about, "seeds": seeds})


def _zip(ask: Ask, images: Pixels, c: Classes, format: png.Format) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for i, pixels in enumerate(images):
            seed = ask.seed(i)
            name = f"{i:06d}.{format}" if seed is None else f"{i:06d}-seed-{seed}.{format}"
            # A fixed date: the same request gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), ask.encode(i, pixels, int(c[i]), format))
    return buffer.getvalue()


def _json(ask: Ask, images: Pixels, c: Classes, format: png.Format) -> bytes:
    data = [
        {
            "seed": ask.seed(i),
            "class": ask.class_name(int(c[i])),
            "b64_json": base64.b64encode(ask.encode(i, pixels, int(c[i]), format)).decode(),
        }
        for i, pixels in enumerate(images)
    ]
    loaded = ask.loaded
    about = {"model": loaded.model, "version": loaded.version, "digest": loaded.digest}
    return json.dumps({**about, "data": data}).encode()


def _npy(ask: Ask, images: Pixels, c: Classes, format: png.Format) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


_RESPONSES: dict[str, tuple[Callable[[Ask, Pixels, Classes, png.Format], bytes], str | None]] = {
    "image": (_image, None),
    "grid": (_grid, None),
    "zip": (_zip, "application/zip"),
    "json": (_json, "application/json"),
    "npy": (_npy, "application/octet-stream"),
}


async def _loaded(ctx: Context, ref: str) -> Loaded:
    model, version = split_ref(ref)
    found = ctx.engine.in_memory(model, version)
    return found or await to_thread.run_sync(ctx.engine.get, model, version)


def _check_size(ctx: Context, loaded: Loaded, n: int) -> None:
    settings, resolution = ctx.settings, loaded.sampler.config.img_resolution
    for name, limit in (
        ("max_images_per_request", settings.max_images_per_request),
        ("max_queue_size", settings.max_queue_size),  # more would never fit
    ):
        if n > limit:
            raise BadRequestError(f"n is {n}; {name} allows {limit}; ask several times", field="n")
    pixels = n * resolution**2
    if pixels > settings.max_pixels_per_request:
        limit = settings.max_pixels_per_request
        raise BadRequestError(
            f"{n} images of {resolution}×{resolution} are {pixels} pixels; "
            f"max_pixels_per_request allows {limit}; ask for fewer at a time",
            field="n",
        )


def _ask(loaded: Loaded, body: ImagesRequest) -> Ask:
    seeds: Sequence[int] | None = body.seeds
    if body.seed is not None:
        seeds = range(body.seed, body.seed + body.count)
    if seeds is None and body.latents is None:
        first = secrets.randbelow(MAX_SEED - body.count)
        seeds = range(first, first + body.count)
    latents = None if body.latents is None else _latents(loaded, body.latents)
    refs = body.classes if body.classes is not None else [body.class_] * body.count
    classes = None
    if body.class_ is not None or body.classes is not None:
        field = "classes" if body.classes is not None else "class"
        classes = np.array([class_index(loaded, ref, field) for ref in refs], np.int64)
    return Ask(loaded, seeds, latents, classes, body.truncation)


def _latents(loaded: Loaded, rows: list[list[float]]) -> Latents:
    z_dim = loaded.sampler.config.z_dim
    for i, row in enumerate(rows):
        if len(row) != z_dim:
            raise BadRequestError(
                f"latents[{i}] has {len(row)} numbers; {loaded.ref} takes {z_dim}", field="latents"
            )
        if max(map(abs, row)) > 1e6:
            raise BadRequestError(
                f"latents[{i}] holds a number beyond ±1e6; latents are drawn from N(0, 1)",
                field="latents",
            )
    return np.array(rows, np.float32)


def _headers(loaded: Loaded) -> dict[str, str]:
    return {
        "X-Model": loaded.model,
        "X-Model-Version": str(loaded.version),
        "X-Model-Digest": loaded.digest,
    }


def _etag(ask: Ask) -> str:
    classes = None if ask.classes is None else ask.classes.tolist()
    seeds = None if ask.seeds is None else list(ask.seeds)
    # Model and version too, though the digest says what is drawn: the file's metadata names them.
    key = [ask.loaded.ref, ask.loaded.digest, ask.loaded.certificate_id, seeds, classes]
    return f'"{sha256(json.dumps([*key, ask.truncation]).encode()).hexdigest()[:32]}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    candidates = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in candidates or etag in candidates


def _pinned_url(loaded: Loaded, seed: int, class_: str | None, truncation: float) -> str:
    query = {} if class_ is None else {"class": class_}
    if truncation != 1.0:
        query["truncation"] = repr(truncation)
    path = f"/v1/models/{quote(loaded.ref, safe='@')}/images/{seed}.png"
    return f"{path}?{urlencode(query)}" if query else path


async def _unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """Await `answer`, but cancel it when the client hangs up: its place goes to somebody else."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGoneError("the client hung up before its images were ready")
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
