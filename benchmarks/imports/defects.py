"""Owns the proof of "two commands and no options": defect-like files → a service of their classes.

1,300 grey pictures of metal with scratches, pits, stains and the like, in six unbalanced class
folders, in four formats and many sizes. `noisewell train FOLDER` and `noisewell serve` do the rest,
as a person starts them; what came of it is asked over HTTP and printed.
"""

import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from app.bench.child import service

Rng = np.random.Generator
Draw = Callable[[ImageDraw.ImageDraw, Rng, int], None]

COUNTS = {"scratch": 480, "pit": 320, "stain": 220, "crack": 140, "inclusion": 90, "dent": 50}
SIDES = (100, 400)
COLUMNS = 8


def scratch(draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
    """A few long bright lines, nearly parallel."""
    angle = rng.uniform(-0.4, 0.4)
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(0.1, 0.9, 2) * side
        dx, dy = np.sin(angle) * side * 0.6, np.cos(angle) * side * 0.6
        line = [(x - dx, y - dy), (x + dx, y + dy)]
        draw.line(line, fill=int(rng.integers(225, 256)), width=max(2, side // 32))
        angle += rng.uniform(-0.08, 0.08)


def pit(draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
    """Many small dark holes."""
    for _ in range(int(rng.integers(9, 20))):
        x, y = rng.uniform(0.05, 0.95, 2) * side
        r = side * rng.uniform(0.025, 0.06)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=int(rng.integers(5, 40)))


def stain(draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
    """One large dark patch of several rounds."""
    x, y = rng.uniform(0.35, 0.65, 2) * side
    shade = int(rng.integers(50, 80))
    for _ in range(6):
        dx, dy = rng.normal(0, side * 0.1, 2)
        r = side * rng.uniform(0.1, 0.2)
        draw.ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=shade)


def crack(draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
    """A dark line that wanders from side to side."""
    y = rng.uniform(0.3, 0.7) * side
    points = [(0.0, y)]
    for step in range(1, 9):
        y += rng.normal(0, side * 0.07)
        points.append((step * side / 8, y))
    draw.line(points, fill=int(rng.integers(5, 35)), width=max(2, side // 24))


def inclusion(draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
    """A bright lump with corners."""
    x, y = rng.uniform(0.3, 0.7, 2) * side
    turns = np.sort(rng.uniform(0, 2 * np.pi, 6))
    r = side * rng.uniform(0.14, 0.28, 6)
    corners = [(x + b * np.cos(a), y + b * np.sin(a)) for a, b in zip(turns, r, strict=True)]
    draw.polygon(corners, fill=int(rng.integers(220, 256)))


def dent(draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
    """Rings, light and dark, around a place."""
    x, y = rng.uniform(0.35, 0.65, 2) * side
    r = side * rng.uniform(0.25, 0.35)
    for share, shade in ((1.0, 220), (0.75, 60), (0.5, 200), (0.25, 80)):
        s = r * share
        draw.ellipse((x - s, y - s, x + s, y + s), fill=shade)


DRAWN: dict[str, Draw] = {f.__name__: f for f in (scratch, pit, stain, crack, inclusion, dent)}


def picture(rng: Rng, kind: str) -> NDArray[np.float64]:
    """(H, W) in [0, 1]: brushed metal, unevenly lit, with such a defect; not always square."""
    side, other = (int(rng.integers(SIDES[0], SIDES[1] + 1)) for _ in range(2))
    height, width = side, min(max(other, int(side * 0.8)), int(side * 1.25), SIDES[1])
    brushed = rng.normal(0, 9, (height, 1)) + rng.normal(0, 4, (height, width))
    light = np.linspace(-1, 1, width)[None] * rng.uniform(-22, 22)
    metal = (rng.uniform(120, 165) + brushed + light).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(metal)
    DRAWN[kind](ImageDraw.Draw(image), rng, min(height, width))
    soft = image.filter(ImageFilter.GaussianBlur(0.8))
    return np.asarray(soft, np.float64) / 255


def save(pixels: NDArray[np.float64], stem: Path, number: int) -> str:
    """Write it in the format that its number says, by turns; returns that."""
    grey = Image.fromarray((pixels * 255).round().astype(np.uint8))
    match number % 4:
        case 0:
            grey.save(stem.with_suffix(".jpg"), quality=92)
            return "JPEG"
        case 1:
            grey.save(stem.with_suffix(".png"))
            return "PNG"
        case 2:
            grey.save(stem.with_suffix(".bmp"))
            return "BMP"
        case _:
            Image.fromarray((pixels * 65535).round().astype(np.uint16)).save(
                stem.with_suffix(".png")
            )
            return "16-bit PNG"


def make(folder: Path) -> Counter[str]:
    """All 1,300 files below `folder`; how many there are of each format."""
    rng, formats = np.random.default_rng(7), Counter[str]()
    for kind, count in COUNTS.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            formats[save(picture(rng, kind), folder / kind / f"{kind}_{number:04}", number)] += 1
    return formats


def train(folder: Path, extra: list[str]) -> float:
    """`noisewell train FOLDER`, in the folder that holds it; seconds that it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "app.cli", "train", folder.name, *extra]
    code = subprocess.run(command, cwd=folder.parent, check=False).returncode
    if code:
        raise SystemExit(f"noisewell train {folder.name} ended with {code}")
    return time.monotonic() - began


def serve(data: Path, model: str, grid: Path) -> dict[str, Any]:
    """`noisewell serve`: what it says of the model, and an image of each class by its name."""
    began = time.monotonic()
    with service(data) as child:
        url = f"http://127.0.0.1:{child.target.port}/v1"
        with httpx.Client(timeout=60) as client:
            rows: list[NDArray[np.uint8]] = []
            first_sec = 0.0
            about = client.get(f"{url}/models/{model}").raise_for_status().json()
            names = [*COUNTS]
            for name in names:
                row: list[NDArray[np.uint8]] = []
                for seed in range(COLUMNS):
                    place = f"{url}/models/{model}/images/{seed}.png"
                    answer = client.get(place, params={"class": name}).raise_for_status()
                    first_sec = first_sec or time.monotonic() - began
                    row.append(np.asarray(Image.open(io.BytesIO(answer.content))))
                rows.append(np.concatenate(row, axis=1))
            datasets = client.get(f"{url}/datasets").raise_for_status().json()
    whole = Image.fromarray(np.concatenate(rows))
    whole.resize((whole.width * 3, whole.height * 3), Image.Resampling.NEAREST).save(grid)
    return {"first_sec": first_sec, "classes": names, "about": about, "datasets": datasets}


def main(
    out: Annotated[Path, typer.Argument(help="A new folder for files, data and the grid.")],
    extra: Annotated[str, typer.Option(help="Options of train; none is the claim.")] = "",
) -> None:
    """Make the files, run both commands, print what came of it."""
    folder = out / "defects"
    formats = make(folder)
    told = ", ".join(f"{count} {name}" for name, count in sorted(formats.items()))
    print(f"{formats.total()} files: {told}; {', '.join(f'{k} {n}' for k, n in COUNTS.items())}")
    seconds = train(folder, extra.split())
    data = out / "data"
    (pack,) = (data / "datasets").glob("ds_*")
    manifest = json.loads((pack / "manifest.json").read_bytes())
    accepted, converted = manifest["accepted"], manifest["converted"]
    print(
        f"import: {accepted - converted} accepted as they are, {converted} converted,"
        f" {manifest['rejected']} rejected; {manifest['num_images']} images of"
        f" {manifest['resolution']}×{manifest['resolution']}×{manifest['channels']}"
    )
    found = serve(data, "defects", out / "grid.png")
    metrics = json.loads((data / "models/defects/1/metrics.json").read_bytes())
    print(f"noisewell train defects: {seconds:.0f} s")
    print(
        f"noisewell serve: first image after {found['first_sec']:.1f} s; by their names:"
        f" {', '.join(found['classes'])}"
    )
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    print("the evaluator: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
    print(f"{COLUMNS} seeds a class, one class a row: {out / 'grid.png'}")


if __name__ == "__main__":
    typer.run(main)
