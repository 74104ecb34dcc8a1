"""Owns POST /v1/images: many images in one answer, most kinds of it sent while it is made."""

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from starlette.concurrency import iterate_in_threadpool
from starlette.types import Receive, Scope, Send

from app import png
from app.answers import admit, image_headers, loaded_version, unless_gone
from app.ask import Ask
from app.bulk import Data, Grid, Json, Ndjson, Npy, Writer, Zip
from app.classes import asked_classes
from app.context import Context, Ctx
from app.engine import Loaded
from app.errors import BadRequestError, ClientGoneError
from app.latents import explicit_latents
from app.schemas import MAX_SEED, Images, ImagesRequest
from training.model.sampling import Classes, Latents, Pixels

router = APIRouter(prefix="/v1", tags=["images"])

T = TypeVar("T")
_WRITERS: dict[str, Callable[[Ask, int, png.Format], Writer]] = {
    "npy": Npy,
    "zip": Zip,
    "ndjson": Ndjson,
    "json": Json,
}
_ENDLESS = ("npy", "zip", "ndjson")  # can be read, or unpacked, while they arrive
_MEDIA_TYPES = (*png.MEDIA_TYPES.values(), *(w.media_type for w in (Zip, Npy, Ndjson)))


@router.post(
    "/images",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in _MEDIA_TYPES}, "model": Images}},
)
async def create_images(request: Request, ctx: Ctx, body: ImagesRequest) -> Response:
    """n images in one answer: a file, a grid, a zip, JSON with base64, lines of it, or .npy."""
    loaded = await loaded_version(ctx, body.model)
    _check_size(ctx, loaded, body)
    ask = _ask(loaded, body)
    caller = admit(request, ctx, body.count)
    order = _Order(ctx, ask, body.count, body.format, caller.name)
    headers = {**image_headers(loaded), **caller.headers}
    if order.ask.seeds is not None:
        headers["X-Seed"] = str(order.ask.seeds[0])
    if body.response in _WRITERS:
        writer = _WRITERS[body.response](order.ask, order.n, order.format)
        return _Streamed(_written(order, writer), writer, headers)
    data = await unless_gone(request, (_image if body.response == "image" else _grid)(order))
    return Response(data, headers=headers, media_type=png.MEDIA_TYPES[body.format])


@dataclass(frozen=True)
class _Order:
    """n images for a caller, and who makes them."""

    ctx: Context
    ask: Ask
    n: int
    format: png.Format
    caller: str

    def parts(self, finish: Callable[[Pixels, Classes, int], T]) -> AsyncGenerator[T]:
        """`finish(images, c, start)` of each part, in order."""

        def draw(rows: slice) -> tuple[Latents, Classes]:
            return self.ask.part(rows).draw()

        return self.ctx.batcher.stream(self.ask.loaded, self.n, draw, finish, self.caller)

    def place(self) -> AbstractContextManager[None]:
        """One of max_image_streams, unless a batch is all of it: that is bounded by the queue."""
        settings = self.ctx.settings
        if self.n <= settings.max_batch_size:
            return nullcontext()
        return self.ctx.image_streams.taken(settings.max_image_streams)


async def _image(order: _Order) -> bytes:
    ask = order.ask
    if order.format == "png":
        return await order.ctx.batcher.png(ask, order.caller)

    def finish(images: Pixels, c: Classes) -> bytes:
        return ask.encode(0, images[0], c[0], order.format)

    return await order.ctx.batcher.submit(ask.loaded, 1, ask.draw, finish, order.caller)


async def _grid(order: _Order) -> bytes:
    loaded, config = order.ask.loaded, order.ask.loaded.sampler.config
    with order.place():
        grid = Grid(order.n, config.img_resolution, config.img_resolution, config.img_channels)

        def finish(images: Pixels, c: Classes, start: int) -> None:
            grid.put(images, start)

        async with aclosing(order.parts(finish)) as parts:
            async for _ in parts:
                pass
        seeds = None if order.ask.seeds is None else list(order.ask.seeds)
        about = {"model": loaded.model, "version": loaded.version, "digest": loaded.digest}
        metadata = {**about, "seeds": seeds}
        return await to_thread.run_sync(png.encode, grid.pixels, order.format, metadata)


async def _written(order: _Order, writer: Writer) -> AsyncGenerator[Data]:
    with order.place():
        async with aclosing(order.parts(writer.part)) as parts:
            async for part in parts:
                yield part
        async for piece in iterate_in_threadpool(writer.end()):
            yield piece


class _Streamed(Response):
    """A body sent as it is made. Its status waits for the first part: an error before it is
    answered as any other, an error behind it breaks the connection. A client that leaves ends it.
    """

    def __init__(self, body: AsyncGenerator[Data], writer: Writer, headers: dict[str, str]) -> None:
        self.status_code, self.media_type, self.background = 200, writer.media_type, None
        length = {} if writer.length is None else {"Content-Length": str(writer.length)}
        self.init_headers({**headers, **length})
        self._body = body
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(Request(scope, receive), self._send(send))
        except ClientGoneError:
            if not self._started:
                raise

    async def _send(self, send: Send) -> None:
        async with aclosing(self._body) as body:
            async for data in body:
                if not self._started:
                    self._started = True
                    await send(
                        {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                    )
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _check_size(ctx: Context, loaded: Loaded, body: ImagesRequest) -> None:
    """Raises BadRequestError naming the limit that this would pass."""
    settings, n, resolution = ctx.settings, body.count, loaded.sampler.config.img_resolution
    pixels, said = n * resolution**2, f"n is {n}"
    in_pixels = f"{n} images of {resolution}×{resolution} are {pixels} pixels"
    checks = [("max_queue_size", min(n, settings.max_batch_size), said)]  # else it would never fit
    if body.response in _ENDLESS:
        checks += [("max_images_per_stream", n, said)]
    else:
        checks += [("max_images_per_request", n, said)]
        checks += [("max_pixels_per_request", pixels, in_pixels)]
    for name, asked, told in checks:
        limit = getattr(settings, name)
        if asked > limit:
            raise BadRequestError(
                f"{told}; {name} allows {limit} in response {body.response!r}; ask several times"
                + ("" if body.response in _ENDLESS else f", or for {' or '.join(_ENDLESS)}"),
                field="n",
            )


def _ask(loaded: Loaded, body: ImagesRequest) -> Ask:
    seeds: Sequence[int] | None = body.seeds
    if body.seed is not None:
        seeds = range(body.seed, body.seed + body.count)
    if seeds is None and body.latents is None:
        first = secrets.randbelow(MAX_SEED - body.count)
        seeds = range(first, first + body.count)
    latents = None if body.latents is None else explicit_latents(loaded, body.latents)
    classes = asked_classes(loaded, body.class_, body.classes, body.count)
    return Ask(loaded, seeds, latents, classes, body.truncation, body.include_latents)
