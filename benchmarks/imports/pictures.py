"""Owns what the images of these benchmarks show: drawn from a seed, the same on every machine."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rng = np.random.Generator


def photo_like(rng: Rng, width: int, height: int) -> Image.Image:
    """RGB: soft shades, a few shapes, the grain of a sensor; it packs like a photograph."""
    coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        draw_shape(draw, rng, width, height)
    return Image.fromarray(grained(rng, np.asarray(image), 6.0))


def draw_shape(draw: ImageDraw.ImageDraw, rng: Rng, width: int, height: int) -> None:
    x, y = rng.integers(0, width), rng.integers(0, height)
    w, h = rng.integers(4, width), rng.integers(4, height)
    box = (int(x - w // 2), int(y - h // 2), int(x + w // 2), int(y + h // 2))
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)


def grained(rng: Rng, pixels: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """With normal noise of that standard deviation."""
    noise = rng.normal(0, strength, pixels.shape).astype(np.float32)
    return (pixels + noise).clip(0, 255).astype(np.uint8)
