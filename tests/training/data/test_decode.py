import contextlib
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from training.data.decode import RejectedError, decode, fit, quiet_pillow, read_header

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.fixture(autouse=True)
def as_in_an_import() -> Iterator[None]:
    with quiet_pillow():
        yield


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(decode(data).image)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_grey_formats_keep_every_pixel(encode, format):
    decoded = decode(encode(RAMP, format))
    assert np.array_equal(np.asarray(decoded.image.convert("L")), RAMP)
    assert decoded.image.mode == ("RGB" if format == "GIF" else "L")  # a GIF is a palette


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_are_read(encode, format):
    assert decode(encode(np.full((8, 8, 3), 200, np.uint8), format)).image.size == (8, 8)


@pytest.mark.parametrize("format", ["ICO", "TGA", "PDF", "EPS"])
def test_formats_outside_the_list_are_rejected(encode, format):
    with pytest.raises(RejectedError, match="not a readable image"):
        decode(encode(np.full((16, 16, 3), 200, np.uint8), format))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(encode, format):
    deep = np.array([[0, 257, 256 * 128], [1000, 65535, 40000], [5, 6, 7], [9, 9, 9]], np.uint16)
    deep = np.hstack([deep, deep])
    decoded = decode(encode(deep, format))
    assert np.array_equal(np.asarray(decoded.image), np.round(deep / 257).astype(np.uint8))
    assert read_header(io.BytesIO(encode(deep, format))).grey


def test_big_endian_sixteen_bit_grey_is_scaled(encode):
    deep = Image.frombytes("I;16B", (4, 4), np.full(16, 257 * 77, ">u2").tobytes())
    assert np.unique(pixels_of(encode(deep, "TIFF"))).tolist() == [77]


def test_floating_point_samples_are_rejected(encode):
    with pytest.raises(RejectedError, match="32-bit samples"):
        decode(encode(np.zeros((8, 8), np.float32), "TIFF"))


def test_cmyk_becomes_its_colour(encode):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    decoded = decode(encode(cyan, "TIFF"))
    assert decoded.image.mode == "RGB"
    assert decoded.image.getpixel((3, 3)) == (0, 255, 255)
    assert decoded.conversions == ("CMYK to RGB",)


def test_palette_becomes_its_colours(encode):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 250])
    assert decode(encode(image)).image.getpixel((0, 0)) == (0, 0, 250)


def test_a_transparent_palette_entry_becomes_white(encode):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 250])
    assert decode(encode(image, transparency=1)).image.getpixel((0, 0)) == (255, 255, 255)


def test_rgba_is_composited_on_white(encode):
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert decode(encode(clear)).image.getpixel((0, 0)) == (255, 255, 255)
    assert decode(encode(half)).image.getpixel((0, 0)) == (127, 127, 127)


def test_grey_with_alpha_stays_grey(encode):
    decoded = decode(encode(Image.new("LA", (8, 8), (40, 255))))
    assert decoded.image.mode == "L"
    assert decoded.image.getpixel((0, 0)) == 40


def test_one_bit_images_become_black_and_white(encode):
    image = Image.new("1", (8, 8), 0)
    image.putpixel((2, 1), 1)
    assert np.unique(pixels_of(encode(image))).tolist() == [0, 255]


def test_exif_rotation_is_applied(encode):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise to view
    image = np.zeros((8, 16), np.uint8)
    image[:, 8:] = 255
    decoded = decode(encode(image, exif=exif))
    assert decoded.image.size == (8, 16)
    assert decoded.image.getpixel((0, 0)) == 0
    assert decoded.image.getpixel((0, 15)) == 255
    assert decoded.conversions == ("rotated by EXIF",)


def test_an_animation_gives_its_first_frame(encode):
    frames = [Image.new("L", (8, 8), v) for v in (50, 200)]
    decoded = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.unique(np.asarray(decoded.image.convert("L"))).tolist() == [50]
    assert "first frame" in decoded.conversions


def test_a_lying_extension_does_not_matter(encode):
    assert read_header(io.BytesIO(encode(RAMP, "BMP"))).side == 8


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_every_truncation_is_rejected_or_decoded_never_a_crash(encode, format):
    data = encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), format)
    rejected = 0
    for end in range(0, len(data) - 20, 7):
        try:
            decode(data[:end])
        except RejectedError:
            rejected += 1
    assert rejected > 0.9 * len(range(0, len(data) - 20, 7))


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "PPM", "WEBP", "JPEG"])
def test_flipped_bytes_are_rejected_or_decoded_never_a_crash(encode, format):
    data = encode(RAMP, format)
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(256)
        with contextlib.suppress(RejectedError):
            decode(bytes(damaged))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 10_000, 60_000])
def test_an_image_over_the_pixel_cap_is_rejected_by_its_header(side):
    for read in (decode, lambda data: read_header(io.BytesIO(data))):
        with pytest.raises(RejectedError, match="more than 64,000,000 pixels"):
            read(png_header(side, side))


def test_a_speck_is_rejected(encode):
    with pytest.raises(RejectedError, match="1×1"):
        decode(encode(np.zeros((1, 1), np.uint8)))


def test_metadata_that_makes_pillow_warn_is_no_reason_to_reject(encode):
    tags = ImageFileDirectory_v2()
    tags[270] = "x" * 10
    data = encode(RAMP, "TIFF", tiffinfo=tags)
    assert np.array_equal(pixels_of(data), RAMP)


def test_an_image_of_the_right_size_is_not_resampled():
    pixels, conversions = fit(Image.fromarray(RAMP), 8, 1)
    assert np.array_equal(pixels[..., 0], RAMP)
    assert conversions == ()


def test_the_centre_square_is_kept():
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = RAMP
    pixels, conversions = fit(Image.fromarray(wide), 8, 1)
    assert np.array_equal(pixels[..., 0], RAMP)
    assert conversions == ("resized",)


def test_grey_fills_three_channels_and_colour_is_weighed_into_one():
    grey, _ = fit(Image.new("L", (8, 8), 90), 8, 3)
    assert grey.shape == (8, 8, 3)
    assert np.unique(grey).tolist() == [90]
    green, conversions = fit(Image.new("RGB", (8, 8), (0, 255, 0)), 8, 1)
    assert np.unique(green).tolist() == [150]  # ITU-R 601: .587 of 255
    assert conversions == ("RGB to L",)
