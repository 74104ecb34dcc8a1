"""Owns the verdict on one image file: what is taken as it is, what is converted, what is refused.

Pillow reads formats that nobody checks, warns where it should refuse, clips 16-bit samples and
ignores EXIF rotation; here each of these is decided. What untrusted files do to a decoder is the
business of `decoder.py`, the only place that calls `decode` and `read_header` on any.
"""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 50_000_000
MIN_SIDE = 4
WHITE = (255, 255, 255)

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION, BITS, PHOTOMETRIC, WHITE_IS_ZERO = 274, 258, 262, 0
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where a file keeps EXIF or XMP, beside a TIFF, which is one block of it.
METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
BLOCK_PIXELS = 1 << 20

Colour = tuple[int, int, int]


class RejectedError(Exception):
    """One file is refused; the message is its reason."""


@dataclass(frozen=True)
class Target:
    """What an image is brought to; background: RGB in [0, 255], under transparent pixels."""

    resolution: int
    channels: int
    background: Colour = WHITE


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded; side: of the shorter edge."""

    side: int
    grey: bool


@dataclass(frozen=True)
class Decoded:
    """uint8 pixels, (resolution, resolution, channels) row by row, and what had to be done."""

    pixels: bytes
    conversions: tuple[str, ...]


def check_length(num_bytes: int, most: int = MAX_IMAGE_BYTES) -> None:
    """Refuse files that are empty or too long to be one image; raises RejectedError."""
    if num_bytes == 0:
        raise RejectedError("is empty")
    if num_bytes > most:
        raise RejectedError(f"is {num_bytes:,} bytes long; max_image_bytes allows {most:,}")


def read_header(
    data: bytes, background: Colour = WHITE, max_pixels: int = MAX_IMAGE_PIXELS
) -> Header:
    """Size and kind of an image, its pixels still undecoded.

    Raises RejectedError, and whatever else a damaged file makes Pillow raise.
    """
    with _opened(data, max_pixels) as image:
        grey = image.mode in GREY_MODES or _is_deep_ppm(image)
        plain = len(set(background)) == 1 or not image.has_transparency_data
        return Header(side=min(image.size), grey=grey and plain)


def decode(data: bytes, target: Target, max_pixels: int = MAX_IMAGE_PIXELS) -> Decoded:
    """The first frame of an image file, upright, its centre square fitted to `target`.

    It is resized in the colours that the file has, transparent ones by their share, and only then
    brought to grey or RGB: so the largest file costs two images of its size. Raises as
    `read_header`.
    """
    with _opened(data, max_pixels) as image:
        done = ["first frame"] if getattr(image, "is_animated", False) else []
        upright = _upright(image, done)
        plain = _with_plain_samples(upright, image, done)
        return fit(plain, target, tuple(done))


def fit(image: Image.Image, target: Target, done: tuple[str, ...] = ()) -> Decoded:
    """The centre square of an image of mode L, LA, RGB, RGBA or CMYK as `target` wants it.

    An image that has that size already is not resampled. done: what was converted before.
    """
    conversions = list(done)
    if image.size != (target.resolution, target.resolution):
        image = _resized(image, target.resolution)
        conversions.append("resized")
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, conversions)
    elif image.mode in ("LA", "RGBA"):
        image = _on_paper(image, target.background)
        conversions.append("transparency on background")
    mode = "L" if target.channels == 1 else "RGB"
    if image.mode != mode:
        conversions.append(f"{image.mode} to {mode}")
        image = image.convert(mode)
    return Decoded(image.tobytes(), tuple(conversions))


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as e:
        raise RejectedError(f"is not a readable image ({', '.join(sorted(FORMATS))})") from e
    width, height = image.size
    if width * height > max_pixels:
        raise RejectedError(
            f"is {width}×{height}: more than {max_pixels:,} pixels (max_image_pixels)"
        )
    if min(width, height) < MIN_SIDE:
        raise RejectedError(f"is {width}×{height}: smaller than {MIN_SIDE}×{MIN_SIDE}")
    return image


# ── upright ──────────────────────────────────────────────────────────────────────────────────


def _upright(image: Image.Image, done: list[str]) -> Image.Image:
    """The pixels, loaded, and turned as EXIF or XMP say."""
    tiff = _tiff_tags(image).get(ORIENTATION, 1)  # before Pillow turns it and forgets
    image.load()
    method = None if tiff in TRANSPOSED else TRANSPOSED.get(_orientation(image))
    if method is not None or tiff in TRANSPOSED:
        done.append("rotated by EXIF")
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> Any:
    if not any(key in image.info for key in METADATA):
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  what cannot be read turns nothing, as in any viewer
        return 1


def _tiff_tags(image: Image.Image) -> Any:
    """The tags of a TIFF, nothing of any other file."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


# ── samples ──────────────────────────────────────────────────────────────────────────────────


def _with_plain_samples(image: Image.Image, file: Image.Image, done: list[str]) -> Image.Image:
    """The image with 8-bit samples of mode L, LA, RGB, RGBA or CMYK; file: as it was opened."""
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or _is_deep_ppm(file):
        done.append(f"{image.mode} to L")
        return _to_eight_bits(image, _tiff_tags(file))
    if image.mode in ("I", "F"):
        raise RejectedError("has 32-bit samples of unknown range; save it with 8 or 16 bits")
    if image.mode == "CMYK" and file.format == "JPEG" and "adobe" not in file.info:
        return ImageChops.invert(image)  # Pillow takes all of them for Adobe's, who store it so
    if image.has_transparency_data:
        mode = "LA" if image.mode in ("1", "L", "LA", "La") else "RGBA"
    else:
        mode = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if image.mode == mode:
        return image
    if mode in ("L", "RGB"):
        done.append(f"{image.mode} to {mode}")
    return image.convert(mode)


def _is_deep_ppm(image: Image.Image) -> bool:
    # Pillow opens a 16-bit PGM as 32-bit integers, but scaled to 0…65535.
    return image.format == "PPM" and image.mode == "I"


def _to_eight_bits(image: Image.Image, tags: Any) -> Image.Image:
    """16-bit grey scaled to 8 bits, part by part: the whole in floats would be four times as much.

    tags: of a TIFF, which may have 12 bits, or black where others have white.
    """
    import numpy as np  # takes longer to import than most images to decode

    samples = np.asarray(image)
    scale = np.float32(4095 / 255 if tags.get(BITS) == (12,) else 65535 / 255)
    found = np.empty(samples.shape, np.uint8)
    rows = max(1, BLOCK_PIXELS // image.width)
    for top in range(0, image.height, rows):
        found[top : top + rows] = np.rint(samples[top : top + rows] / scale).clip(0, 255)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        np.subtract(255, found, found)
    return Image.fromarray(found)


# ── size and colour ──────────────────────────────────────────────────────────────────────────


def _resized(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
    box = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.LANCZOS, box=box)


def _on_paper(image: Image.Image, background: Colour) -> Image.Image:
    paper = Image.new("RGBA", image.size, (*background, 255))
    mixed = Image.alpha_composite(paper, image.convert("RGBA"))
    grey = image.mode == "LA" and len(set(background)) == 1
    return mixed.convert("L" if grey else "RGB")


def _cmyk_to_rgb(image: Image.Image, done: list[str]) -> Image.Image:
    """By the colour profile of the file, if it has one that can be used."""
    profile = image.info.get("icc_profile")
    found = _by_profile(image, profile) if profile else None
    done.append("CMYK to RGB" if found is None else "CMYK to RGB by its ICC profile")
    return image.convert("RGB") if found is None else found


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    from PIL import ImageCms  # takes long to import, and few files need it

    try:
        theirs, ours = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, theirs, ours, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # damaged, or of another kind of colour
        return None
