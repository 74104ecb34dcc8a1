"""Owns the proof that swapping versions under load fails nobody and mixes nothing.

Two versions of one model, the second with weights a thousandth larger, take turns as champion by
PUT /v1/models/m/aliases/champion, one swap after the other, while clients ask for images of the
champion. Every answer must be an image, and must name one digest: in its header, in the metadata of
its PNG, and that of the version it names. After every swap the next image must be of the new one.
The memory of files is off: it fills up meanwhile, as it should.
"""

import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from probes import metadata_of
from safetensors.torch import load as load_tensors
from verdicts import Verdicts

from app.bench.child import Child, service
from app.bench.load import ClosedLoad, fetch, run
from app.bench.wire import Answer, Target
from training.model.checkpoint import serialize
from training.model.registry import Registry

MODEL = "m"
CLIENTS = 16
WARM_UP = 0.1  # of the swaps, before memory is looked at


def register_two(registry: Registry) -> dict[int, str]:
    """Two versions of the model; gives their digests."""
    box = resources.files("training.model").joinpath("bundled", "mnist")
    files = {file.name: file.read_bytes() for file in box.iterdir() if file.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    weights = load_tensors(files["generator.safetensors"])
    larger = {n: t * 1.001 if t.is_floating_point() else t for n, t in weights.items()}
    registry.register(MODEL, files, manifest, "as it is")
    registry.register(
        MODEL, {**files, "generator.safetensors": serialize(larger)}, manifest, "larger"
    )
    return {v: registry.manifest(MODEL, v)["digest"] for v in registry.versions(MODEL)}


class Clients:
    """Ask for images of the champion, every seed once, and look at each answer."""

    def __init__(self, target: Target, digests: dict[int, str]) -> None:
        self.versions: Counter[int] = Counter()
        self._target = target
        self._digests = digests
        self._draw = random.Random(0)
        self._seeds: dict[int, int] = {}

    def make(self, index: int) -> bytes:
        seed = self._seeds[index] = self._draw.randrange(2**53)
        return self._target.get(f"/v1/models/{MODEL}/images/{seed}.png")

    def check(self, index: int, answer: Answer) -> str | None:
        seed = self._seeds.pop(index)
        if answer.status != 200:
            return f"answered {answer.status}"
        version, about = int(answer.header("x-model-version") or 0), metadata_of(answer.body)
        self.versions[version] += 1
        digests = {answer.header("x-model-digest"), about["digest"], self._digests.get(version)}
        if len(digests) > 1 or about["version"] != version:
            return "several digests in one answer"
        return None if about["seed"] == seed else "another seed"


async def swap(target: Target, version: int) -> str | None:
    """What went wrong."""
    request = target.put(f"/v1/models/{MODEL}/aliases/champion", {"version": version})
    answer = await fetch(target, request)
    if not answer.ok:
        return f"swap to {version} answered {answer.status}: {answer.body[:200]!r}"
    seed = random.randrange(2**53)
    image = await fetch(target, target.get(f"/v1/models/{MODEL}/images/{seed}.png"))
    served = image.header("x-model-version")
    return None if served == str(version) else f"{served} served after the swap to {version}"


async def measure(child: Child, digests: dict[int, str], swaps: int, verdicts: Verdicts) -> None:
    clients = Clients(child.target, digests)
    failed: list[str] = []
    rss: list[int] = []
    load = ClosedLoad(child.target, clients.make, CLIENTS, check=clients.check)
    async with load:
        await load.window(1)
        began = time.perf_counter()
        for number in range(swaps):
            wrong = await swap(child.target, 2 - number % 2)
            if wrong is not None:
                failed.append(wrong)
            rss.append(child.rss_bytes())
            await asyncio.sleep(0)
        seconds = time.perf_counter() - began
        result = load.cut()
    verdicts.note(
        f"{swaps:,} swaps in {seconds:.0f} s; {result.ok:,} images meanwhile, by version "
        f"{dict(sorted(clients.versions.items()))}, p50 {result.latency_ms(0.5):.1f} ms, "
        f"p99 {result.latency_ms(0.99):.1f} ms"
    )
    verdicts.check(f"failed swaps: {len(failed)} (0) {failed[:3] or ''}", not failed)
    verdicts.check(f"failed requests: {result.failed} (0) {result.errors or ''}", not result.failed)
    tell_memory(verdicts, rss)


def tell_memory(verdicts: Verdicts, rss: list[int]) -> None:
    """The median of the first tenth after warm-up, beside that of the last tenth."""
    tenth = max(1, round(WARM_UP * len(rss)))
    start, end = (median(some) / 2**20 for some in (rss[tenth : 2 * tenth], rss[-tenth:]))
    drift = end / start - 1
    verdicts.check(
        f"resident memory {start:.1f} MiB after {tenth} swaps, {end:.1f} at the end: "
        f"{drift:+.2%} (at most 1 %)",
        drift <= 0.01,
    )


def main(swaps: Annotated[int, typer.Option(min=20)] = 1000) -> None:
    """Swap two versions under load."""
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory(prefix="noisewell-swaps-") as scratch:
        data_dir = Path(scratch) / "data"
        digests = register_two(Registry(data_dir / "models"))
        with service(data_dir, {**os.environ, "NOISEWELL_IMAGE_CACHE_BYTES": "0"}) as child:
            run(measure(child, digests, swaps, verdicts))
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
