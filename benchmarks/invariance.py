"""Owns the proof that a seed is its bytes: in every bucket, place and company, now and later.

Processes of their own, twice with one torch thread and twice with two, draw every seed in every
bucket, at a place and among neighbours drawn by chance, some batches padded. Then a service,
started twice, answers 64 clients who ask for the same seeds in an order of chance. Pixels must be
the same everywhere, files wherever the certificate is.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app import png
from app.bench.child import service
from app.bench.load import ClosedLoad, run
from app.bench.wire import Answer, Target
from training.model.checkpoint import load_generator
from training.model.sampling import Sampler, classes_of, latents_of

CLIENTS = 64
NOTE = Console(stderr=True)
cli = typer.Typer(add_completion=False, help=__doc__)


def digests(images: np.ndarray) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest()[:12] for image in images]


def drawn_in(
    sampler: Sampler, seeds: np.ndarray, bucket: int, rng: np.random.Generator
) -> np.ndarray:
    """The images of all seeds, in calls of one bucket: places, neighbours, padding by chance."""
    sampler.bucket = lambda n: bucket  # not what is cheapest, but what is asked
    images = np.empty((len(seeds), *sampler.from_seeds([0]).shape[1:]), np.uint8)
    order, start = rng.permutation(len(seeds)), 0
    while start < len(seeds):
        filled = bucket if rng.random() < 0.7 else int(rng.integers(1, bucket + 1))
        rows = order[start : start + filled]
        z = latents_of(seeds[rows].tolist(), sampler.config.z_dim)
        images[rows] = sampler(z, classes_of(seeds[rows].tolist(), sampler.config.num_classes))
        start += filled
    return images


@cli.command(hidden=True)
def draw(folder: Path, n: int, threads: int, chance: int) -> None:
    """In a process of its own: print how many seeds differ in each bucket, and what all are."""
    torch.set_num_threads(threads)
    sampler = Sampler(*load_generator(folder), torch.device("cpu"))
    seeds, rng = seeds_of(n), np.random.default_rng(chance)
    buckets = sampler.certificate.buckets
    images = {b: digests(drawn_in(sampler, seeds, b, rng)) for b in buckets}
    reference = images[buckets[-1]]
    wrong = {b: sum(x != y for x, y in zip(images[b], reference, strict=True)) for b in buckets}
    told = {"wrong": wrong, "certificate": vars(sampler.certificate)}
    print(json.dumps({**told, "digests": [digest.hex() for digest in reference]}))


def seeds_of(n: int) -> np.ndarray:
    """Half of them from 0 on, as people ask; half from all there are."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.arange(n // 2), rng.integers(2**53, size=n - n // 2)])


async def asked(target: Target, seeds: np.ndarray, chance: int) -> list[bytes]:
    """What 64 clients get for these seeds, in an order of chance."""
    order = list(range(len(seeds)))
    random.Random(chance).shuffle(order)
    files: dict[int, bytes] = {}

    def make(i: int) -> bytes:
        return target.get(f"/v1/models/mnist@1/images/{seeds[order[i]]}.png")

    def check(i: int, answer: Answer) -> str | None:
        if answer.ok:
            files[order[i]] = answer.body
        return None

    async with ClosedLoad(
        target, make, connections=CLIENTS, requests=len(seeds), check=check
    ) as load:
        await load.finished(600)
    if len(files) < len(seeds):
        raise SystemExit(f"{len(seeds) - len(files)} of {len(seeds)} requests failed")
    return [files[i] for i in range(len(seeds))]


@cli.command()
def prove(
    n: Annotated[int, typer.Option(help="Seeds.")] = 10_000,
    folder: Annotated[Path | None, typer.Option(help="Version to draw; bundled mnist.")] = None,
    http: Annotated[bool, typer.Option(help="Also ask a service.")] = True,
) -> None:
    """Draw, ask, compare, and print a table; ends with 1 if anything differs."""
    box = resources.files("training.model").joinpath("bundled", "mnist")
    table = Table("drawn by", "certificate", "seeds", "that differ")
    bad = 0
    with resources.as_file(box) as bundled:
        runs = [(threads, restart) for threads in (1, 2) for restart in (1, 2)]
        found = []
        for threads, restart in track(runs, "drawing", console=NOTE):
            command = [sys.executable, __file__, "draw", str(folder or bundled), str(n)]
            command += [str(threads), str(10 * threads + restart)]
            found.append(json.loads(subprocess.check_output(command)))
    first = found[0]["digests"]
    for (threads, restart), told in zip(runs, found, strict=True):
        about = told["certificate"]
        other = sum(a != b for a, b in zip(told["digests"], first, strict=True))
        what = f"process {restart} with {threads} thread{'s' * (threads > 1)}"
        named = f"{about['precision']}, buckets {', '.join(map(str, about['buckets']))}"
        counts = ", ".join(str(wrong) for wrong in told["wrong"].values())
        table.add_row(what, named, f"{n} in each", f"{counts}; {other} from the first process")
        bad += other + sum(told["wrong"].values())
    if http and folder is None:
        bad += over_http(n, first, table)
    Console(width=110).print(table)
    raise SystemExit(bad > 0)


def over_http(n: int, first: list[str], table: Table) -> int:
    """Ask a service, started twice; how many pixels or files differ."""
    seeds, passes = seeds_of(n), []
    for restart in track((1, 2), "asking", console=NOTE):
        with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as server:
            passes.append(run(asked(server.target, seeds, restart)))
    pixels = [
        digests([png.read(f, max_bytes=10**6, max_pixels=10**6)[0] for f in files])
        for files in passes
    ]
    bad = Counter[str]()
    for a, b, x, y, expected in zip(*passes, *pixels, first, strict=True):
        bad["files"] += a != b
        bad["pixels"] += (x.hex() != expected) + (y.hex() != expected)
    table.add_row(
        f"a service, {CLIENTS} clients, started twice", "", f"{n} each time",
        f"{bad['files']} files, {bad['pixels']} pixels from the first process",
    )  # fmt: skip
    return bad.total()


if __name__ == "__main__":
    cli()
