"""Owns the verdict on one image file: what is taken as it is, what is converted, what is refused.

Pillow reads formats that nobody checks, warns where it should refuse, clips 16-bit samples and
ignores EXIF rotation; here each of these is decided.
"""

import io
import lzma
import struct
import warnings
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 50_000_000
MIN_SIDE = 4

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
# What Pillow's parsers and zipfile raise on damaged bytes: more kinds than they document.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    ArithmeticError,
    LookupError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


class RejectedError(Exception):
    """One file is refused; the message is its reason."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded; side: of the shorter edge."""

    side: int
    grey: bool


@dataclass(frozen=True)
class Decoded:
    """An image of mode L or RGB, and what had to be done to get there."""

    image: Image.Image
    conversions: tuple[str, ...]


@contextmanager
def quiet_pillow() -> Generator[None]:
    """While images are read: oddities in metadata pass silently, oversized images are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def damage_is_rejected() -> Generator[None]:
    """Turn whatever a damaged file raises into RejectedError with a reason in words."""
    try:
        yield
    except UnidentifiedImageError as e:
        raise RejectedError(f"is not a readable image ({', '.join(FORMATS)})") from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise RejectedError(f"has more than {MAX_IMAGE_PIXELS:,} pixels") from e
    except DAMAGE as e:
        reason = str(e).strip().partition("\n")[0][:200]
        raise RejectedError(f"cannot be decoded: {reason or type(e).__name__}") from e


def check_length(num_bytes: int) -> None:
    """Refuse files that are empty or too long to be one image; raises RejectedError."""
    if num_bytes == 0:
        raise RejectedError("is empty")
    if num_bytes > MAX_IMAGE_BYTES:
        raise RejectedError(f"is {num_bytes:,} bytes long; the most is {MAX_IMAGE_BYTES:,}")


def read_header(stream: BinaryIO) -> Header:
    """Size and kind of an image, its pixels still undecoded; raises RejectedError."""
    with damage_is_rejected(), Image.open(stream, formats=FORMATS) as image:
        _check_size(image)
        return Header(side=min(image.size), grey=image.mode in GREY_MODES or _is_deep_ppm(image))


def decode(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Decoded:
    """Decode the first frame of an image file, upright, on its background; raises RejectedError."""
    with damage_is_rejected(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image)
        conversions = ["first frame"] if getattr(image, "is_animated", False) else []
        image.load()
        upright = image
        if image.getexif().get(0x0112, 1) != 1:  # Orientation
            upright = ImageOps.exif_transpose(image)
            conversions.append("rotated by EXIF")
        plain = _to_grey_or_rgb(upright, background, deep_ppm=_is_deep_ppm(image))
        if plain.mode != upright.mode:
            conversions.append(f"{upright.mode} to {plain.mode}")
        elif plain is not upright:
            conversions.append("transparency on background")
        return Decoded(plain.copy() if plain is image else plain, tuple(conversions))


def fit(
    image: Image.Image, resolution: int, channels: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The centre square of an L or RGB image as uint8 (resolution, resolution, channels).

    An image that has that size already is not resampled.
    """
    conversions = []
    if image.size != (resolution, resolution):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
        conversions.append("resized")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        conversions.append(f"{image.mode} to {mode}")
        image = image.convert(mode)
    return np.asarray(image).reshape(resolution, resolution, channels), tuple(conversions)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise RejectedError(f"is {width}×{height}: more than {MAX_IMAGE_PIXELS:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise RejectedError(f"is {width}×{height}: smaller than {MIN_SIDE}×{MIN_SIDE}")


def _is_deep_ppm(image: Image.Image) -> bool:
    # Pillow opens a 16-bit PGM as 32-bit integers, but scaled to 0…65535.
    return image.format == "PPM" and image.mode == "I"


def _to_grey_or_rgb(
    image: Image.Image, background: tuple[int, int, int], *, deep_ppm: bool
) -> Image.Image:
    if image.mode.startswith("I;16") or deep_ppm:
        samples = np.asarray(image).astype(np.float32)
        return Image.fromarray((samples / 257).round().astype(np.uint8), "L")
    if image.mode in ("I", "F"):
        raise RejectedError("has 32-bit samples of unknown range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        return _on_paper(image, background)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_paper(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(paper, layer).convert("L" if image.mode in GREY_MODES else "RGB")
