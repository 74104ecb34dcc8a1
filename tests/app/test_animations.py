import io
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import animations

MARK = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ABOUT = {"model": "mnist", "seeds": [3, 4], "class": "Ünder 数"}
FORMATS: list[animations.Format] = ["apng", "webp", "gif"]


def walk(n: int, height: int, width: int, channels: int) -> np.ndarray:
    """A ramp that moves, (n, H, W, C)."""
    y, x, k = np.mgrid[:height, :width, :channels]
    return np.stack([7 * i + 3 * x + 5 * y + 40 * k for i in range(n)]).astype(np.uint8)


def shown(data: bytes) -> np.ndarray:
    """Each frame as a viewer sees it, (n, H, W, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (17, 33)])
@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("format", ["apng", "webp"])
def test_every_frame_keeps_every_pixel(format, n, size, channels) -> None:
    frames = walk(n, *size, channels)
    assert np.array_equal(
        shown(animations.encode(frames, format, 40, ABOUT)), np.broadcast_to(frames, (n, *size, 3))
    )


def test_a_gif_keeps_every_grey_and_nears_every_colour() -> None:
    grey, colour = walk(5, 28, 28, 1), walk(5, 32, 32, 3) // 4
    assert (shown(animations.encode(grey, "gif", 40, ABOUT)) == grey).all()
    seen = shown(animations.encode(colour, "gif", 40, ABOUT))
    assert seen.shape == colour.shape
    assert np.abs(seen.astype(int) - colour).mean() < 4


@pytest.mark.parametrize("format", FORMATS)
def test_it_moves_for_ever_at_the_pace_asked_for(format: animations.Format) -> None:
    with Image.open(io.BytesIO(animations.encode(walk(4, 8, 8, 3), format, 120, ABOUT))) as image:
        assert (image.n_frames, image.info["loop"]) == (4, 0)
        for i in range(4):
            image.seek(i)
            image.load()
            assert image.info["duration"] == 120
        assert animations.MEDIA_TYPES[format].split("/")[1].upper().endswith(str(image.format))


@pytest.mark.parametrize(("asked", "kept"), [(1, 20), (24, 20), (26, 30), (40, 40)])
def test_a_gif_counts_in_hundredths_and_never_below_two(asked: int, kept: int) -> None:
    with Image.open(io.BytesIO(animations.encode(walk(2, 8, 8, 1), "gif", asked, ABOUT))) as image:
        assert image.info["duration"] == kept


@pytest.mark.parametrize("frame_ms", [1, animations.MAX_FRAME_MS])
def test_an_apng_keeps_any_time(frame_ms: int) -> None:
    data = animations.encode(walk(2, 8, 8, 1), "apng", frame_ms, ABOUT)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["duration"] == frame_ms


@pytest.mark.parametrize("format", FORMATS)
def test_each_carries_the_mark_of_a_generated_image(format: animations.Format) -> None:
    data = animations.encode(walk(3, 16, 16, 3), format, 40, ABOUT)
    with Image.open(io.BytesIO(data)) as image:
        assert MARK in image.info["comment" if format == "gif" else "xmp"]


def test_apng_and_gif_say_what_made_them() -> None:
    with Image.open(io.BytesIO(animations.encode(walk(3, 8, 8, 1), "apng", 40, ABOUT))) as image:
        assert json.loads(image.text["noisewell"]) == ABOUT
    with Image.open(io.BytesIO(animations.encode(walk(3, 8, 8, 1), "gif", 40, ABOUT))) as image:
        assert json.loads(image.info["comment"]).items() >= ABOUT.items()


def test_equal_frames_move_no_faster() -> None:
    """WebP and GIF may show a frame twice as long in place of showing it again."""
    frames = np.repeat(walk(2, 8, 8, 1), 3, axis=0)
    for format in FORMATS:
        with Image.open(io.BytesIO(animations.encode(frames, format, 40, ABOUT))) as image:
            lasts = 0
            for i in range(image.n_frames):
                image.seek(i)
                image.load()
                lasts += image.info["duration"]
        assert lasts == 6 * 40


def test_a_program_that_knows_png_alone_sees_the_first_frame() -> None:
    frames = walk(3, 8, 8, 3)
    data = animations.encode(frames, "apng", 40, ABOUT)
    at, plain = 8, data[:8]
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            plain += data[at : at + 12 + length]
        at += 12 + length
    assert np.array_equal(shown(plain), frames[:1])


def test_frames_of_an_apng_are_numbered_without_gaps() -> None:
    data, numbers = animations.encode(walk(5, 8, 8, 3), "apng", 40, ABOUT), []
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] in (b"fcTL", b"fdAT"):
            numbers += struct.unpack(">I", data[at + 8 : at + 12])
        at += 12 + length
    assert numbers == list(range(9))


@pytest.mark.skipif(not shutil.which("pngcheck"), reason="pngcheck is not installed")
def test_libpngs_own_checker_finds_no_fault_in_an_apng(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}-{channels}.png" for n in (1, 7) for channels in (1, 3)]
    for file in files:
        n, channels = map(int, file.stem.split("-"))
        file.write_bytes(animations.encode(walk(n, 30, 20, channels), "apng", 40, ABOUT))
    done = subprocess.run(["pngcheck", "-q", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
