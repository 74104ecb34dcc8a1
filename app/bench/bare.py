"""Owns how fast a version's generator and encoder are without a service around them.

A process of its own, since torch's thread count belongs to a process.
"""

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from app.ask import Ask
from app.engine import Engine, Loaded
from app.logs import configure_logs
from training.model.registry import Registry
from training.model.sampling import pick_device

_CHUNK = 64


def main(
    models_dir: Path,
    model: str,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="For each figure.")] = 1.0,
    device: str = "auto",
) -> None:
    """Print images a second of MODEL's champion as JSON; THREADS are torch's and the encoder's."""
    configure_logs(logging.WARNING)
    torch.set_num_threads(threads)
    loaded = Engine(Registry(models_dir), pick_device(device), _CHUNK, 1).get(model, None)
    figures = {
        "threads": threads,
        "generator": {b: _generator(loaded, b, seconds) for b in loaded.certificate.buckets},
        "encoder": _encoder(loaded, threads, seconds),
    }
    print(json.dumps(figures))


def _generator(loaded: Loaded, bucket: int, seconds: float) -> float:
    """Latents and classes in, uint8 pixels out."""
    z, c = _ask(loaded, bucket).draw()

    def call() -> None:
        loaded.sampler(z, c)

    return bucket / _seconds_of(call, seconds)


def _encoder(loaded: Loaded, threads: int, seconds: float) -> float:
    """Pixels in, PNG with its metadata out; every thread has some images of its own."""
    ask = _ask(loaded, _CHUNK)
    z, c = ask.draw()
    images = loaded.sampler(z, c)

    def encode(_: int) -> None:
        for i, pixels in enumerate(images):
            ask.encode(i, pixels, c[i], "png")

    with ThreadPoolExecutor(threads) as pool:

        def call() -> None:
            list(pool.map(encode, range(threads)))

        return threads * _CHUNK / _seconds_of(call, seconds)


def _ask(loaded: Loaded, n: int) -> Ask:
    return Ask(loaded, range(n), None, None, 1.0)


def _seconds_of(call: Callable[[], Any], seconds: float) -> float:
    """The median duration of a call, of at least ten."""
    for _ in range(3):
        call()
    durations: list[float] = []
    ends = time.perf_counter() + seconds
    while len(durations) < 10 or time.perf_counter() < ends:
        began = time.perf_counter()
        call()
        durations.append(time.perf_counter() - began)
    return median(durations)


if __name__ == "__main__":
    typer.run(main)
