from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.animation import (
    LAST_MS,
    MAX_FRAMES,
    MAX_SIDE,
    STRIP_PX,
    animate,
    fit,
    frame_of,
    list_grids,
    spread,
    write_animation,
)


def write_grids(run_dir: Path, count: int, size: tuple[int, int] = (20, 16)) -> None:
    (run_dir / "samples").mkdir()
    for i in range(count):
        shade = 40 + 200 * i // count
        Image.new("L", size, shade).save(run_dir / "samples" / f"{(i + 1) * 500:012d}.png")


def read(path: Path) -> list[tuple[np.ndarray, int]]:
    """(pixels, milliseconds) of each frame."""
    frames: list[tuple[np.ndarray, int]] = []
    with Image.open(path) as animation:
        for i in range(animation.n_frames):
            animation.seek(i)
            pixels = np.asarray(animation.convert("RGB"))
            frames.append((pixels, animation.info["duration"]))
    return frames


def test_the_grids_of_a_run_follow_one_another(tmp_path):
    write_grids(tmp_path, 5)
    assert write_animation(tmp_path)
    frames = read(tmp_path / "samples.webp")
    shades = [pixels[:100].mean() for pixels, _ in frames]
    assert shades == pytest.approx([40, 80, 120, 160, 200], abs=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["samples", "samples.webp"]


def test_the_last_frame_is_held_longer(tmp_path):
    write_grids(tmp_path, 4)
    write_animation(tmp_path)
    *others, last = [duration for _, duration in read(tmp_path / "samples.webp")]
    assert last == LAST_MS
    assert max(others) < LAST_MS / 4


def test_a_long_run_shows_a_hundred_grids_with_the_first_and_the_last(tmp_path):
    write_grids(tmp_path, 130, size=(640, 4))  # as wide as a frame, so that little is encoded
    write_animation(tmp_path)
    frames = read(tmp_path / "samples.webp")
    assert len(frames) == MAX_FRAMES
    assert frames[0][0][:3].mean() == pytest.approx(40, abs=4)
    assert frames[-1][0][:3].mean() == pytest.approx(40 + 200 * 129 // 130, abs=4)


def test_frames_are_spread_evenly():
    assert spread(3, 100) == [0, 1, 2]
    assert spread(9, 5) == [0, 2, 4, 6, 8]
    assert spread(0, 100) == []


def test_the_strip_grows_with_the_images_seen():
    def bar(cur_nimg: int) -> int:
        row = np.asarray(frame_of(Image.new("RGB", (300, 200)), cur_nimg, 4000)).astype(int)[401]
        return int((row[:, 2] > 150).sum())

    assert [bar(nimg) for nimg in (1000, 2000, 4000)] == pytest.approx([150, 300, 600], abs=1)


def test_each_frame_names_its_kimg():
    frames = [np.asarray(frame_of(Image.new("RGB", (300, 200)), n, 90_000)) for n in (500, 90_000)]
    below = [frame[-STRIP_PX + 4 :] for frame in frames]
    assert not np.array_equal(*below)
    assert all((strip > 200).any() for strip in below)


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((280, 224), (560, 448)),
        ((640, 512), (640, 512)),
        ((2560, 2048), (640, 512)),
        ((2, 900), (1, 612)),
    ],
)
def test_a_frame_is_as_large_as_640_pixels_allow(size, frame):
    whole = frame_of(Image.new("RGB", size), 0, 0)
    assert whole.size == (frame[0], frame[1] + STRIP_PX)
    assert max(whole.size) <= MAX_SIDE


def test_a_small_grid_is_enlarged_by_a_whole_factor_each_pixel_a_square():
    grid = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    large = np.asarray(fit(Image.fromarray(grid), 30, 30))
    assert np.array_equal(large, np.kron(grid, np.ones((4, 4, 1), np.uint8)))


def test_a_grid_that_cannot_be_read_or_has_another_size_is_left_out(tmp_path):
    write_grids(tmp_path, 3)
    (tmp_path / "samples" / "000000000700.png").write_bytes(b"\x89PNG torn")
    (tmp_path / "samples" / "notes.png").write_bytes(b"not a grid")
    Image.new("L", (8, 8)).save(tmp_path / "samples" / "000000000100.png")
    assert write_animation(tmp_path)
    assert len(read(tmp_path / "samples.webp")) == 3


def test_without_a_grid_there_is_no_animation(tmp_path):
    assert not write_animation(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_grids_are_in_the_order_of_training_not_of_their_names(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("900.png", "1000.png", "000000000050.png"):
        (tmp_path / "samples" / name).touch()
    assert [nimg for nimg, _ in list_grids(tmp_path)] == [50, 900, 1000]


def test_an_animation_repeats_for_ever():
    data = animate([Image.new("RGB", (8, 8), shade) for shade in ("red", "blue")])
    with Image.open(BytesIO(data)) as animation:
        assert animation.info["loop"] == 0
