"""Owns the import: any source of images → a packed dataset, with a verdict for every file."""

import statistics
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.data.dataset import DataError, Dataset, is_packed, load_dataset
from training.data.decode import Target
from training.data.names import printable
from training.data.options import Colour, ImportOptions, Limits, Progress, Step
from training.data.outcomes import Outcome, outcomes
from training.data.packing import Packer
from training.data.slots import BATCH_FILES
from training.data.sources import SOURCES, Source, open_source
from training.data.verdicts import VerdictLog
from training.data.workers import Decoders
from training.model.files import publish_dir, staging_dir

RESOLUTIONS = (28, 32, 64, 128, 256)
MAX_LISTED_REJECTIONS = 1000


@dataclass
class Verdicts:
    """What became of the files so far; accepted counts the converted ones too."""

    accepted: int = 0
    converted: int = 0
    rejected: int = 0
    conversions: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.accepted + self.rejected

    def add(self, outcome: Outcome) -> None:
        """Count one more file; the first rejections are listed."""
        if outcome.reason is None:
            self.accepted += 1
            self.converted += bool(outcome.conversions)
            self.conversions.update(outcome.conversions)
            return
        self.rejected += 1
        if len(self.listed) < MAX_LISTED_REJECTIONS:
            self.listed.append({"file": outcome.file, "reason": printable(outcome.reason)})


@dataclass(frozen=True)
class Shape:
    """What all images of a dataset are brought to; median_side: of the files' shorter sides."""

    resolution: int
    channels: int
    median_side: int | None


@dataclass
class Headers:
    """What a look at the headers has found.

    lost: reasons of files that no decoder survives, by their numbers. good: files by class.
    """

    verdicts: Verdicts = field(default_factory=Verdicts)
    sides: Counter[int] = field(default_factory=Counter)
    all_grey: bool = True
    good: Counter[int | None] = field(default_factory=Counter)
    lost: dict[int, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        if outcome.lost and outcome.reason is not None:
            self.lost[self.verdicts.done] = outcome.reason
        self.verdicts.add(outcome)
        if outcome.header is not None:
            self.sides[outcome.header.side] += 1
            self.all_grey = self.all_grey and outcome.header.grey
            self.good[outcome.label] += 1

    def shape(self, resolution: int | None, channels: int | None) -> Shape:
        """What is asked for, or else what suits the images.

        The largest of RESOLUTIONS not above the median of the shorter sides (28 at least); one
        channel if all images are grey, else three.
        """
        median = statistics.median_low(self.sides.elements()) if self.sides else None
        below = [r for r in RESOLUTIONS if median is not None and r <= median]
        return Shape(
            resolution=resolution or max(below, default=RESOLUTIONS[0]),
            channels=channels or (1 if self.all_grey else 3),
            median_side=median,
        )


def import_dataset(
    source: Path, out: Path, options: ImportOptions, progress: Progress | None = None
) -> Dataset:
    """Write the images of `source` to the new packed dataset directory `out`, whole or not at all.

    progress: called as files are done. Raises DataError if the source or too many of its files
    cannot be used, OSError if the disk fails; nothing is left behind then.
    """
    options.check()
    _check_free(out)
    with _opened(source, out, options) as (src, pack, decoders):
        tell = _Teller(progress, len(src.items), 1 if _is_told(options) else 2)
        headers = Headers()
        if not _is_told(options):
            headers = _read_headers(src, decoders, options.paper(), tell)
        shape = headers.shape(options.resolution, options.channels)
        _check_packed_bytes(source, len(src.items), shape, options.limits)
        target = Target(shape.resolution, shape.channels, options.paper())
        verdicts, total = Verdicts(), len(src.items)
        packer = Packer(pack, shape.resolution, shape.channels, src.class_names, total)
        with packer, VerdictLog(pack, src.class_names) as log:
            for found in outcomes(src, decoders, target, headers.lost):
                for outcome in found:
                    _take(outcome, verdicts, packer)
                    log.add(outcome)
                tell(verdicts)
            _check_outcome(source, src, verdicts, packer, options.limits)
            packer.finish({**_facts(source, verdicts, options), "duplicates": log.finish()})
        publish_dir(pack, out)
    return load_dataset(out)


def inspect_source(
    source: Path, scratch: Path, limits: Limits, progress: Progress | None = None
) -> dict[str, Any]:
    """What an import of `source` would find, its pixels left undecoded; raises DataError.

    scratch: an existing directory for what has to be unpacked on the way.
    """
    options = ImportOptions("inspected", limits=limits)
    with _open(source, scratch, options) as src, _decoders(src, limits) as decoders:
        tell = _Teller(progress, len(src.items), 1)
        headers = _read_headers(src, decoders, options.paper(), tell)
        shape = headers.shape(None, None)
        return {
            "source": source.name,
            "packed": is_packed(source),
            "files": len(src.items),
            "class_names": list(src.class_names),
            "counts": {name: headers.good[i] for i, name in enumerate(src.class_names)},
            "median_side": shape.median_side,
            "resolution": shape.resolution,
            "channels": shape.channels,
            "rejected": headers.verdicts.rejected,
            "rejections": headers.verdicts.listed,
        }


@contextmanager
def _opened(
    source: Path, out: Path, options: ImportOptions
) -> Generator[tuple[Source, Path, Decoders]]:
    """The source, and an empty directory beside `out` that is gone on exit unless renamed."""
    if not source.exists():
        raise DataError(f"{str(source)!r} does not exist; give {SOURCES}.")
    with staging_dir(out.parent, out.name) as staged:
        pack, scratch = staged / "pack", staged / "scratch"
        pack.mkdir()
        scratch.mkdir()
        with _open(source, scratch, options) as src, _decoders(src, options.limits) as decoders:
            yield src, pack, decoders


def _open(path: Path, scratch: Path, options: ImportOptions) -> AbstractContextManager[Source]:
    return open_source(
        path,
        max_files=options.limits.max_files,
        max_bytes=options.limits.max_bytes,
        max_zip_ratio=options.limits.max_zip_ratio,
        max_image_bytes=options.limits.max_image_bytes,
        scratch=scratch,
        labels=options.labels,
        classes=options.classes,
        max_per_class=options.max_per_class,
    )


def _decoders(src: Source, limits: Limits) -> Decoders:
    return Decoders(limits, -(-len(src.items) // BATCH_FILES))


def _is_told(options: ImportOptions) -> bool:
    return options.resolution is not None and options.channels is not None


def _read_headers(src: Source, decoders: Decoders, paper: Colour, tell: "_Teller") -> Headers:
    headers = Headers()
    for found in outcomes(src, decoders, None, {}):
        for outcome in found:
            headers.add(outcome)
        tell(headers.verdicts)
    tell.next_pass()
    return headers


def _take(outcome: Outcome, verdicts: Verdicts, packer: Packer) -> None:
    verdicts.add(outcome)
    if outcome.pixels is None:
        packer.expect_fewer()
    else:
        packer.add(outcome.pixels, outcome.label, outcome.digest)


class _Teller:
    """Tells how far all passes over the files are."""

    def __init__(self, progress: Progress | None, num_files: int, num_passes: int) -> None:
        self._progress, self._files, self._total = progress, num_files, num_passes * num_files
        self._before = 0

    def __call__(self, verdicts: Verdicts) -> None:
        if self._progress is not None:
            done = self._before + verdicts.done
            # What is accepted of the headers is not accepted yet.
            accepted = verdicts.accepted if self._before + self._files == self._total else 0
            self._progress(Step(done, self._total, accepted, verdicts.rejected))

    def next_pass(self) -> None:
        self._before += self._files


def _facts(source: Path, verdicts: Verdicts, options: ImportOptions) -> dict[str, Any]:
    return {
        "name": options.name,
        "licence": None if options.licence is None else printable(options.licence),
        "source": printable(source.name),
        "classes": None if options.classes is None else list(options.classes),
        "max_per_class": options.max_per_class,
        "accepted": verdicts.accepted,
        "converted": verdicts.converted,
        "conversions": dict(sorted(verdicts.conversions.items())),
        "rejected": verdicts.rejected,
        "rejections": verdicts.listed,
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
    total, bad = len(src.items), verdicts.rejected
    first = next(iter(verdicts.listed), {"file": "", "reason": ""})
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
    empty = [name for name, count in packer.counts().items() if count == 0]
    if empty:
        names = ", ".join(map(repr, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise DataError(
            f"Class {names} of {source.name!r} has no usable images; add some or remove its folder."
        )
