import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from app import png

MARK = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ABOUT = {"model": "mnist", "version": 2, "seed": 2**53 - 1, "class": "Ünder 数", "truncation": 0.5}


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (9, 1), (2, 2), (28, 28), (33, 17), (64, 64), (257, 100), (1024, 1024)]
)
def test_pillow_reads_back_every_pixel(size: tuple[int, int], channels: int) -> None:
    pixels = noise(*size, channels)
    assert np.array_equal(decoded(png.encode_png(pixels, ABOUT)), pixels)


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_flat_images_survive(value: int) -> None:
    pixels = np.full((16, 16, 3), value, np.uint8)
    assert np.array_equal(decoded(png.encode_png(pixels)), pixels)


def test_a_view_is_encoded_like_its_copy() -> None:
    view = noise(16, 16, 3)[::2, ::-1]
    assert png.encode_png(view) == png.encode_png(view.copy())


def test_equal_pixels_give_equal_bytes() -> None:
    pixels = noise(28, 28, 1)
    assert png.encode_png(pixels, ABOUT) == png.encode_png(pixels.copy(), dict(ABOUT))


def test_a_file_says_what_made_it() -> None:
    with Image.open(io.BytesIO(png.encode_png(noise(8, 8, 1), ABOUT))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        assert json.loads(image.text["noisewell"]) == ABOUT
        assert image.text["parameters"] == (
            "model: mnist, version: 2, seed: 9007199254740991, class: Ünder 数, truncation: 0.5"
        )


def test_every_checksum_is_right() -> None:
    with Image.open(io.BytesIO(png.encode_png(noise(8, 8, 1), ABOUT))) as image:
        image.verify()


def test_what_is_unknown_is_null_for_programs_and_silent_for_people() -> None:
    with Image.open(io.BytesIO(png.encode_png(noise(8, 8, 1), {"seed": None, "n": 1}))) as image:
        assert json.loads(image.text["noisewell"]) == {"seed": None, "n": 1}
        assert image.text["parameters"] == "n: 1"


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_every_format_carries_the_mark_of_a_generated_image(format: png.Format) -> None:
    data = png.encode(noise(16, 16, 3), format, ABOUT)
    with Image.open(io.BytesIO(data)) as image:
        xmp = image.info["xmp"]
        assert png.MEDIA_TYPES[format] == Image.MIME[str(image.format)]
    assert re.search(rb"<Iptc4xmpExt:DigitalSourceType>(.*?)<", xmp)[1] == MARK.encode()  # type: ignore[index]


def test_a_plain_png_holds_pixels_only() -> None:
    with Image.open(io.BytesIO(png.encode_png(noise(8, 8, 3)))) as image:
        image.load()
        assert image.info == {}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_lossy_formats_stay_close(format: png.Format, channels: int) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.broadcast_to(ramp[:, None, None], (64, 64, channels))
    shown = decoded(png.encode(np.ascontiguousarray(pixels), format)).astype(int)
    assert np.abs(shown[:, :, :channels] - pixels).max() <= 8
