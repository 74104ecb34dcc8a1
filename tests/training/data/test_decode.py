import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from training.data.decode import RejectedError, Target, decode, fit, read_header

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
GREY8, RGB8 = Target(8, 1), Target(8, 3)


@pytest.fixture(autouse=True)
def as_in_a_decoder(monkeypatch) -> None:
    warnings.simplefilter("ignore")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def array_of(pixels: bytes, target: Target) -> np.ndarray:
    """(H, W), or (H, W, 3) of a coloured target."""
    shape = (target.resolution, target.resolution, target.channels)
    array = np.frombuffer(pixels, np.uint8).reshape(shape)
    return array[..., 0] if target.channels == 1 else array


def grey_of(data: bytes) -> np.ndarray:
    return array_of(decode(data, GREY8).pixels, GREY8)


def colour_of(data: bytes) -> tuple[int, ...]:
    """Of the first pixel of an image of 8×8."""
    return tuple(map(int, array_of(decode(data, RGB8).pixels, RGB8)[0, 0]))


def is_taken_as_it_is(data: bytes, pixels: np.ndarray) -> bool:
    """Whether a file of 8×8 comes out as these pixels, (8, 8) or (8, 8, 3)."""
    target = GREY8 if pixels.ndim == 2 else RGB8
    return np.array_equal(array_of(decode(data, target).pixels, target), pixels)


# ── samples ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_grey_formats_keep_every_pixel(encode, format):
    assert is_taken_as_it_is(encode(RAMP, format), RAMP)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_colour_formats_keep_every_pixel(encode, format):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    data = encode(pixels, format)
    assert is_taken_as_it_is(data, pixels)
    assert decode(data, RGB8).conversions == ()


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_are_read(encode, format):
    data = encode(np.full((8, 8, 3), 200, np.uint8), format)
    assert abs(colour_of(data)[0] - 200) <= 2


@pytest.mark.parametrize("format", ["ICO", "TGA", "PDF", "EPS"])
def test_formats_outside_the_list_are_rejected(encode, format):
    with pytest.raises(RejectedError, match="not a readable image"):
        decode(encode(np.full((16, 16, 3), 200, np.uint8), format), RGB8)


DEEP = (np.arange(64, dtype=np.uint16) * 1040 + 7).reshape(8, 8)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(encode, format):
    data = encode(DEEP, format)
    assert is_taken_as_it_is(data, np.round(DEEP / 257).astype(np.uint8))
    assert read_header(data).grey


def test_big_endian_sixteen_bit_grey_is_scaled(encode):
    deep = Image.frombytes("I;16B", (8, 8), DEEP.astype(">u2").tobytes())
    assert is_taken_as_it_is(encode(deep, "TIFF"), np.round(DEEP / 257).astype(np.uint8))


def test_sixteen_bit_grey_whose_zero_is_white_is_turned_round(encode):
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    data = encode(Image.frombytes("I;16", (8, 8), DEEP.tobytes()), "TIFF", tiffinfo=tags)
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data = data[:at] + struct.pack("<H", 0) + data[at + 2 :]  # Pillow writes 1, whatever is asked
    assert is_taken_as_it_is(data, 255 - np.round(DEEP / 257).astype(np.uint8))


def test_many_rows_of_sixteen_bits_are_scaled_block_by_block(encode, monkeypatch):
    monkeypatch.setattr("training.data.decode.BLOCK_PIXELS", 24)
    assert is_taken_as_it_is(encode(DEEP), np.round(DEEP / 257).astype(np.uint8))


def test_floating_point_samples_are_rejected(encode):
    with pytest.raises(RejectedError, match="32-bit samples"):
        decode(encode(np.zeros((8, 8), np.float32), "TIFF"), GREY8)


def test_one_bit_images_become_black_and_white(encode):
    bits = np.random.default_rng(0).integers(0, 2, (8, 8)).astype(bool)
    assert is_taken_as_it_is(encode(Image.fromarray(bits)), bits * np.uint8(255))
    assert decode(encode(Image.fromarray(bits)), GREY8).conversions == ("1 to L",)


# ── colours ──────────────────────────────────────────────────────────────────────────────────

INKS = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
PLAIN_RGB = ((255 - INKS[..., :3].astype(int)) * (255 - INKS[..., 3:]) / 255).round()


def test_cmyk_becomes_its_colour(encode):
    decoded = decode(encode(Image.fromarray(INKS, "CMYK"), "TIFF"), RGB8)
    off = array_of(decoded.pixels, RGB8) - PLAIN_RGB
    assert np.abs(off).max() <= 1  # Pillow rounds once more
    assert decoded.conversions == ("CMYK to RGB",)


@pytest.mark.parametrize("adobe", [True, False])
def test_a_cmyk_jpeg_is_inverted_if_adobe_wrote_it(encode, adobe):
    data = encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)
    if not adobe:
        at = data.index(b"\xff\xee\x00\x0eAdobe")
        data = data[:at] + data[at + 16 :]
    expected = (0, 255, 255) if adobe else (0, 0, 0)  # all ink but cyan, black too
    assert np.abs(np.subtract(colour_of(data), expected)).max() <= 2


def test_a_profile_that_cannot_be_used_leaves_the_plain_conversion(encode):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"damaged", srgb):
        data = encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF", icc_profile=profile)
        assert colour_of(data) == (0, 255, 255)


def ink_profile(lab: tuple[int, int, int]) -> bytes:
    """An ICC profile for which full cyan alone is `lab` (L in [0, 100]) and all else is white."""
    white = (0xFF00, 0x8000, 0x8000)
    cyan = (lab[0] * 0xFF00 // 100, (lab[1] + 128) << 8, (lab[2] + 128) << 8)
    corners = [cyan if corner == 8 else white for corner in range(16)]  # C changes last
    table = b"mft2" + bytes(4) + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table += struct.pack(">HH8H", 2, 2, *(0, 65535) * 4)
    table += b"".join(struct.pack(">3H", *corner) for corner in corners)
    table += struct.pack(">6H", *(0, 65535) * 3)
    kinds = struct.pack(">I4sI4s4s4s", 144 + len(table), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    white_of_d50 = struct.pack(">3i", 63190, 65536, 54061)
    head = kinds + bytes(12) + b"acsp" + bytes(28) + white_of_d50
    return head.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_is_seen_through_its_own_profile(encode, format):
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    options = {"quality": 100} if format == "JPEG" else {}
    data = encode(image, format, icc_profile=ink_profile((50, 0, 0)), **options)
    decoded = decode(data, RGB8)
    grey = 119  # L* 50 is 18.4 % of the light of white, in sRGB 119
    assert np.abs(array_of(decoded.pixels, RGB8).astype(int) - grey).max() <= 1
    assert decoded.conversions == ("CMYK to RGB by its ICC profile",)


PALETTE = np.random.default_rng(1).integers(0, 256, (64, 3), np.uint8)


def palette_image() -> Image.Image:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
    image.putpalette(PALETTE.tobytes())
    return image


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette_becomes_its_colours(encode, format):
    assert is_taken_as_it_is(encode(palette_image(), format), PALETTE.reshape(8, 8, 3))


def test_a_transparent_palette_entry_becomes_the_background(encode):
    expected = PALETTE.copy()
    expected[5] = 255
    assert is_taken_as_it_is(encode(palette_image(), transparency=5), expected.reshape(8, 8, 3))


ALPHA = (np.arange(64, dtype=np.uint8) * 4 + 3).reshape(8, 8)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
def test_alpha_mixes_pixels_and_background_by_its_share(encode, background):
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    target = Target(8, 3, background)
    decoded = decode(encode(np.dstack([pixels, ALPHA])), target)
    share = ALPHA[..., None] / 255
    exact = pixels * share + np.array(background) * (1 - share)
    assert np.abs(array_of(decoded.pixels, target) - exact).max() <= 0.51
    assert decoded.conversions == ("transparency on background",)


def test_what_is_transparent_does_not_bleed_when_an_image_shrinks(encode):
    image = np.zeros((16, 16, 4), np.uint8)
    image[:, :8] = (255, 0, 0, 255)
    image[:, 8:] = (0, 255, 0, 0)  # green that nobody sees
    target = Target(8, 3, (255, 0, 0))
    decoded = array_of(decode(encode(image), target).pixels, target)
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() <= 1


def test_grey_with_alpha_stays_grey_on_grey_and_takes_the_colour_of_any_other(encode):
    data = encode(Image.new("LA", (8, 8), (40, 255)))
    assert np.unique(grey_of(data)).tolist() == [40]
    assert read_header(data).grey
    assert not read_header(data, background=(255, 0, 0)).grey
    clear = encode(Image.new("LA", (8, 8), (40, 0)))
    red = Target(8, 3, (255, 0, 0))
    assert array_of(decode(clear, red).pixels, red)[0, 0].tolist() == [255, 0, 0]


# ── upright ──────────────────────────────────────────────────────────────────────────────────

# What a viewer does to the stored pixels, by the EXIF standard: rows and columns, told by where the
# first row and the first column lie.
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],  # row on top, column on the right
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: stored.T[:, ::-1],  # row on the right, column on top
    7: lambda stored: stored.T[::-1, ::-1],
    8: lambda stored: stored.T[::-1],
}


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_every_exif_orientation_is_applied(encode, orientation, format):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode(encode(RAMP, format, exif=exif, **options), GREY8)
    assert np.array_equal(array_of(decoded.pixels, GREY8), SHOWN[orientation](RAMP))
    assert ("rotated by EXIF" in decoded.conversions) == (orientation != 1)


@pytest.mark.parametrize("orientation", SHOWN)
def test_the_centre_that_is_kept_is_that_of_the_upright_image(encode, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.random.default_rng(0).integers(0, 256, (16, 40), np.uint8)
    turned = decode(encode(stored, exif=exif), GREY8)
    upright = decode(encode(np.ascontiguousarray(SHOWN[orientation](stored))), GREY8)
    assert turned.pixels == upright.pixels


def test_an_orientation_that_cannot_be_read_turns_nothing(encode):
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0", b"x"):
        data = encode(np.full((8, 8, 3), 200, np.uint8), "JPEG", exif=exif)
        assert "rotated by EXIF" not in decode(data, RGB8).conversions


def test_an_animation_gives_its_first_frame(encode):
    frames = [Image.new("L", (8, 8), v) for v in (50, 200)]
    decoded = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), GREY8)
    assert set(decoded.pixels) == {50}
    assert "first frame" in decoded.conversions


def test_a_lying_extension_does_not_matter(encode):
    assert read_header(encode(RAMP, "BMP")).side == 8


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_every_truncation_is_rejected_or_decoded_never_a_crash(encode, format):
    data = encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), format)
    rejected = 0
    for end in range(0, len(data) - 20, 7):
        try:
            decode(data[:end], RGB8)
        except (RejectedError, OSError, SyntaxError, ValueError, struct.error):
            rejected += 1
    assert rejected > 0.9 * len(range(0, len(data) - 20, 7))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 10_000, 60_000])
def test_an_image_over_the_pixel_cap_is_rejected_by_its_header(side):
    for read in (lambda data: decode(data, GREY8), read_header):
        with pytest.raises(RejectedError, match="more than 64,000,000 pixels"):
            read(png_header(side, side))


def test_a_speck_is_rejected(encode):
    with pytest.raises(RejectedError, match="1×1"):
        decode(encode(np.zeros((1, 1), np.uint8)), GREY8)


def test_metadata_that_makes_pillow_warn_is_no_reason_to_reject(encode):
    tags = ImageFileDirectory_v2()
    tags[270] = "x" * 10
    data = encode(RAMP, "TIFF", tiffinfo=tags)
    assert is_taken_as_it_is(data, RAMP)


def test_an_image_of_the_right_size_is_not_resampled():
    decoded = fit(Image.fromarray(RAMP), GREY8)
    assert np.array_equal(array_of(decoded.pixels, GREY8), RAMP)
    assert decoded.conversions == ()


def test_the_centre_square_is_kept():
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = RAMP
    decoded = fit(Image.fromarray(wide), GREY8)
    assert np.array_equal(array_of(decoded.pixels, GREY8), RAMP)
    assert decoded.conversions == ("resized",)


def test_grey_fills_three_channels_and_colour_is_weighed_into_one():
    grey = fit(Image.new("L", (8, 8), 90), RGB8)
    assert grey.pixels == bytes([90]) * 192
    green = fit(Image.new("RGB", (8, 8), (0, 255, 0)), GREY8)
    assert set(green.pixels) == {150}  # ITU-R 601: .587 of 255
    assert green.conversions == ("RGB to L",)
