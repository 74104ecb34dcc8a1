"""Owns the import: any source of images → a packed dataset, with a verdict for every file."""

import io
import statistics
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.dataset import DataError, Dataset, is_packed, load_dataset
from training.data.decode import (
    Decoded,
    Header,
    RejectedError,
    damage_is_rejected,
    decode,
    fit,
    quiet_pillow,
    read_header,
)
from training.data.options import Colour, ImportOptions, Limits, Progress, Step
from training.data.packing import Packer
from training.data.sources import SOURCES, Item, Source, open_source
from training.model.files import publish_dir, staging_dir

RESOLUTIONS = (28, 32, 64, 128, 256)
MAX_LISTED_REJECTIONS = 1000


@dataclass
class Verdicts:
    """What became of the files so far; accepted counts the converted ones too."""

    accepted: int = 0
    converted: int = 0
    conversions: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, str] = field(default_factory=dict)

    def reject(self, item: Item, error: RejectedError) -> None:
        self.rejected[item.file] = str(error)

    def accept(self, conversions: tuple[str, ...]) -> None:
        self.accepted += 1
        self.converted += bool(conversions)
        self.conversions.update(conversions)

    def listed(self) -> list[dict[str, str]]:
        """The first rejections, in file order, fit for JSON whatever the file names hold."""
        pairs = sorted(self.rejected.items())[:MAX_LISTED_REJECTIONS]
        return [{"file": printable(file), "reason": printable(why)} for file, why in pairs]


@dataclass(frozen=True)
class Shape:
    """What all images of a dataset are brought to; median_side: of the files' shorter sides."""

    resolution: int
    channels: int
    median_side: int | None


def import_dataset(
    source: Path, out: Path, options: ImportOptions, progress: Progress | None = None
) -> Dataset:
    """Write the images of `source` to the new packed dataset directory `out`, whole or not at all.

    progress: called as files are done. Raises DataError if the source or too many of its files
    cannot be used, OSError if the disk fails; nothing is left behind then.
    """
    options.check()
    _check_free(out)
    limits = options.limits
    taken = {
        "labels": options.labels,
        "classes": options.classes,
        "max_per_class": options.max_per_class,
    }
    with _opened(source, limits, out, taken) as (src, pack):
        verdicts = Verdicts()
        tick = _ticker(progress, 2 * len(src.items), verdicts)
        shape = choose_shape(src, verdicts, options.resolution, options.channels, tick)
        _check_packed_bytes(source, len(src.items), shape, limits)
        with Packer(pack, shape.resolution, shape.channels) as packer:
            for item in src.items:
                _take(src, item, verdicts, packer, options.paper())
                tick()
            _check_outcome(source, src, verdicts, packer, limits)
            packer.finish(src.class_names, _facts(source, verdicts, options))
        publish_dir(pack, out)
    return load_dataset(out)


def inspect_source(
    source: Path, scratch: Path, limits: Limits, progress: Progress | None = None
) -> dict[str, Any]:
    """What an import of `source` would find, its pixels left undecoded; raises DataError.

    scratch: an existing directory for what has to be unpacked on the way.
    """
    with quiet_pillow(), _open(source, limits, scratch, {}) as src:
        verdicts = Verdicts()
        tick = _ticker(progress, len(src.items), verdicts)
        shape = choose_shape(src, verdicts, None, None, tick)
        good = Counter(i.label for i in src.items if i.file not in verdicts.rejected)
        return {
            "source": source.name,
            "packed": is_packed(source),
            "files": len(src.items),
            "class_names": list(src.class_names),
            "counts": {name: good[i] for i, name in enumerate(src.class_names)},
            "median_side": shape.median_side,
            "resolution": shape.resolution,
            "channels": shape.channels,
            "rejected": len(verdicts.rejected),
            "rejections": verdicts.listed(),
        }


def choose_shape(
    src: Source,
    verdicts: Verdicts,
    resolution: int | None,
    channels: int | None,
    tick: Callable[[], None],
) -> Shape:
    """What is asked for, or else what suits the images by their headers.

    The largest of RESOLUTIONS not above the median of the shorter sides (28 at least); one
    channel if all images are grey, else three. Files without a readable header are rejected.
    """
    sides, all_grey = [], True
    for item in src.items:
        try:
            header = _header(src.read(item))
        except RejectedError as e:
            verdicts.reject(item, e)
        else:
            sides.append(header.side)
            all_grey = all_grey and header.grey
        tick()
    median = statistics.median_low(sides) if sides else None
    below = [r for r in RESOLUTIONS if median is not None and r <= median]
    return Shape(
        resolution=resolution or max(below, default=RESOLUTIONS[0]),
        channels=channels or (1 if all_grey else 3),
        median_side=median,
    )


def printable(text: str) -> str:
    """`text` with what is not Unicode (file names may hold any bytes) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _opened(
    source: Path, limits: Limits, out: Path, taken: dict[str, Any]
) -> Generator[tuple[Source, Path]]:
    """The source, and an empty directory beside `out` that is gone on exit unless renamed."""
    if not source.exists():
        raise DataError(f"{str(source)!r} does not exist; give {SOURCES}.")
    with quiet_pillow(), staging_dir(out.parent, out.name) as staged:
        pack, scratch = staged / "pack", staged / "scratch"
        pack.mkdir()
        scratch.mkdir()
        with _open(source, limits, scratch, taken) as src:
            yield src, pack


def _header(read: bytes | NDArray[np.uint8]) -> Header:
    if isinstance(read, bytes):
        with damage_is_rejected():
            return read_header(io.BytesIO(read))
    return Header(side=min(read.shape[:2]), grey=read.shape[2] == 1)


def _decoded(read: bytes | NDArray[np.uint8], paper: Colour) -> Decoded:
    if isinstance(read, bytes):
        return decode(read, paper)
    return Decoded(Image.fromarray(read[..., 0] if read.shape[2] == 1 else read), ())


def _open(
    path: Path, limits: Limits, scratch: Path, taken: dict[str, Any]
) -> AbstractContextManager[Source]:
    return open_source(
        path,
        max_files=limits.max_files,
        max_bytes=limits.max_bytes,
        max_zip_ratio=limits.max_zip_ratio,
        scratch=scratch,
        **taken,
    )


def _take(src: Source, item: Item, verdicts: Verdicts, packer: Packer, paper: Colour) -> None:
    if item.file in verdicts.rejected:
        return
    try:
        decoded = _decoded(src.read(item), paper)
    except RejectedError as e:
        verdicts.reject(item, e)
        return
    pixels, conversions = fit(decoded.image, packer.resolution, packer.channels)
    packer.add(pixels, item.label)
    verdicts.accept((*decoded.conversions, *conversions))


def _ticker(progress: Progress | None, total: int, verdicts: Verdicts) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(Step(done, total, verdicts.accepted, len(verdicts.rejected)))

    return tick


def _facts(source: Path, verdicts: Verdicts, options: ImportOptions) -> dict[str, Any]:
    return {
        "name": options.name,
        "licence": None if options.licence is None else printable(options.licence),
        "source": printable(source.name),
        "accepted": verdicts.accepted,
        "converted": verdicts.converted,
        "conversions": dict(sorted(verdicts.conversions.items())),
        "rejected": len(verdicts.rejected),
        "rejections": verdicts.listed(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{str(out)!r} exists already; choose another place or remove it.")


def _check_packed_bytes(source: Path, num_files: int, shape: Shape, limits: Limits) -> None:
    num_bytes = num_files * shape.resolution**2 * shape.channels
    if num_bytes > limits.max_bytes:
        raise DataError(
            f"{source.name!r} would take {num_bytes:,} bytes at resolution {shape.resolution};"
            f" max_bytes allows {limits.max_bytes:,}: choose a smaller resolution."
        )


def _check_outcome(
    source: Path, src: Source, verdicts: Verdicts, packer: Packer, limits: Limits
) -> None:
    """Raise DataError unless enough files are good and every class has images."""
    total, bad = len(src.items), len(verdicts.rejected)
    first = next(iter(verdicts.listed()), {"file": "", "reason": ""})
    example = f" (the first: {first['file']!r} {first['reason']})" if bad else ""
    if bad > limits.max_bad_share * total:
        raise DataError(
            f"{bad:,} of {total:,} files of {source.name!r} were rejected{example}; at most"
            f" {limits.max_bad_share:.0%} may be (max_bad_share)."
        )
    if len(packer) < limits.min_images:
        raise DataError(
            f"{source.name!r} gives {len(packer)} images{example}; at least {limits.min_images} are"
            " needed (min_images)."
        )
    empty = [name for name, count in packer.counts(src.class_names).items() if count == 0]
    if empty:
        names = ", ".join(map(repr, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise DataError(
            f"Class {names} of {source.name!r} has no usable images; add some or remove its folder."
        )
