"""Owns the good files that get mutated: one of every accepted kind that Pillow writes."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from benchmarks.imports.pictures import grained, photo_like

SEED = 7
WIDTH, HEIGHT = 61, 47
ORIENTATION = 0x0112


def photo(number: int = 0, mode: str = "RGB") -> Image.Image:
    """A small photo-like image of a mode."""
    image = photo_like(np.random.default_rng((SEED, number)), WIDTH, HEIGHT)
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16)
        return Image.fromarray(grey * 257)
    if mode in ("LA", "RGBA"):
        alpha = grained(np.random.default_rng(number), np.full((HEIGHT, WIDTH), 128, np.uint8), 60)
        image = image.convert("L" if mode == "LA" else "RGB")
        image.putalpha(Image.fromarray(alpha))
        return image
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(mode: str = "RGB") -> dict[str, Any]:
    """Options that add three more frames."""
    return {"save_all": True, "append_images": [photo(i, mode) for i in (1, 2, 3)]}


def seed_images() -> dict[str, bytes]:
    """File by name; the suffix is the right one."""
    return {
        f"{name}.{suffix}": data
        for kind in (_png, _jpeg, _webp, _bmp, _gif, _tiff, _pnm)
        for name, suffix, data in kind()
    }


Kind = Iterator[tuple[str, str, bytes]]


def _png() -> Kind:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"png-{mode.replace(';', '')}", "png", encoded(photo(0, mode), "PNG")
    yield "png-P-transparent", "png", encoded(photo(0, "P"), "PNG", transparency=3)
    yield "png-animated", "png", encoded(photo(), "PNG", duration=100, **frames())
    about = {"icc_profile": b"no profile" * 20, "exif": _exif(6), "dpi": (72, 72)}
    yield "png-metadata", "png", encoded(photo(), "PNG", **about)


def _jpeg() -> Kind:
    for mode in ("L", "RGB", "CMYK"):
        yield f"jpeg-{mode}", "jpg", encoded(photo(0, mode), "JPEG", quality=85)
        data = encoded(photo(0, mode), "JPEG", quality=85, progressive=True)
        yield f"jpeg-{mode}-progressive", "jpg", data
    yield "jpeg-444", "jpg", encoded(photo(), "JPEG", subsampling=0, optimize=True)
    yield "jpeg-restarts", "jpg", encoded(photo(), "JPEG", restart_marker_blocks=2)
    yield "jpeg-exif", "jpg", encoded(photo(), "JPEG", exif=_exif(6))


def _webp() -> Kind:
    yield "webp-lossy", "webp", encoded(photo(), "WEBP", quality=80)
    yield "webp-lossless", "webp", encoded(photo(), "WEBP", lossless=True)
    yield "webp-alpha", "webp", encoded(photo(0, "RGBA"), "WEBP", exif=_exif(3))
    yield "webp-animated", "webp", encoded(photo(), "WEBP", **frames())


def _bmp() -> Kind:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp-{mode}", "bmp", encoded(photo(0, mode), "BMP")


def _gif() -> Kind:
    yield "gif", "gif", encoded(photo(0, "P"), "GIF")
    yield "gif-transparent", "gif", encoded(photo(0, "P"), "GIF", transparency=3)
    yield "gif-animated", "gif", encoded(photo(0, "P"), "GIF", **frames("P"))


def _tiff() -> Kind:
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        yield f"tiff-{name}", "tif", encoded(photo(), "TIFF", compression=name)
    for name in ("group3", "group4"):
        yield f"tiff-{name}", "tif", encoded(photo(0, "1"), "TIFF", compression=name)
    for mode in ("L", "CMYK", "I;16", "P"):
        yield f"tiff-{mode.replace(';', '')}", "tif", encoded(photo(0, mode), "TIFF")
    yield "tiff-pages", "tif", encoded(photo(), "TIFF", **frames())
    yield "tiff-big", "tif", encoded(photo(), "TIFF", big_tiff=True)
    predictor = TiffImagePlugin.ImageFileDirectory_v2()
    predictor[317] = 2
    data = encoded(photo(), "TIFF", compression="tiff_lzw", tiffinfo=predictor)
    yield "tiff-predictor", "tif", data


def _pnm() -> Kind:
    for mode, suffix in (("1", "pbm"), ("L", "pgm"), ("RGB", "ppm")):
        yield suffix, suffix, encoded(photo(0, mode), "PPM")
    yield "pgm-16", "pgm", encoded(photo(0, "I;16"), "PPM")


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif
