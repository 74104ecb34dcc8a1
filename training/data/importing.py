"""Owns the import: any source of images → a packed dataset, with a verdict for every file."""

import statistics
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.data import appending
from training.data.account import write_account
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

    def shape(self, options: ImportOptions) -> Shape:
        """What is asked for, or else what suits the images.

        The largest of RESOLUTIONS not above max_resolution and the median of the shorter sides (28
        at least); one channel if all images are grey, else three.
        """
        median = statistics.median_low(self.sides.elements()) if self.sides else None
        below = [r for r in RESOLUTIONS if r <= min(median or 0, options.max_resolution)]
        return Shape(
            resolution=options.resolution or max(below, default=RESOLUTIONS[0]),
            channels=options.channels or (1 if self.all_grey else 3),
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
    base = None if options.append_to is None else load_dataset(options.append_to)
    if base is not None:
        options = appending.fitting(options, base)
    with _opened(source, out, options) as (src, pack, decoders):
        task = _Task(source, src, options, base)
        tell = _Teller(progress, len(src.items), 1 if _is_told(options) else 2)
        headers = Headers()
        if not _is_told(options):
            headers = _read_headers(src, decoders, options.paper(), tell)
        shape = headers.shape(options)
        _check_packed_bytes(task, shape)
        target = Target(shape.resolution, shape.channels, options.paper())
        _pack(task, pack, shape, outcomes(src, decoders, target, headers.lost), tell)
        publish_dir(pack, out)
    return load_dataset(out)


@dataclass(frozen=True)
class _Task:
    """What is imported, and the packed dataset, if any, that it is added to."""

    source: Path
    src: Source
    options: ImportOptions
    base: Dataset | None

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.base is None:
            return self.src.class_names
        return appending.joined_classes(self.base, self.source.name, self.src.class_names)

    @property
    def num_images(self) -> int:
        """If no file is rejected."""
        return len(self.src.items) + (self.base.num_images if self.base else 0)


def _pack(
    task: _Task, pack: Path, shape: Shape, decided: Iterator[list[Outcome]], tell: "_Teller"
) -> None:
    """Write the packed dataset into the empty directory `pack`."""
    class_names, verdicts = task.class_names, Verdicts()
    place_of = {name: place for place, name in enumerate(class_names)}
    places = [place_of[name] for name in task.src.class_names]
    packer = Packer(pack, shape.resolution, shape.channels, class_names, task.num_images)
    with packer, VerdictLog(pack, task.src.class_names) as log:
        if task.base is not None and task.options.append_to is not None:
            appending.copy_images(task.base, task.options.append_to, packer, log)
        for some in decided:
            for outcome in some:
                _take(outcome, verdicts, packer, places)
                log.add(outcome)
            tell(verdicts)
        _check_outcome(task, verdicts, packer)
        found = log.finish(packer.finish_images())
        manifest = packer.finish({**_facts(task, verdicts), **found})
    write_account(pack, manifest, packer.labels())


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
        shape = headers.shape(options)
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


def _take(outcome: Outcome, verdicts: Verdicts, packer: Packer, places: Sequence[int]) -> None:
    """places: of the source's classes among those of the dataset."""
    verdicts.add(outcome)
    if outcome.pixels is None:
        packer.expect_fewer()
    else:
        label = None if outcome.label is None else places[outcome.label]
        packer.add(outcome.pixels, label, outcome.digest)


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


def _facts(task: _Task, verdicts: Verdicts) -> dict[str, Any]:
    options, base = task.options, task.base
    return {
        "name": options.name,
        "licence": None if options.licence is None else printable(options.licence),
        "source": printable(task.source.name),
        "classes": None if options.classes is None else list(options.classes),
        "max_per_class": options.max_per_class,
        "appended_to": None if base is None else appending.facts_of(base),
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


def _check_packed_bytes(task: _Task, shape: Shape) -> None:
    num_bytes = task.num_images * shape.resolution**2 * shape.channels
    if num_bytes > (most := task.options.limits.max_bytes):
        raise DataError(
            f"{task.source.name!r} would take {num_bytes:,} bytes at resolution"
            f" {shape.resolution}; max_bytes allows {most:,}: choose a smaller resolution."
        )


def _check_outcome(task: _Task, verdicts: Verdicts, packer: Packer) -> None:
    """Raise DataError unless enough files are good and every class has images."""
    name, limits = task.source.name, task.options.limits
    total, bad = len(task.src.items), verdicts.rejected
    first = next(iter(verdicts.listed), {"file": "", "reason": ""})
    example = f" (the first: {first['file']!r} {first['reason']})" if bad else ""
    if bad > limits.max_bad_share * total:
        raise DataError(
            f"{bad:,} of {total:,} files of {name!r} were rejected{example}; at most"
            f" {limits.max_bad_share:.0%} may be (max_bad_share)."
        )
    if len(packer) < limits.min_images:
        raise DataError(
            f"{name!r} gives {len(packer)} images{example}; at least {limits.min_images} are"
            " needed (min_images)."
        )
    empty = [name for name, count in packer.counts().items() if count == 0]
    if empty:
        names = ", ".join(map(repr, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise DataError(
            f"Class {names} of {task.source.name!r} has no usable images; add some or remove its"
            " folder."
        )
