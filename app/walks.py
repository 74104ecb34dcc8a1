"""Owns walks between latents: where each frame lies on the way from key to key."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.ask import Ask
from training.model.sampling import Classes, Latents, class_weights

Space = Literal["slerp", "lerp"]
_Floats = NDArray[np.float64]

# Directions closer than this are one direction to the rounding of their difference.
_PARALLEL = 1e-8


@dataclass(frozen=True)
class Walk:
    """`frames` images through the keys in turn, of which each is a frame itself.

    keys: two or more, and no more than frames. loop: the last key leads back to the first, which
    would be the next frame.
    """

    keys: Ask
    frames: int
    space: Space
    loop: bool

    def draw(self) -> tuple[Latents, Classes]:
        """Latents (frames, z_dim), and class weights (frames, num_classes) that go straight."""
        z, c = self.keys.draw()
        weights = class_weights(c, self.keys.loaded.sampler.config.num_classes)
        return (
            walked(z, self.frames, self.space, self.loop),
            walked(weights, self.frames, "lerp", self.loop),
        )


def stops(num_keys: int, frames: int, loop: bool) -> list[int]:
    """The frame of each key; if they loop, of the first again, after the last frame."""
    legs, steps = (num_keys, frames) if loop else (num_keys - 1, frames - 1)
    return [leg * steps // legs for leg in range(legs + 1)]


def walked(keys: NDArray[np.float32], frames: int, space: Space, loop: bool) -> Latents:
    """Keys (n, d) → (frames, d); frames that are keys are so to the bit: float64 rounds to them."""
    way = np.empty((frames, keys.shape[1]), np.float32)
    ends = np.concatenate([keys, keys[:1]]) if loop else keys
    between = slerp if space == "slerp" else lerp
    legs = pairwise(ends.astype(np.float64))
    for (a, b), (start, stop) in zip(legs, pairwise(stops(len(keys), frames, loop)), strict=True):
        t = np.arange(stop - start)[:, None] / (stop - start)
        way[start:stop] = between(a, b, t)
    if not loop:
        way[-1] = keys[-1]
    return way


def lerp(a: _Floats, b: _Floats, t: _Floats) -> _Floats:
    """The straight line from a to b (d,), at t (m, 1) in [0, 1]: (m, d)."""
    return (1 - t) * a + t * b


def slerp(a: _Floats, b: _Floats, t: _Floats) -> _Floats:
    """From a to b (d,), at t (m, 1) in [0, 1], direction and norm each change evenly: (m, d).

    Gaussian latents have norms near √d, and a straight line between two leaves that shell (White
    2016, arXiv 1609.04468, section 2.1). Shoemake's slerp (1985, section 3.3) of the directions, in
    a form without a division by sin Ω: cos(tΩ)·u + sin(tΩ)·v, v the unit vector at a right angle to
    u = a/|a| in the plane of both. Opposite directions have no such plane, and take one; a zero
    vector has no direction, and lies on a straight line to the other.
    """
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    if not (norm_a and norm_b):
        return lerp(a, b, t)
    u, to = a / norm_a, b / norm_b
    across = to - (to @ u) * u
    width = np.linalg.norm(across)
    angle = np.arctan2(width, to @ u)
    v = across / width if width > _PARALLEL else _right_angle(u)
    direction = np.cos(t * angle) * u + np.sin(t * angle) * v
    return ((1 - t) * norm_a + t * norm_b) * direction


def _right_angle(u: _Floats) -> _Floats:
    """A unit vector at a right angle to the unit vector u; in one dimension, which has none, 0."""
    axis = np.zeros_like(u)
    axis[np.abs(u).argmin()] = 1
    across = axis - (axis @ u) * u
    return across / (np.linalg.norm(across) or 1)
