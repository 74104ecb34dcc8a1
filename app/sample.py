"""Owns `noisewell sample`: images of many seeds in a folder or a zip, with a manifest of them.

Memory does not grow with their number. While one batch is generated, the files of those before it
are made by a few threads beside.
"""

import csv
import io
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TypeVar

from isal import isal_zlib

from app.ask import Ask
from app.bulk import Grid, StoredZip, files
from app.errors import BadRequestError
from training.model.sampling import Classes, Pixels

T = TypeVar("T")
Told = Callable[[int], object]  # with how many images more are done
Seen = Callable[[Pixels, int], None]  # with images (k, H, W, C) that are, and which is the first

MANIFEST = "manifest.csv"
_COLUMNS = ("file", "seed", "class", "truncation", "model", "version", "digest")
_ENCODERS = 2


def empty_grid(ask: Ask, n: int, max_pixels: int) -> Grid:
    """A picture to be filled with n images. Raises BadRequestError if it has too many pixels."""
    config = ask.loaded.sampler.config
    height = width = config.img_resolution
    if n * height * width > max_pixels:
        raise BadRequestError(
            f"--grid of {n} images of {height}×{width} is {n * height * width} pixels; "
            f"max_pixels_per_request allows {max_pixels}; leave it out, or take fewer seeds"
        )
    return Grid(n, height, width, config.img_channels)


def write_samples(ask: Ask, n: int, out: Path, grid: Grid | None, told: Told) -> None:
    """n images in the folder `out`, or in a zip if that is how its name ends, and in `grid`.

    Raises OSError, BadRequestError for a zip where a folder is.
    """
    zipped = out.suffix.lower() == ".zip"
    if zipped and out.is_dir():
        raise BadRequestError(f"--out {out} is a folder; expected the name of a file for the zip")

    def seen(images: Pixels, start: int) -> None:
        if grid is not None:
            grid.put(images, start)
        told(len(images))

    (_write_zip if zipped else _write_folder)(ask, n, out, seen)


def _write_folder(ask: Ask, n: int, out: Path, seen: Seen) -> None:
    """A PNG for each seed, and the manifest when all are there.

    Whatever ends it before, only whole files have been written. Raises OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # of other files

    def finish(images: Pixels, c: Classes, start: int) -> bytes:
        for i, data in enumerate(files(ask, images, c, start, "png"), start):
            with _replacing(out / _name(ask, i)) as f:
                f.write(data)
        return _rows(ask, c, start)

    with _replacing(out / MANIFEST) as manifest, closing(_made(ask, n, finish)) as made:
        manifest.write(_csv([_COLUMNS]))
        for start, images, rows in made:
            manifest.write(rows)
            seen(images, start)


def _write_zip(ask: Ask, n: int, out: Path, seen: Seen) -> None:
    """The same as one zip; `out` is there when it is complete. Raises OSError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    archive = StoredZip(n + 1, lambda i: _name(ask, i) if i < n else MANIFEST)

    def finish(images: Pixels, c: Classes, start: int) -> tuple[bytes, bytes]:
        data = archive.files(start, files(ask, images, c, start, "png"))
        return data, _rows(ask, c, start)

    with (
        _replacing(out) as f,
        TemporaryFile(dir=out.parent) as manifest,
        closing(_made(ask, n, finish)) as made,
    ):
        crc = 0
        for start, images, (data, rows) in made:
            f.write(data)
            rows = rows if start else _csv([_COLUMNS]) + rows
            crc = isal_zlib.crc32(rows, crc)
            manifest.write(rows)
            seen(images, start)
        f.write(archive.header(n, crc, manifest.tell()))
        manifest.seek(0)
        shutil.copyfileobj(manifest, f)
        f.writelines(archive.end())
        f.flush()
        os.fsync(f.fileno())


def _made(
    ask: Ask, n: int, finish: Callable[[Pixels, Classes, int], T]
) -> Generator[tuple[int, Pixels, T]]:
    """Each batch in order: its first index, its images, and what `finish`, beside, made of them."""
    size = ask.loaded.sampler.certificate.buckets[-1]
    waiting: deque[tuple[int, Pixels, Future[T]]] = deque()
    with ThreadPoolExecutor(_ENCODERS, thread_name_prefix="encoder") as encoders:
        for start in range(0, n, size):
            z, c = ask.part(slice(start, min(start + size, n))).draw()
            images = ask.loaded.sampler(z, c)
            waiting.append((start, images, encoders.submit(finish, images, c, start)))
            if len(waiting) > 2 * _ENCODERS:
                yield _ready(*waiting.popleft())
        while waiting:
            yield _ready(*waiting.popleft())


def _ready(start: int, images: Pixels, made: Future[T]) -> tuple[int, Pixels, T]:
    return start, images, made.result()


def _name(ask: Ask, i: int) -> str:
    return f"seed-{ask.seed(i)}.png"


def _rows(ask: Ask, c: Classes, start: int) -> bytes:
    about = (ask.truncation, ask.loaded.model, ask.loaded.version, ask.loaded.digest)
    return _csv(
        (_name(ask, i), ask.seed(i), ask.class_name(of), *about) for i, of in enumerate(c, start)
    )


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@contextmanager
def _replacing(path: Path) -> Generator[BinaryIO]:
    """A file that takes the place of `path` once it is whole."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tmp.open("wb") as f:
            yield f
        tmp.replace(path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
