"""Owns how fast images are imported, beside a bare decoder, and how much memory that takes (Linux).

    python -m benchmarks.imports.speed                  100,000 JPEGs, three rounds: minutes
    python -m benchmarks.imports.speed --count 5000

The bare decoder: two processes that have the files in memory already; Pillow opens, decodes and
brings each to the same size by Lanczos, and nothing else. The import is the whole command, from its
start to its end. They take turns, so that whoever else computes meanwhile slows both.
"""

import io
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.imports.pictures import photo_like
from benchmarks.imports.watching import Watched, in_mb, watch

RESOLUTION, SIDES, QUALITY = 64, (64, 161), 85
PER_FOLDER = 1_000
CORES = 2
LOOK_SEC = 0.5  # to look costs time too
OPTIONS = ("--name=speed", f"--resolution={RESOLUTION}", "--channels=3")
BAR = 0.8
# The last quarter's peak may be above that of the first by a tenth, or by a label for each image
# and what it is counted with.
FLAT, BYTES_AN_IMAGE = 1.1, 50
SCRATCH = Path(".work/imports")


@dataclass(frozen=True)
class Bare:
    """What the bare decoder took for all files."""

    sec: float
    cpu_sec: float


def main(
    count: Annotated[int, typer.Option(min=CORES)] = 100_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seed: int = 0,
    folder: Annotated[Path, typer.Option(help="Where the JPEGs are kept for next time.")] = SCRATCH,
) -> None:
    """Print images/s of both, their ratio, and memory by quarters; 1 if a bar is missed."""
    source = folder / f"jpegs-{count}-{seed}"
    make_jpegs(source, count, seed)
    pairs: list[tuple[Bare, Watched]] = []
    for _ in range(rounds):
        pairs.append((bare(source), imported(source)))
        print(line(count, *pairs[-1]), flush=True)
    raise typer.Exit(1 - tell(count, pairs))


def make_jpegs(folder: Path, count: int, seed: int) -> None:
    """`count` files in folders of PER_FOLDER without meaning, whole or not at all."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as made:
        parts = [(Path(made) / "all", seed, range(i, min(i + PER_FOLDER, count)))
                 for i in range(0, count, PER_FOLDER)]  # fmt: skip
        with ProcessPoolExecutor(CORES) as pool:
            done = pool.map(make_part, parts)
            for _ in track(done, "Drawing", len(parts), console=Console(stderr=True)):
                pass
        (Path(made) / "all").rename(folder)


def make_part(part: tuple[Path, int, range]) -> None:
    root, seed, numbers = part
    folder = root / f"{numbers.start // PER_FOLDER:03}"
    folder.mkdir(parents=True)
    for i in numbers:
        rng = np.random.default_rng((seed, i))
        image = photo_like(rng, *map(int, rng.integers(*SIDES, 2)))
        image.save(folder / f"{i:06}.jpg", quality=QUALITY)


# ── the bare decoder ─────────────────────────────────────────────────────────────────────────


def bare(source: Path) -> Bare:
    """All files by CORES processes, each its share, from when the last one has them in memory."""
    files = sorted(source.rglob("*.jpg"))
    context = multiprocessing.get_context("fork")
    barrier, used = context.Barrier(CORES + 1), context.Array("d", CORES)
    processes = [
        context.Process(target=_decode_all, args=(files[i::CORES], barrier, used, i))
        for i in range(CORES)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    began = time.monotonic()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process.exitcode
    return Bare(time.monotonic() - began, sum(used))


def _decode_all(files: list[Path], barrier: Barrier, used: list[float], place: int) -> None:
    held = [file.read_bytes() for file in files]
    barrier.wait()
    began = time.process_time()
    for data in held:
        decode(data)
    used[place] = time.process_time() - began


def decode(data: bytes) -> bytes:
    """The centre square of an image, RESOLUTION pixels wide."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        size = (RESOLUTION, RESOLUTION)
        return image.resize(size, Image.Resampling.LANCZOS, box=box).tobytes()


# ── the import ───────────────────────────────────────────────────────────────────────────────


def imported(source: Path) -> Watched:
    """The command as anybody gives it."""
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".") as scratch:
        out = Path(scratch) / "pack"
        watched = watch(source, out, *OPTIONS, look_sec=LOOK_SEC)
        assert watched.code == 0, watched.error
        shutil.rmtree(out)
    return watched


# ── what is told ─────────────────────────────────────────────────────────────────────────────


def line(count: int, one: Bare, other: Watched) -> str:
    return (
        f"bare {count / one.sec:,.0f} images/s ({one.cpu_sec:.0f} s of CPU),"
        f" import {count / other.sec:,.0f} ({other.cpu_sec:.0f} s of CPU):"
        f" {one.sec / other.sec:.1%}"
    )


def tell(count: int, pairs: list[tuple[Bare, Watched]]) -> bool:
    """Print the medians and the memory of the last round; whether the bars are held."""
    ratio = median(one.sec / other.sec for one, other in pairs)
    table = Table("", "images/s", "CPU ms an image")
    for name, seconds, cpu in rows(pairs):
        table.add_row(name, f"{count / seconds:,.0f}", f"{1000 * cpu / count:.3f}")
    Console().print(table)
    print(f"import to bare decoder, median of {len(pairs)}: {ratio:.1%} (bar {BAR:.0%})")
    return tell_memory(pairs[-1][1], count) and ratio >= BAR


def rows(pairs: list[tuple[Bare, Watched]]) -> Iterator[tuple[str, float, float]]:
    for name, of in (("bare decoder", 0), ("import", 1)):
        yield name, median(p[of].sec for p in pairs), median(p[of].cpu_sec for p in pairs)


def tell_memory(watched: Watched, count: int) -> bool:
    """Print the peaks of each quarter of the time; whether the last is about that of the first."""
    for name, of in (("importing process", "main"), ("its workers", "workers"), ("all", "all")):
        peaks = watched.eye.quarters(lambda look, of=of: getattr(look, of))
        print(f"memory of {name}, quarter by quarter: {in_mb(peaks)} MB")
    peaks = watched.eye.quarters(lambda look: look.all)
    print(
        f"largest resident, mapped files too: importing process"
        f" {in_mb([watched.eye.main_peak])} MB, a worker {in_mb([watched.eye.worker_peak])}"
        f" MB ({watched.eye.num_workers} workers)"
    )
    return peaks[-1] <= max(FLAT * peaks[0], peaks[0] + BYTES_AN_IMAGE * count)


if __name__ == "__main__":
    typer.run(main)
