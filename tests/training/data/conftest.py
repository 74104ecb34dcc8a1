"""Owns the small real images and archives that the data tests are made of."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def encoded(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Image file bytes from an array or a Pillow image."""
    return encoded


@pytest.fixture
def noise() -> Callable[..., bytes]:
    """A PNG of seeded noise."""

    def make(seed: int, side: int = 28, channels: int = 1) -> bytes:
        shape = (side, side) if channels == 1 else (side, side, channels)
        return encoded(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))

    return make


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[..., Path]:
    """A stored zip of the given entries."""

    def make(entries: dict[str, bytes], name: str = "images.zip", **options: Any) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", **options) as archive:
            for entry, data in entries.items():
                archive.writestr(entry, data)
        return path

    return make


@pytest.fixture
def two_classes(noise: Callable[..., bytes]) -> dict[str, bytes]:
    """Five images each of the classes a and b."""
    return {f"{c}/{i}.png": noise(10 * k + i) for k, c in enumerate("ab") for i in range(5)}
