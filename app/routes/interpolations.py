"""Owns POST /v1/interpolations: a walk between latents as a moving image."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app import animations, png
from app.answers import admit, image_headers, loaded_version, unless_gone
from app.ask import Ask
from app.classes import asked_classes
from app.context import Context, Ctx
from app.engine import Loaded
from app.errors import BadRequestError
from app.latents import explicit_latents
from app.schemas import InterpolationRequest
from app.walks import Walk, stops
from training.model.grid import make_grid
from training.model.sampling import Classes, Pixels

router = APIRouter(prefix="/v1", tags=["images"])

_MEDIA_TYPES = {**animations.MEDIA_TYPES, "grid": png.MEDIA_TYPES["png"]}


@router.post(
    "/interpolations",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in _MEDIA_TYPES.values()}}},
)
async def create_interpolation(request: Request, ctx: Ctx, body: InterpolationRequest) -> Response:
    """Frames on the way from latent to latent: animated WebP, APNG or GIF, or all in one PNG."""
    loaded = await loaded_version(ctx, body.model)
    _check_size(ctx, loaded, body.frames)
    walk = _walk(loaded, body)

    def finish(images: Pixels, c: Classes) -> bytes:
        about = _metadata(walk, c, body.num_keys)
        if body.format == "grid":
            return png.encode_png(make_grid(images), about)
        return animations.encode(images, body.format, body.frame_ms, about)

    caller = admit(request, ctx, body.frames)
    answer = ctx.batcher.submit(loaded, body.frames, walk.draw, finish, caller.name)
    data = await unless_gone(request, answer)
    headers = {**image_headers(loaded), **caller.headers}
    if body.seeds is not None:
        headers["X-Seed"] = str(body.seeds[0])
    return Response(data, headers=headers, media_type=_MEDIA_TYPES[body.format])


def _check_size(ctx: Context, loaded: Loaded, frames: int) -> None:
    settings, resolution = ctx.settings, loaded.sampler.config.img_resolution
    pixels = frames * resolution**2
    for name, limit, asked in (
        ("max_images_per_request", settings.max_images_per_request, frames),
        ("max_queue_size", settings.max_queue_size, frames),  # more would never fit
        ("max_pixels_per_request", settings.max_pixels_per_request, pixels),
    ):
        if asked > limit:
            raise BadRequestError(
                f"frames is {frames}, of {resolution}×{resolution} pixels: {pixels} in all; "
                f"{name} allows {limit}; ask for fewer frames",
                field="frames",
            )


def _walk(loaded: Loaded, body: InterpolationRequest) -> Walk:
    latents = None if body.latents is None else explicit_latents(loaded, body.latents)
    classes = asked_classes(loaded, body.class_, body.classes, body.num_keys)
    keys = Ask(loaded, body.seeds, latents, classes, body.truncation)
    return Walk(keys, body.frames, body.space, body.loop)


def _metadata(walk: Walk, c: Classes, num_keys: int) -> dict[str, Any]:
    """What the file says of itself: enough to make it again, but for latents that were given."""
    keys, loaded = walk.keys, walk.keys.loaded
    key_frames = stops(num_keys, walk.frames, walk.loop)[:num_keys]
    return {
        "model": loaded.model,
        "version": loaded.version,
        "digest": loaded.digest,
        "seeds": keys.seeds,
        "classes": [keys.class_name(c[i]) for i in key_frames],
        "frames": walk.frames,
        "space": walk.space,
        "loop": walk.loop,
        "truncation": keys.truncation,
        "certificate": loaded.certificate_id,
    }
