"""Owns the mix of requests that a service is kept busy with: PNGs, and now and then an array."""

import random
from collections.abc import Callable

from app.bench.wire import Answer, Target

ARRAY_IMAGES = 64


def mixed(target: Target, draw: random.Random, arrays: int) -> Callable[[int], bytes]:
    """The request of each index, of a seed that nobody asked for; one of `arrays` for an array."""

    def request(index: int) -> bytes:
        seed = draw.randrange(2**53 - ARRAY_IMAGES)
        if index % arrays:
            return target.get(f"/v1/models/mnist/images/{seed}.png")
        body = {"model": "mnist", "n": ARRAY_IMAGES, "seed": seed, "response": "npy"}
        return target.post("/v1/images", body)

    return request


def not_ok(index: int, answer: Answer) -> str | None:
    """What is wrong with an answer that should be 200."""
    return None if answer.status == 200 else f"answered {answer.status}"
