"""Owns turning frames into one moving image: APNG by our own writer, WebP and GIF by Pillow."""

import struct
from collections.abc import Mapping
from io import BytesIO
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app import png

Format = Literal["webp", "apng", "gif"]
MEDIA_TYPES: dict[Format, str] = {"webp": "image/webp", "apng": "image/apng", "gif": "image/gif"}
MAX_FRAME_MS = 65_535  # APNG counts a frame's time in two bytes

_FOREVER = 0
_GIF_TICK_MS = 10


def encode(
    frames: NDArray[np.uint8], format: Format, frame_ms: int, metadata: Mapping[str, Any]
) -> bytes:
    """frames uint8 (n, H, W, C), n ≥ 1, C = 1 or 3 → a file that shows them for ever.

    frame_ms: from 1 to MAX_FRAME_MS. APNG and WebP keep every pixel; GIF has 256 colours a frame
    and shows it for a multiple of 10 ms, at least 20. WebP and GIF keep equal neighbours as one
    longer frame. Each carries the mark of a generated image; APNG and GIF also the metadata.
    """
    if format == "apng":
        return _apng(frames, frame_ms, metadata)
    if format == "webp":
        return _by_pillow(frames, "WEBP", duration=frame_ms, lossless=True, xmp=png.XMP)
    return _by_pillow(
        frames, "GIF", duration=_gif_duration(frame_ms), comment=_gif_comment(metadata)
    )


def _apng(frames: NDArray[np.uint8], frame_ms: int, metadata: Mapping[str, Any]) -> bytes:
    """The first frame is the image of a program that knows PNG alone."""
    n, height, width, channels = frames.shape
    numbers = count()
    first, *others = png.deflated(frames)

    def control() -> bytes:
        # Number, size, place, time in 1/1000 s, then: leave the canvas, replace what is there.
        fields = (next(numbers), width, height, 0, 0, frame_ms, 1000, 0, 0)
        return png.chunk(b"fcTL", struct.pack(">IIIIIHHBB", *fields))

    parts = [
        png.SIGNATURE,
        png.header(height, width, channels),
        png.chunk(b"acTL", struct.pack(">II", n, _FOREVER)),
        png.text_chunks(metadata),
        control(),
        png.chunk(b"IDAT", first),
    ]
    for stream in others:
        parts += [control(), png.chunk(b"fdAT", struct.pack(">I", next(numbers)) + stream)]
    return b"".join((*parts, png.END))


def _by_pillow(frames: NDArray[np.uint8], format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    first, *others = map(png.to_pillow, frames)
    first.save(buffer, format, save_all=True, append_images=others, loop=_FOREVER, **options)
    return buffer.getvalue()


def _gif_duration(frame_ms: int) -> int:
    """In whole ticks; browsers slow a frame of less than two down to ten."""
    return max(2, round(frame_ms / _GIF_TICK_MS)) * _GIF_TICK_MS


def _gif_comment(metadata: Mapping[str, Any]) -> bytes:
    return png.to_json({**metadata, "digital_source_type": png.SOURCE_TYPE})
