"""Owns batches of bad files: each imported under watch, and the verdict on each file.

A batch is imported by the command, or sent to a running service (`service_batches.py`).
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.imports.seed_images import encoded, photo
from benchmarks.imports.watching import MB, Eye, Watched, watch

RESOLUTION = 32
LOOK_SEC = 0.05
MAX_WORKER_BYTES = 1_000_000_000
MAX_IMAGE_SEC = 5.0  # of CPU
SLACK_SEC = 0.5  # the files beside it, until the next line of progress
MAX_SILENCE_SEC = 30.0  # by the clock: two workers, four import batches and others on two cores
GOOD, MIN_GOOD = "all/good-", 3
# What a verdict says of a worker that had to be ended, or that ended by itself.
KILLED = re.compile(r"max_image_sec|max_decoder_bytes|decoder crash|decoder killed")


@dataclass(frozen=True)
class Verdict:
    """What became of one file; why: the reason, or the conversions."""

    file: str
    verdict: str
    why: str = ""

    @property
    def killed(self) -> bool:
        return self.verdict == "reject" and bool(KILLED.search(self.why))

    @property
    def is_good(self) -> bool:
        return self.file.startswith(GOOD)


@dataclass
class Tally:
    """All batches so far. wrong: what was not as promised, a sentence each."""

    verdicts: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    killed: list[Verdict] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    deaths: int = 0
    worker_peak: int = 0
    main_peak: int = 0
    longest_silence: float = 0.0
    longest_work: float = 0.0
    sec: float = 0.0

    def add(self, found: list[Verdict], sec: float) -> None:
        """Count what became of a batch, its good images aside."""
        self.sec += sec
        self.killed += [verdict for verdict in found if verdict.killed]
        for verdict in found:
            if not verdict.is_good:
                self.verdicts[verdict.verdict] += 1
                self.by_kind[Path(verdict.file).suffix, verdict.verdict] += 1

    def look_at(self, eye: Eye) -> None:
        """Take note of what the processes took."""
        self.worker_peak = max(self.worker_peak, eye.worker_peak)
        self.main_peak = max(self.main_peak, eye.main_peak)
        if eye.worker_peak > MAX_WORKER_BYTES:
            self.wrong.append(f"a worker took {eye.worker_peak / MB:,.0f} MB")
        if eye.num_workers == 0:
            self.wrong.append("no worker was seen")

    def told(self) -> Iterator[str]:
        total = sum(self.verdicts.values())
        counts = ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(self.verdicts.items()))
        yield f"{total:,} files, {counts}, in {self.sec:.0f} s"
        yield (
            f"{self.deaths} deaths of the process that is watched, which took"
            f" {self.main_peak / MB:,.0f} MB; {len(self.killed)} files cost a worker its life, the"
            f" largest took {self.worker_peak / MB:,.0f} MB"
        )
        if self.longest_work:
            yield (
                f"at most {self.longest_work:.1f} s of CPU for an image, and"
                f" {self.longest_silence:.1f} s without a sign"
            )


Files = Mapping[str, bytes]
Importer = Callable[[Files, Tally], dict[str, Verdict]]


@cache
def good_image(number: int) -> bytes:
    return encoded(photo(100 + number), "PNG")


def with_good(files: Files, count: int) -> dict[str, bytes]:
    """The files and good images, which have to be accepted."""
    return {**files, **{f"{GOOD}{i}.png": good_image(i) for i in range(count)}}


def by_command(files: Files, tally: Tally) -> dict[str, Verdict]:
    """The verdicts by file, of an import by the command."""
    with tempfile.TemporaryDirectory() as folder:
        return _by_command(with_good(files, MIN_GOOD), Path(folder), tally)


def _by_command(files: Files, folder: Path, tally: Tally) -> dict[str, Verdict]:
    source, out = folder / "source", folder / "pack"
    for name, data in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    options = ("--name=bad", f"--resolution={RESOLUTION}", "--channels=3", "--max-bad-share=1")
    watched = watch(source, out, *options, look_sec=LOOK_SEC)
    found = read_verdicts(out) if watched.code == 0 else []
    tally.add(found, watched.sec)
    tally.look_at(watched.eye)
    tally.deaths += watched.code != 0
    tally.longest_silence = max(tally.longest_silence, watched.longest_silence)
    tally.longest_work = max(tally.longest_work, watched.longest_work)
    if watched.code == 0:
        tally.wrong += [*without_one_verdict(files, found), *_slow(watched)]
    else:
        tally.wrong.append(f"the importing process ended with {watched.code}: {watched.error}")
    return {verdict.file: verdict for verdict in found}


def read_verdicts(pack: Path) -> list[Verdict]:
    """The lines of a pack's verdicts.jsonl, in their order."""
    lines = (pack / "verdicts.jsonl").read_text("utf-8").splitlines()
    return [_verdict(json.loads(line)) for line in lines]


def _verdict(told: dict[str, Any]) -> Verdict:
    why = told.get("reason") or ", ".join(told.get("conversions", ()))
    return Verdict(told["file"], told["verdict"], why)


def without_one_verdict(files: Files, found: list[Verdict]) -> Iterator[str]:
    """What has none or two, what is no file, and good images that were rejected."""
    counts = Counter(verdict.file for verdict in found)
    yield from (f"{name} has {counts[name]} verdicts" for name in files if counts[name] != 1)
    yield from (f"{name} has a verdict and is no file" for name in counts if name not in files)
    if any(verdict.verdict == "reject" for verdict in found if verdict.is_good):
        yield "a good image was rejected"


def _slow(watched: Watched) -> Iterator[str]:
    if watched.longest_work > MAX_IMAGE_SEC + SLACK_SEC:
        yield f"an image took {watched.longest_work:.1f} s of CPU"
    if watched.longest_silence > MAX_SILENCE_SEC:
        yield f"nothing was told for {watched.longest_silence:.1f} s"
    if watched.orphans:
        yield f"{len(watched.orphans)} processes of the import live on"
