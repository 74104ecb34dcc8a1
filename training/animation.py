"""Owns the animation of a run: its grids of samples, one after another, as one WebP."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.model.files import write_atomic

MAX_FRAMES = 100
MAX_SIDE = 640
STRIP_PX = 28
_PAPER, _INK, _TRACK, _ACCENT = "#171b1d", "#e5e4df", "#30373b", "#74c7cb"
_WHOLE_MS, _SHORTEST_MS, _LONGEST_MS, LAST_MS = 5000, 60, 400, 2500
_QUALITY = 80


def write_animation(run_dir: Path) -> bool:
    """samples/<cur_nimg>.png → samples.webp, replaced whole; False if there is no grid yet.

    A grid that cannot be read, or is of another size than the newest, is left out.
    """
    grids = list_grids(run_dir)
    frames: list[Image.Image] = []
    for i in spread(len(grids), MAX_FRAMES):
        cur_nimg, path = grids[i]
        try:
            with Image.open(path) as grid:
                frames.append(frame_of(grid.convert("RGB"), cur_nimg, total_nimg=grids[-1][0]))
        except OSError:
            continue
    if not frames:
        return False
    write_atomic(
        run_dir / "samples.webp", animate([f for f in frames if f.size == frames[-1].size])
    )
    return True


def list_grids(run_dir: Path) -> list[tuple[int, Path]]:
    """(cur_nimg, path) of the grids of a run, oldest first."""
    paths = (run_dir / "samples").glob("*.png")
    return sorted((int(path.stem), path) for path in paths if path.stem.isdecimal())


def spread(count: int, most: int) -> list[int]:
    """`most` of the indices below `count`, or fewer, evenly apart, the first and last included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def frame_of(grid: Image.Image, cur_nimg: int, total_nimg: int) -> Image.Image:
    """An RGB grid, at most `MAX_SIDE` wide and high with the strip below it that tells its kimg."""
    grid = fit(grid, MAX_SIDE, MAX_SIDE - STRIP_PX)
    frame = Image.new("RGB", (grid.width, grid.height + STRIP_PX), _PAPER)
    frame.paste(grid)
    draw, y = ImageDraw.Draw(frame), grid.height
    draw.rectangle((0, y, grid.width, y + 2), _TRACK)
    draw.rectangle((0, y, cur_nimg / max(total_nimg, 1) * grid.width, y + 2), _ACCENT)
    font = ImageFont.load_default(size=14)
    draw.text((8, y + 16), f"{cur_nimg / 1000:,.1f} kimg", _INK, font, anchor="lm")
    return frame


def animate(frames: Sequence[Image.Image]) -> bytes:
    """Frames of one size → an endless WebP of some seconds, the last frame held longer."""
    each = min(max(_WHOLE_MS // len(frames), _SHORTEST_MS), _LONGEST_MS)
    buffer = BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[each] * (len(frames) - 1) + [LAST_MS],
        loop=0,
        quality=_QUALITY,
    )
    return buffer.getvalue()


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """As large as fits: enlarged by a whole factor, each pixel a square, or shrunk smoothly."""
    if factor := min(width // image.width, height // image.height):
        size = image.width * factor, image.height * factor
        return image.resize(size, Image.Resampling.NEAREST)
    ratio = min(width / image.width, height / image.height)
    size = max(1, int(image.width * ratio)), max(1, int(image.height * ratio))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
