"""Owns what becomes of the service when half of its clients vanish.

First, a queue of some thousand images (single PNGs and arrays of 32, so that it is the device that
keeps them waiting), half of whose clients vanish at random moments while they wait. Whoever leaves
then frees a place before the device is touched, so an image that was generated and not delivered is
waste. An image already on the device when its client leaves cannot be taken back: a client that
finds fewer than 512 images before its own when its moment comes stays.

Then clients that vanish at any moment: before, while and after their images are generated, and in
the middle of a long answer. What they had generated is told; judged is that nobody's answer is
another's, and that nothing is stuck afterwards.

Every answer is checked: X-Seed and what the images say of themselves name the seeds that were asked
for; and some are asked for again, alone, and must have the same bytes.
"""

import asyncio
import base64
import io
import json
import os
import random
import resource
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from probes import metadata_of, metric
from verdicts import Verdicts

from app.bench.child import service
from app.bench.load import LEFT, ClosedLoad, Connection, fetch, run
from app.bench.tally import Result
from app.bench.wire import Answer, Target

WAITING = 128  # connections in the first part
STILL_WAITING = 512  # images before one's own: it is not on the device, nor about to be
ARRAY_IMAGES, JSON_IMAGES, LONG_IMAGES = 32, 16, 1024
REPEATED = 200
PATIENT = {  # nobody is sent away: here they go themselves
    "NOISEWELL_MAX_IMAGE_STREAMS": "1000",
    "NOISEWELL_MAX_QUEUE_SIZE": "100000",
    "NOISEWELL_MAX_QUEUE_WAIT_MS": "60000",
}
IMAGES, QUEUED = "noisewell_inference_count_total", "noisewell_queued_images"


class Waiting:
    """PNGs and arrays in turn with seeds of their own, half of whose clients leave the queue."""

    def __init__(self, target: Target, stay_first: int) -> None:
        self.delivered = 0  # images
        self.answers: dict[bytes, bytes] = {}  # some requests, and what they gave
        self._target = target
        self._stay_first = stay_first
        self._draw = random.Random(0)
        self._waits: deque[float] = deque([0.1], maxlen=50)
        self._asked: dict[int, tuple[int, float, bytes]] = {}

    def make(self, index: int) -> bytes:
        seed = self._draw.randrange(2**53 - ARRAY_IMAGES)
        request = array(self._target, seed) if index % 2 else png(self._target, seed)
        self._asked[index] = seed, time.perf_counter(), request
        return request

    def patience(self, index: int) -> float | None:
        if index < self._stay_first or self._draw.random() < 0.5:
            return None
        return self._draw.uniform(0, 1) * median(self._waits)

    def images_before(self, index: int) -> int:
        """Of requests sent earlier that nobody answered so far."""
        return sum(images_of(other) for other in self._asked if other < index)

    def left(self, index: int) -> None:
        del self._asked[index]

    def check(self, index: int, answer: Answer) -> str | None:
        seed, sent, request = self._asked.pop(index)
        if answer.status != 200:
            return None
        self._waits.append(time.perf_counter() - sent)
        self.delivered += images_of(index)
        if len(self.answers) < REPEATED:
            self.answers[request] = answer.body
        return wrong_array(answer, seed) if index % 2 else wrong_png(answer, seed)


def images_of(index: int) -> int:
    return ARRAY_IMAGES if index % 2 else 1


def png(target: Target, seed: int) -> bytes:
    return target.get(f"/v1/models/mnist@1/images/{seed}.png")


def array(target: Target, seed: int, n: int = ARRAY_IMAGES, kind: str = "npy") -> bytes:
    return target.post("/v1/images", {"model": "mnist@1", "n": n, "seed": seed, "response": kind})


class LeavingTheQueue(ClosedLoad):
    """Whose clients leave only while enough others stand before them."""

    def __init__(self, target: Target, waiting: Waiting, requests: int) -> None:
        options = {"check": waiting.check, "patience": waiting.patience}
        super().__init__(target, waiting.make, WAITING, requests=requests, **options)
        self._waiting = waiting

    def leave(self, connection: Connection) -> None:
        if self._waiting.images_before(connection.index) >= STILL_WAITING:
            self._waiting.left(connection.index)
            super().leave(connection)


class Mixture:
    """PNGs, JSON and long arrays, half of whose clients leave at any moment.

    Those of long arrays leave when the first bytes of the answer are there.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._draw = random.Random(1)
        self._asked: dict[int, tuple[str, int]] = {}

    def kind(self, index: int) -> str:
        return ("png", "png", "png", "json", "npy")[index % 5]

    def make(self, index: int) -> bytes:
        kind, seed = self.kind(index), self._draw.randrange(2**53 - LONG_IMAGES)
        self._asked[index] = kind, seed
        if kind == "png":
            return png(self._target, seed)
        return array(self._target, seed, JSON_IMAGES if kind == "json" else LONG_IMAGES, kind)

    def patience(self, index: int) -> float | None:
        if self.kind(index) == "npy" or self._draw.random() < 0.5:
            return None
        return self._draw.expovariate(1 / 0.03)

    def check(self, index: int, answer: Answer) -> str | None:
        kind, seed = self._asked.pop(index)
        if answer.status != 200:
            return None
        if kind == "png":
            return wrong_png(answer, seed)
        if kind == "npy":
            return wrong_array(answer, seed, LONG_IMAGES)
        data = json.loads(answer.body)["data"]
        seeds = [metadata_of(base64.b64decode(image["b64_json"]))["seed"] for image in data]
        told = [image["seed"] for image in data]
        wanted = list(range(seed, seed + JSON_IMAGES))
        alright = seeds == told == wanted and answer.header("x-seed") == str(seed)
        return None if alright else "another's image"


class LeavingMidway(ClosedLoad):
    """Every other long answer is dropped when its first bytes are there."""

    def begun(self, connection: Connection) -> None:
        if connection.index % 10 == 4:
            connection.abort(LEFT)


def wrong_png(answer: Answer, seed: int) -> str | None:
    if answer.header("x-seed") != str(seed):
        return "another's answer"
    return None if metadata_of(answer.body)["seed"] == seed else "another's image"


def wrong_array(answer: Answer, seed: int, n: int = ARRAY_IMAGES) -> str | None:
    if answer.header("x-seed") != str(seed):
        return "another's answer"
    images = np.load(io.BytesIO(answer.body), allow_pickle=False)
    return None if len(images) == n else f"an array of {len(images)} images, not {n}"


async def while_they_wait(target: Target, requests: int, verdicts: Verdicts) -> dict[bytes, bytes]:
    """The first part; gives some requests and their answers."""
    stay_first = 4 * WAITING  # until the queue is as deep as it gets
    waiting = Waiting(target, stay_first)
    before = await metric(target, IMAGES)
    load = LeavingTheQueue(target, waiting, stay_first + requests)
    async with load:
        answered = await load.finished(300)
        result = load.cut()
    generated = await metric(target, IMAGES) - before
    wasted = generated - waiting.delivered
    tell(verdicts, result, answered)
    verdicts.check(
        f"{generated:,.0f} images generated, {waiting.delivered:,} delivered: "
        f"{wasted / generated:.2%} wasted (at most 1 %)",
        0 <= wasted <= 0.01 * generated,
    )
    return waiting.answers


async def at_any_moment(target: Target, requests: int, verdicts: Verdicts) -> None:
    """The second part."""
    mixture = Mixture(target)
    before = await metric(target, IMAGES)
    load = LeavingMidway(
        target,
        mixture.make,
        64,
        requests=requests,
        check=mixture.check,
        patience=mixture.patience,
    )
    async with load:
        answered = await load.finished(300)
        result = load.cut()
    await asyncio.sleep(1)
    tell(verdicts, result, answered)
    generated = await metric(target, IMAGES) - before
    verdicts.note(f"{generated:,.0f} images generated for clients that left at any moment")


def tell(verdicts: Verdicts, result: Result, answered: bool) -> None:
    left = result.errors.pop(LEFT, 0)
    verdicts.note(f"{left:,} clients left; {result.ok:,} answers, {result.statuses}")
    verdicts.check("everybody who stayed was answered", answered and result.ok == result.requests)
    verdicts.check(f"crossed or broken answers: {result.errors or 'none'}", not result.errors)


async def repeated(target: Target, answers: dict[bytes, bytes]) -> int:
    """How many requests give other bytes when nobody else asks."""
    return sum([(await fetch(target, request)).body != was for request, was in answers.items()])


async def stuck(target: Target) -> str | None:
    """What is still held some seconds after everybody has left; None if nothing is."""
    for _ in range(50):
        if not (queued := await metric(target, QUEUED)):
            break
        await asyncio.sleep(0.1)
    else:
        return f"{queued:.0f} images are still in the queue"
    draw = random.Random(2)

    def fresh(_: int) -> bytes:
        return png(target, draw.randrange(2**53))

    async with ClosedLoad(target, fresh, 64, requests=64) as load:
        answered = await load.finished(10)
        return None if answered and load.cut().ok == 64 else "fresh requests are not answered"


async def measure(target: Target, requests: int, verdicts: Verdicts) -> None:
    await fetch(target, target.get("/v1/models/mnist@1/images/0.png"))
    answers = await while_they_wait(target, requests, verdicts)
    other = await repeated(target, answers)
    verdicts.check(f"{other} of {len(answers)} answers have other bytes when alone", not other)
    await at_any_moment(target, requests // 5, verdicts)
    held = await stuck(target)
    verdicts.check(held or "nothing is stuck: the queue is empty, 64 of 64 answered", held is None)


def main(requests: Annotated[int, typer.Option(help="Half of them leave.")] = 10_000) -> None:
    """Let half of the clients vanish, and look at what the service makes of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the service inherits it
    verdicts = Verdicts()
    with (
        tempfile.TemporaryDirectory(prefix="noisewell-departures-") as scratch,
        service(Path(scratch) / "data", {**os.environ, **PATIENT}) as child,
    ):
        run(measure(child.target, requests, verdicts))
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
