import io
import json
import re
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import png

MARK = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ABOUT = {"model": "mnist", "version": 2, "seed": 2**53 - 1, "class": "Ünder 数", "truncation": 0.5}
SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (28, 28), (33, 17), (64, 64), (257, 100), (1024, 1024)]
SAMPLES = Path(__file__).parents[2] / "training/model/bundled/mnist/samples.png"


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def flat(height: int, width: int, channels: int) -> np.ndarray:
    return np.full((height, width, channels), 200, np.uint8)


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    """A light on a slope, with the grain of a camera."""
    y, x, k = np.mgrid[:height, :width, :channels]
    light = 128 + 90 * np.sin(x / (9 + k)) * np.cos(y / 13) + 20 * np.sin((x + y) / 5)
    grain = np.random.default_rng(0).normal(0, 2, light.shape)
    return np.clip(light + grain, 0, 255).astype(np.uint8)


def drawing(height: int, width: int, channels: int) -> np.ndarray:
    """Squares of few colours."""
    return np.kron(noise(-(-height // 8), -(-width // 8), channels) // 64 * 64, np.ones((8, 8, 1)))[
        :height, :width
    ].astype(np.uint8)


KINDS = [noise, flat, smooth, drawing]


def digits() -> np.ndarray:
    """80 samples of the generator in the box, (80, 28, 28, 1)."""
    with Image.open(SAMPLES) as image:
        grid = np.asarray(image)
    rows, columns = grid.shape[0] // 28, grid.shape[1] // 28
    return grid.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 28, 28, 1)


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def by_pillow(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    png.to_pillow(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def filters_of(data: bytes) -> set[int]:
    """The filter of each row."""
    height, width, channels = decoded(data).shape
    start = data.index(b"IDAT") + 4
    rows = zlib.decompress(data[start : data.rindex(b"IEND") - 8])
    return set(np.frombuffer(rows, np.uint8).reshape(height, 1 + width * channels)[:, 0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_pillow_reads_back_every_pixel(size, channels, kind) -> None:
    pixels = kind(*size, channels)
    assert np.array_equal(decoded(png.encode_png(pixels, ABOUT)), pixels)


@pytest.mark.skipif(not shutil.which("pngcheck"), reason="pngcheck is not installed")
def test_libpngs_own_checker_finds_no_fault(tmp_path: Path) -> None:
    files: list[Path] = []
    for kind in KINDS:
        for height, width in SIZES:
            for channels in (1, 3):
                file = tmp_path / f"{kind.__name__}-{height}-{width}-{channels}.png"
                file.write_bytes(png.encode_png(kind(height, width, channels), ABOUT))
                files.append(file)
    done = subprocess.run(["pngcheck", "-q", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_byte_meets_every_neighbour(channels: int) -> None:
    """Among so many random triples stand all orders of left, up and corner, and all ties."""
    for levels in (2, 3, 5, 256):
        pixels = (noise(300, 300, channels) / 256 * levels).astype(np.uint8) * (256 // levels)
        data = png.encode_png(pixels)
        assert filters_of(data) == {4}
        assert np.array_equal(decoded(data), pixels)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (32, 32), (64, 40), (300, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_does_not_depend_on_its_batch(size, channels: int) -> None:
    images = np.stack([kind(*size, channels) for kind in KINDS * 12])
    abouts = [{**ABOUT, "seed": i} for i in range(len(images))]
    alone = [png.encode_png(image, about) for image, about in zip(images, abouts, strict=True)]
    assert png.encode_many(images, abouts) == alone
    assert png.encode_many(images[::-1], abouts[::-1]) == alone[::-1]
    assert png.encode_many(images[5:6], abouts[5:6]) == alone[5:6]


def test_no_images_make_no_files() -> None:
    assert png.encode_many(np.empty((0, 28, 28, 1), np.uint8), []) == []


def test_threads_and_what_lies_in_memory_change_nothing() -> None:
    images = [kind(48, 48, 3) for kind in KINDS] + [noise(48, 48, 3, seed) for seed in range(12)]
    first = [png.encode_png(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for seed in range(8):
            order = np.random.default_rng(seed).permutation(len(images))
            again = pool.map(lambda i: png.encode_png(images[i]), order)
            assert list(again) == [first[i] for i in order]


def test_a_view_is_encoded_like_its_copy() -> None:
    view = noise(16, 16, 3)[::2, ::-1]
    assert png.encode_png(view) == png.encode_png(view.copy())


def test_digits_and_drawings_are_not_filtered_photographs_are() -> None:
    clean = np.where(digits() < 16, 0, digits()).astype(np.uint8)  # a generator's black is not
    filters = [filters_of(png.encode_png(digit)) for digit in clean]
    assert filters.count({0}) >= 70
    assert filters_of(png.encode_png(drawing(64, 64, 3))) == {0}
    assert filters_of(png.encode_png(smooth(64, 64, 3))) == {4}


def test_files_are_at_most_a_fifth_larger_than_pillows() -> None:
    for images in (digits(), 255 - digits(), smooth(32, 32, 3)[None], smooth(256, 256, 3)[None]):
        ours = sum(map(len, png.encode_many(images, [None] * len(images))))
        assert ours <= 1.2 * sum(len(by_pillow(image)) for image in images)


def test_what_repeats_far_apart_is_stored_once() -> None:
    tile = drawing(64, 64, 3)
    once, often = (len(png.encode_png(np.tile(tile, (n, 1, 1)))) for n in (1, 8))
    assert often < 5 * once


def test_photographs_find_no_chance_matches() -> None:
    photograph = smooth(256, 256, 3)
    assert len(png.encode_png(photograph)) <= 1.03 * len(by_pillow(photograph))


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


# --- Reading


def read(data: bytes, max_bytes: int = 10**6, max_pixels: int = 10**6):
    return png.read(data, max_bytes=max_bytes, max_pixels=max_pixels)


def with_text(text: bytes, keyword: bytes = b"noisewell\0\0\0\0\0") -> bytes:
    plain = png.encode_png(noise(4, 4, 1))
    return plain[:33] + png.chunk(b"iTXt", keyword + text) + plain[33:]


def with_header(width: int, height: int, bits: int = 8, colour: int = 0) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    plain = png.encode_png(noise(4, 4, 1))
    return png.SIGNATURE + png.chunk(b"IHDR", fields) + plain[33:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (33, 17)])
def test_what_was_written_is_read_back(size, channels, kind) -> None:
    pixels, metadata = read(png.encode_png(kind(*size, channels), ABOUT))
    assert np.array_equal(pixels, kind(*size, channels))
    assert (pixels.dtype, pixels.shape, metadata) == (np.uint8, (*size, channels), ABOUT)


def test_an_image_of_another_program_has_no_metadata() -> None:
    pixels, metadata = read(by_pillow(smooth(16, 16, 3)))
    assert np.array_equal(pixels, smooth(16, 16, 3))
    assert metadata is None


def test_pixels_in_several_chunks_are_joined() -> None:
    data = by_pillow(noise(256, 256, 3))
    assert data.count(b"IDAT") > 1
    assert np.array_equal(read(data)[0], noise(256, 256, 3))


def test_the_first_of_two_texts_counts() -> None:
    second = png.chunk(b"iTXt", b'noisewell\0\0\0\0\0{"a":2}')
    assert read(with_text(b'{"a":1}').replace(png.END, second + png.END))[1] == {"a": 1}


def test_texts_of_others_are_not_taken_for_ours() -> None:
    assert read(with_text(b'{"a":1}', b"noisewell2\0\0\0\0\0"))[1] is None
    assert read(with_text(zlib.compress(b"{}"), b"noisewell\0\1\0\0\0"))[1] is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1]",
        b"7",
        b"{",
        b"\xff",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'{"a":"' + b"x" * 2**16 + b'"}',
    ],
)
def test_metadata_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="the PNG's metadata"):
        read(with_text(text))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PNG"),
        (b"GIF89a", "not a PNG"),
        (png.encode(noise(4, 4, 3), "jpeg"), "not a PNG"),
        (png.SIGNATURE, "cut off"),
        (png.SIGNATURE + png.END, "does not begin with its size"),
        (png.encode_png(noise(4, 4, 1))[:-1], "cut off"),
        (png.encode_png(noise(4, 4, 1)).replace(b"IDAT", b"IDAU"), "another checksum"),
        (png.SIGNATURE + b"\xff\xff\xff\xffIDAT" + b"x" * 99, "cut off"),
        (with_header(4, 4, bits=16), "16 bits a channel"),
        (with_header(4, 4, colour=3), "colour type 3"),
        (with_header(4, 4, colour=6), "colour type 6"),
        (with_header(0, 4), "0×4 pixels"),
        (with_header(2**31 - 1, 2**31 - 1), "expected 1 to 1000000"),
        (with_header(1001, 1000), "1001×1000 pixels; expected 1 to 1000000"),
        (with_header(5, 5), "cannot be decoded"),
        (with_header(4, 4)[:33] + png.END, "cannot be decoded"),
        (with_header(4, 4)[:33] + png.chunk(b"IDAT", b"junk") + png.END, "cannot be decoded"),
    ],
)
def test_what_is_no_image_of_ours_is_refused_in_one_sentence(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        read(data)
    assert "\n" not in str(refusal.value)


def test_a_long_file_is_refused_by_its_length() -> None:
    data = png.encode_png(noise(8, 8, 1))
    assert read(data, max_bytes=len(data))[1] is None
    with pytest.raises(ValueError, match=f"has {len(data)} bytes; at most {len(data) - 1}"):
        read(data, max_bytes=len(data) - 1)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_what_would_unpack_to_gigabytes_is_not_unpacked(kind: bytes) -> None:
    bomb = zlib.compress(bytes(50_000_000))
    plain = png.encode_png(noise(4, 4, 1))
    beside = plain[:33] + png.chunk(kind, b"a\0\0" + bomb) + plain[33:]
    overlong = with_header(4, 4)[:33] + png.chunk(b"IDAT", bomb) + png.END
    tracemalloc.start()
    try:
        assert np.array_equal(read(beside)[0], noise(4, 4, 1))
        assert not read(overlong)[0].any()
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_damaged_file_is_read_or_refused_and_nothing_else() -> None:
    whole = png.encode_png(smooth(16, 16, 3), ABOUT)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(whole[: rng.integers(len(whole)) if rng.random() < 0.2 else None])
        for at in rng.integers(0, max(1, len(data)), rng.integers(4)):
            data[at : at + 1] = rng.bytes(1)
        try:
            pixels, _ = read(bytes(data))
        except ValueError:
            continue
        assert pixels.dtype == np.uint8


def test_a_damaged_file_with_right_checksums_is_read_or_refused() -> None:
    """Bytes change inside the chunks, where checksums do not guard what comes behind them."""
    rng = np.random.default_rng(1)
    fields = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    stream = png.deflated(smooth(16, 16, 3)[None])[0]
    for _ in range(2000):
        parts = [bytearray(fields), bytearray(stream), bytearray(b"noisewell\0\0\0\0\0{}")]
        part = parts[rng.integers(3)]
        part[rng.integers(len(part))] = rng.integers(256)
        kinds = zip((b"IHDR", b"IDAT", b"iTXt"), parts, strict=True)
        chunks = b"".join(png.chunk(kind, part) for kind, part in kinds)
        try:
            pixels, _ = read(png.SIGNATURE + chunks + png.END)
        except ValueError:
            continue
        assert pixels.dtype == np.uint8
