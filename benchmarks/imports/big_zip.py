"""Owns the proof that a zip of 300,000 images is imported at constant memory, and stops cleanly.

    python -m benchmarks.imports.big_zip                  minutes
    python -m benchmarks.imports.big_zip --count 20000

It is imported once to the end, then three times again to be ended half-way: by SIGTERM and by the
end of its stdin, which leave nothing at all, and by SIGKILL, after which nothing that can be seen
is there. No process of the import lives on. Last it is uploaded to a service, which may not
grow. Linux.
"""

import io
import signal
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from app.bench.child import Child
from benchmarks.imports.service_batches import ASK_SEC, SAMPLE, serving
from benchmarks.imports.speed import CORES, SCRATCH, tell_memory
from benchmarks.imports.watching import MB, Eye, Stop, Watched, in_mb, visible, watch

SIDES = (12, 33)
PER_PART = 1_000
CLASSES = 10
RESOLUTION = 16
SIGTERM_EXIT = 143
MAX_SILENCE_SEC = 10.0  # between two lines of progress, on a busy machine
MAX_STOP_SEC = 5.0
WARM_SEC, WARM_TIMEOUT_SEC = 4, 120
MAX_GROWN_BYTES = 64_000_000  # a good part of the zip; on a busy machine it still loads
STOPS = (Stop(signal.SIGTERM), Stop(None), Stop(signal.SIGKILL))


@dataclass(frozen=True)
class Finding:
    """What was wrong with one import; sec: that it took, or that its stop took."""

    what: str
    sec: float
    wrong: list[str]


def main(
    count: Annotated[int, typer.Option(min=100)] = 300_000,
    seed: int = 0,
    folder: Annotated[Path, typer.Option(help="Where the zip is kept for next time.")] = SCRATCH,
) -> None:
    """Print time, progress and memory by quarters; 1 if something was wrong."""
    source = folder / f"tiny-{count}-{seed}.zip"
    make_zip(source, count, seed)
    print(f"{source.name}: {count:,} images, {source.stat().st_size:,} bytes", flush=True)
    findings = [whole(source, count), *(stopped(source, stop) for stop in STOPS)]
    findings.append(uploaded(source, count))
    for found in findings:
        print(f"{found.what}: {found.sec:.1f} s, {'; '.join(found.wrong) or 'as promised'}")
    raise typer.Exit(any(found.wrong for found in findings))


def make_zip(path: Path, count: int, seed: int) -> None:
    """PNG and JPEG in class folders, each image another one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        (seed, range(start, min(start + PER_PART, count))) for start in range(0, count, PER_PART)
    ]
    made = path.with_suffix(".part")
    with zipfile.ZipFile(made, "w") as archive, ProcessPoolExecutor(CORES) as pool:
        drawn = pool.map(draw_part, parts)
        for files in track(drawn, "Drawing", len(parts), console=Console(stderr=True)):
            for name, data in files:
                archive.writestr(name, data)
    made.rename(path)


def draw_part(part: tuple[int, range]) -> list[tuple[str, bytes]]:
    seed, numbers = part
    return [draw(seed, i) for i in numbers]


def draw(seed: int, i: int) -> tuple[str, bytes]:
    """A name and an encoded image of a few dozen pixels."""
    rng = np.random.default_rng((seed, i))
    width, height = map(int, rng.integers(*SIDES, 2))
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
    image, buffer = coarse.resize((width, height), Image.Resampling.BILINEAR), io.BytesIO()
    kind = ("png", "jpeg")[i % 2]
    image.save(buffer, kind)
    return f"class {i % CLASSES}/{i:06}.{kind}", buffer.getvalue()


# ── to the end ───────────────────────────────────────────────────────────────────────────────


def whole(source: Path, count: int) -> Finding:
    """Imported to the end: all there, progress that never goes back, memory that stays."""
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".") as scratch:
        watched = import_(source, Path(scratch))
    flat = tell_memory(watched, count)
    print(
        f"{len(watched.said):,} lines of progress, the longest silence"
        f" {watched.longest_silence:.1f} s; {count / watched.sec:,.0f} images/s"
    )
    wrong = [*ended_well(watched, count), *progress_wrong(watched)]
    return Finding("to the end", watched.sec, wrong if flat else [*wrong, "memory grew"])


def import_(source: Path, folder: Path, stop: Stop | None = None) -> Watched:
    options = ("--name=big", f"--resolution={RESOLUTION}", "--channels=3")
    return watch(source, folder / "pack", *options, stop=stop)


def ended_well(watched: Watched, count: int) -> Iterator[str]:
    if watched.code != 0 or watched.manifest is None:
        yield f"it ended with {watched.code}: {watched.error}"
    elif watched.manifest["num_images"] != count:
        yield f"{watched.manifest['num_images']:,} of {count:,} images are there"
    if watched.orphans:
        yield f"{len(watched.orphans)} of its processes live on"


def progress_wrong(watched: Watched) -> Iterator[str]:
    """Lines of progress count up to the end, and often."""
    said = watched.said
    if not said:
        yield "no progress was told"
        return
    if any(later.done < earlier.done for earlier, later in pairwise(said)):
        yield "progress went back"
    if len({line.total for line in said}) > 1:
        yield "the total changed on the way"
    if said[-1].done != said[-1].total:
        yield f"progress ended at {said[-1].done:,} of {said[-1].total:,}"
    if watched.longest_silence > MAX_SILENCE_SEC:
        yield f"nothing was told for {watched.longest_silence:.1f} s"


# ── ended half-way ───────────────────────────────────────────────────────────────────────────


def stopped(source: Path, stop: Stop) -> Finding:
    """Ended half-way: nothing to be seen, and unless it was killed nothing hidden either."""
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".") as scratch:
        folder = Path(scratch)
        watched = import_(source, folder, stop)
        killed = stop.signal == signal.SIGKILL
        left = visible(folder) if killed else [path.name for path in folder.iterdir()]
    if watched.stopped_after_sec is None:
        return Finding(stop.name, watched.sec, [f"it ended before that: {watched.error}"])
    sec = watched.sec - watched.stopped_after_sec
    checks = {
        f"it left {left}": bool(left),
        f"it ended with {watched.code}": watched.code != (-9 if killed else SIGTERM_EXIT),
        f"{len(watched.orphans)} of its processes live on": bool(watched.orphans),
        f"it took {sec:.1f} s to end": sec > MAX_STOP_SEC,
    }
    return Finding(stop.name, sec, [what for what, bad in checks.items() if bad])


# ── through a service ────────────────────────────────────────────────────────────────────────


def uploaded(source: Path, count: int) -> Finding:
    """Sent to a service: as large at the end as it was before, and all images are there."""
    with (
        tempfile.TemporaryDirectory(dir=source.parent, prefix=".") as scratch,
        serving(Path(scratch)) as (child, client),
    ):
        client.get(SAMPLE).raise_for_status()
        wait_until_warm(child)
        began = time.monotonic()
        with Eye(child.pid, began) as eye:
            dataset = _sent(source, client)
        sec = time.monotonic() - began
    peaks = eye.quarters(lambda look: look.main)
    grown = max(peaks) - eye.looks[0].main
    print(f"memory of the service, quarter by quarter: {in_mb(peaks)} MB, {in_mb([grown])} more")
    checks = {
        f"it ended {dataset['status']}: {dataset['error']}": dataset["status"] != "ready",
        f"{dataset.get('num_images')} of {count:,} are there": dataset.get("num_images") != count,
        f"the service grew by {in_mb([grown])} MB": grown > MAX_GROWN_BYTES,
    }
    return Finding("through a service", sec, [what for what, bad in checks.items() if bad])


def wait_until_warm(child: Child) -> None:
    """It goes on loading for some seconds after its first answer; nothing tells of the end."""
    held, end = [0], time.monotonic() + WARM_TIMEOUT_SEC
    while abs(child.rss_bytes() - held[-min(len(held), WARM_SEC)]) > MB:
        assert time.monotonic() < end, f"it still grows after {WARM_TIMEOUT_SEC} s"
        held.append(child.rss_bytes())
        time.sleep(1)


def _sent(source: Path, client: httpx.Client) -> dict[str, Any]:
    fields = {"name": "big", "resolution": str(RESOLUTION), "channels": "3"}
    with source.open("rb") as f:
        answer = client.post("/v1/datasets", data=fields, files={"file": f})
    answer.raise_for_status()
    while (dataset := client.get(answer.headers["location"]).json())["status"] == "importing":
        time.sleep(ASK_SEC)
    return dataset


if __name__ == "__main__":
    typer.run(main)
