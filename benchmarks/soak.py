"""Owns the proof that a service at work does not grow: memory, descriptors, threads are flat.

    python -m benchmarks.soak --minutes 30

For the whole time clients ask for images at a steady rate, jobs train one after another and
promote what they made, and the champion is moved to and fro by hand. The figures of the last minute
are held against those of the fifth. Caches are small, so that they are full by then: what is
measured is what comes back, not what a cache may hold.
"""

import asyncio
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from app.bench.child import Child, service
from app.bench.load import OpenLoad, fetch, run
from app.bench.wire import Answer, Target
from benchmarks.chaos.clients import JOB, MODEL, upload
from benchmarks.mix import mixed, not_ok
from benchmarks.verdicts import Verdicts

RATE, CONNECTIONS, ARRAYS = 30, 32, 10  # of so many requests, one is for an array
SWAP_SEC, JOB_SEC, SAMPLE_SEC = 5.0, 2.0, 5.0
MAX_GROWTH = 1.02
SETTINGS = {
    "NOISEWELL_IMAGE_CACHE_BYTES": "2000000",
    "NOISEWELL_MAX_LOADED_BYTES": "8000000",
    "NOISEWELL_MAX_QUEUE_WAIT_MS": "30000",
    "NOISEWELL_MAX_VERSIONS_PER_MODEL": "10",
    "NOISEWELL_MAX_RUN_FOLDERS": "5",
}


@dataclass(frozen=True)
class Sample:
    """What the process holds `at` so many seconds."""

    at: float
    rss_bytes: int
    descriptors: int
    threads: int


@dataclass
class Work:
    """What was done meanwhile."""

    jobs: int = 0
    swaps: int = 0
    refused: list[str] = field(default_factory=list[str])


def look(child: Child, clients: int, began: float) -> Sample:
    """`clients`: connections of ours, which are no descriptors that the service keeps."""
    proc = Path("/proc") / str(child.pid)
    threads = len(list((proc / "task").iterdir()))
    descriptors = len(list((proc / "fd").iterdir())) - clients
    return Sample(time.monotonic() - began, child.rss_bytes(), descriptors, threads)


async def asked(target: Target, request: bytes) -> Any:
    return json.loads((await fetch(target, request)).body)


async def train(target: Target, work: Work) -> None:
    """One job after another."""
    while True:
        answer = await fetch(target, target.post("/v1/training/jobs", {**JOB, "seed": work.jobs}))
        if answer.status != 202:
            work.refused.append(f"a job answered {answer.status}")
            return
        path = f"/v1/training/jobs/{json.loads(answer.body)['id']}"
        while (job := await asked(target, target.get(path)))["status"] in ("queued", "running"):
            await asyncio.sleep(JOB_SEC)
        if job["status"] != "succeeded":
            work.refused.append(f"a job {job['status']}: {job['error']}")
        work.jobs += 1


async def swap(target: Target, work: Work) -> None:
    """The champion goes to one of the two newest versions in turn."""
    while True:
        await asyncio.sleep(SWAP_SEC)
        answer = await fetch(target, target.get(f"/v1/models/{MODEL}/versions"))
        versions = _versions(answer)
        if len(versions) < 2:
            continue
        body = {"version": versions[-1 - work.swaps % 2]}
        moved = await fetch(target, target.put(f"/v1/models/{MODEL}/aliases/champion", body))
        if moved.ok:
            work.swaps += 1
        else:
            work.refused.append(f"a swap answered {moved.status}")


def _versions(answer: Answer) -> list[int]:
    data = json.loads(answer.body)["data"] if answer.ok else []
    return sorted(version["version"] for version in data)


async def soak(child: Child, minutes: float, verdicts: Verdicts) -> None:
    target, draw, work = child.target, random.Random(0), Work()
    samples: list[Sample] = []
    requests = mixed(target, draw, ARRAYS)
    load = OpenLoad(target, requests, CONNECTIONS, RATE, check=not_ok, timeout_sec=60)
    async with load:
        beside = [asyncio.create_task(part(target, work)) for part in (train, swap)]
        began = time.monotonic()
        while time.monotonic() - began < 60 * minutes:
            await asyncio.sleep(SAMPLE_SEC)
            samples.append(look(child, load.connections, began))
            for task in beside:
                if task.done():
                    task.result()
        for task in beside:
            task.cancel()
        result = load.cut()
    verdicts.note(
        f"{minutes:g} minutes: {result.ok:,} answers (p50 {result.latency_ms(0.5):.1f} ms,"
        f" p99 {result.latency_ms(0.99):.1f} ms), {work.jobs} jobs, {work.swaps} swaps by hand"
    )
    some = work.refused
    done = bool(result.ok and work.jobs and work.swaps)
    verdicts.check("there were answers, jobs and swaps", done)
    verdicts.check(f"failed requests: {result.failed} (0) {result.errors or ''}", not result.failed)
    verdicts.check(f"failed jobs and swaps: {len(some)} (0) {some or ''}", not some)
    judge(samples, min(5.0, minutes / 3), verdicts)


def judge(samples: list[Sample], base_minute: float, verdicts: Verdicts) -> None:
    """The last minute against the one around `base_minute`."""
    end = samples[-1].at
    early = [s for s in samples if abs(s.at - 60 * base_minute) <= 30]
    late = [s for s in samples if s.at >= end - 60]
    before, after = (median(s.rss_bytes for s in some) / 2**20 for some in (early, late))
    every = range(60, int(end) + 1, max(60, int(end) // 600 * 60))
    nearest = [min(samples, key=lambda s, at=at: abs(s.at - at)) for at in every]
    verdicts.note("MiB by minutes: " + ", ".join(f"{s.rss_bytes / 2**20:.0f}" for s in nearest))
    verdicts.check(
        f"resident memory: {before:.1f} MiB in minute {base_minute:.0f}, {after:.1f} MiB in minute"
        f" {end / 60:.0f}: × {after / before:.3f} (at most {MAX_GROWTH})",
        after <= MAX_GROWTH * before,
    )
    for name in ("descriptors", "threads"):
        most, now = max(getattr(s, name) for s in early), median(getattr(s, name) for s in late)
        verdicts.check(f"{name}: at most {most} then, {now:g} now (no more)", now <= most)


def main(minutes: Annotated[float, typer.Option(min=3)] = 30) -> None:
    """Keep a service at work and watch what it holds."""
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory(prefix="noisewell-soak-") as scratch:
        data_dir = Path(scratch) / "data"
        with service(data_dir, {**os.environ, **SETTINGS}) as child:
            upload(f"http://127.0.0.1:{child.target.port}")
            run(soak(child, minutes, verdicts))
        left = [str(p.relative_to(data_dir)) for p in data_dir.rglob("*.tmp")]
    verdicts.check(f"temporary files left: {len(left)} (0) {left[:3] or ''}", not left)
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
