"""Owns the proof that training steps back for serving: latency and speed, alone and beside.

A real service answers single PNGs of ever new seeds at a fixed rate, open loop, while a job trains
on the same cores. Three kinds of window take turns, so that a noisy machine harms all alike:
sampling alone (the trainer is stopped by a signal), both, and training alone.
"""

import asyncio
import io
import json
import os
import random
import signal
import tempfile
import time
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from loop import submit, upload, wait_for
from PIL import Image
from verdicts import Verdicts

from app.bench.child import Child, descendants, service
from app.bench.load import OpenLoad, run
from app.bench.tally import Result, merged
from app.children import scrubbed_environment

CONNECTIONS = 64
WORST_FACTOR, WORST_MORE_MS, LEAST_SPEED = 2.0, 20.0, 0.6
START_SEC = 300


@dataclass
class Found:
    """Windows of each kind; speeds in images a second."""

    alone: list[Result] = field(default_factory=list)
    beside: list[Result] = field(default_factory=list)
    speed_beside: list[float] = field(default_factory=list)
    speed_alone: list[float] = field(default_factory=list)


class Trainer:
    """The trainer of the service's job: how far it is, and a way to stop it for a while."""

    def __init__(self, child: Child, run_dir: Path) -> None:
        self._stats = run_dir / "stats.jsonl"
        self.pid = next(pid for pid in descendants(child.pid) if _is_trainer(pid))

    @contextmanager
    def stopped(self) -> Generator[None]:
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    async def tick(self) -> tuple[float, int]:
        """When the trainer next says how many images it has seen, and how many those are."""
        before = self._stats.stat().st_size
        while self._stats.stat().st_size == before:
            await asyncio.sleep(0.01)
        line = self._stats.read_text().splitlines()[-1]
        return time.monotonic(), json.loads(line)["cur_nimg"]


def _is_trainer(pid: int) -> bool:
    return b"training.train" in Path(f"/proc/{pid}/cmdline").read_bytes()


def pictures(path: Path) -> None:
    """A zip of 28×28 images in two folders; what they show does not matter here."""
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(600):
            file = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (28, 28), np.uint8)).save(file, "PNG")
            archive.writestr(f"{number % 2}/{number}.png", file.getvalue())


async def measure(child: Child, trainer: Trainer, rate: float, rounds: int, sec: float) -> Found:
    found, draw = Found(), random.Random(0)

    def make(_: int) -> bytes:
        return child.target.get(f"/v1/models/mnist/images/{draw.randrange(2**53)}.png")

    async def sampled() -> Result:
        async with OpenLoad(child.target, make, CONNECTIONS, rate) as load:
            return await load.window(sec)

    for _ in range(rounds):
        with trainer.stopped():
            found.alone.append(await sampled())
        result, speed_beside = await asyncio.gather(sampled(), _speed(trainer, sec))
        found.beside.append(result)
        found.speed_beside.append(speed_beside)
        found.speed_alone.append(await _speed(trainer, sec))
    return found


async def _speed(trainer: Trainer, sec: float) -> float:
    began, first = await trainer.tick()
    await asyncio.sleep(max(0.0, sec - 2))
    ended, last = await trainer.tick()
    return (last - first) / (ended - began)


def tell(found: Found, verdicts: Verdicts) -> None:
    alone, beside = merged(found.alone), merged(found.beside)
    for name, result in (("alone", alone), ("beside a job", beside)):
        p50, p99 = result.latency_ms(0.5), result.latency_ms(0.99)
        verdicts.note(f"{name}: {result.ok} images, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    failed = alone.failed + beside.failed
    verdicts.check(f"failed requests: {failed} (0)", not failed)
    p99, lone = beside.latency_ms(0.99), alone.latency_ms(0.99)
    bar = max(WORST_FACTOR * lone, lone + WORST_MORE_MS)
    verdicts.check(f"p99 beside a job: {p99:.1f} ms, {p99 / lone:.2f}× (≤ {bar:.1f})", p99 <= bar)
    slow, fast = (sum(speeds) / len(speeds) for speeds in (found.speed_beside, found.speed_alone))
    verdicts.check(
        f"training beside sampling: {slow:.0f} images/s of {fast:.0f} alone, {slow / fast:.0%}"
        f" (≥ {LEAST_SPEED:.0%})",
        slow >= LEAST_SPEED * fast,
    )


def main(
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 20.0,
    rounds: Annotated[int, typer.Option(help="Of three windows each.")] = 6,
    sec: Annotated[float, typer.Option(help="Of a window.")] = 10.0,
    niceness: Annotated[int, typer.Option(help="NOISEWELL_TRAINING_NICENESS.")] = 10,
    preset: Annotated[str, typer.Option(help="What the job trains.")] = "cpu28",
) -> None:
    """Sample from a service at a fixed rate without and with a job on the same cores."""
    env = scrubbed_environment() | {"NOISEWELL_TRAINING_NICENESS": str(niceness)}
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory(prefix="noisewell-beside-") as scratch:
        data_dir, archive = Path(scratch) / "data", Path(scratch) / "images.zip"
        pictures(archive)
        with service(data_dir, env) as child:
            url = f"http://127.0.0.1:{child.target.port}"
            dataset = upload(url, archive)
            job = submit(url, model="beside", dataset=dataset, preset=preset, kimg=100_000)
            wait_for(url, job, lambda row: (row["progress"] or {}).get("cur_nimg"), START_SEC)
            trainer = Trainer(child, data_dir / "runs" / job.rpartition("/")[2])
            found = run(measure(child, trainer, rate, rounds, sec))
    tell(found, verdicts)
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
