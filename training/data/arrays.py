"""Owns which NumPy arrays are images: their type, shape and range, and how they become pixels."""

import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import DataError
from training.data.decode import MAX_IMAGE_PIXELS, MIN_SIDE
from training.data.layout import MAX_CLASSES, checked_class_names

BLOCK_BYTES = 16_000_000
# Room for the rounding of whoever scaled the pixels; it is clipped away.
RANGE_SLACK = 1e-3
# What NumPy raises on a damaged header, which it reads as a Python literal.
BAD_HEADER = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    EOFError,
    MemoryError,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class Part:
    """Images that lie in one array: (N, H, W) or (N, H, W, C); labels: int64 (N,) or None."""

    name: str
    images: NDArray[Any]
    labels: NDArray[np.int64] | None

    def with_channels(self) -> NDArray[Any]:
        """The images as (N, H, W, C)."""
        return self.images[..., None] if self.images.ndim == 3 else self.images


def check_count(name: str, count: int, max_files: int) -> None:
    """Raise DataError for more images than are allowed."""
    if count > max_files:
        raise DataError(f"{name!r} holds {count:,} images; max_files allows {max_files:,}.")


def open_npy(path: Path, name: str) -> NDArray[Any]:
    """Map an .npy file without unpickling anything; raises DataError under the name `name`."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except BAD_HEADER as e:
        if "Python objects" in str(e):  # and not: <ast.Call object at …>
            raise DataError(
                f"{name!r} is an array of Python objects, which could run code when opened; save"
                " it as uint8 with numpy.stack(images).astype('uint8')."
            ) from e
        raise DataError(f"{name!r} is not a whole .npy array ({e}); save it again.") from e
    return array


def check_images(name: str, images: NDArray[Any]) -> float:
    """What value is black: 0, or -1 for floats in [-1, 1]; raises DataError for anything else.

    images: (N, H, W, C), read block by block.
    """
    _check_shape(name, images)
    if images.dtype == np.uint8:
        return 0.0
    if images.dtype.kind != "f":
        raise DataError(
            f"{name!r} is of type {images.dtype}; expected uint8 in [0, 255] or floats in [0, 1] or"
            " [-1, 1]: convert it with .astype('uint8')."
        )
    low, high = _range(name, images)
    if low < -1 - RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise DataError(
            f"{name!r} holds {images.dtype} values from {low:g} to {high:g}; floats must lie in"
            " [0, 1] or [-1, 1]: scale them, or save pixels with .astype('uint8')."
        )
    return -1.0 if low < -RANGE_SLACK else 0.0


def _check_shape(name: str, images: NDArray[Any]) -> None:
    shape = images.shape
    expected = "expected (N, H, W), or (N, H, W, C) with 1 or 3 channels"
    if images.ndim != 4 or shape[3] not in (1, 3):
        hint = "; move the channels last" if images.ndim == 4 and shape[1] in (1, 3) else ""
        raise DataError(f"{name!r} has shape {shape}; {expected}{hint}.")
    if min(shape[1:3]) < MIN_SIDE or shape[1] * shape[2] > MAX_IMAGE_PIXELS:
        raise DataError(
            f"{name!r} has images of {shape[2]}×{shape[1]}; expected sides of {MIN_SIDE} or more"
            f" and at most {MAX_IMAGE_PIXELS:,} pixels."
        )
    if shape[0] == 0:
        raise DataError(f"{name!r} has shape {shape}, so it holds no images; {expected}.")


def _range(name: str, images: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value; raises DataError if one is not finite."""
    step = max(1, BLOCK_BYTES // images[0].nbytes)
    low, high = np.inf, -np.inf
    for start in range(0, len(images), step):
        block = images[start : start + step]
        if not np.isfinite(block).all():
            bad = start + int(np.argmin(np.isfinite(block).all(axis=(1, 2, 3))))
            raise DataError(
                f"{name!r} holds NaN or infinite values, first in image {bad}; remove such images."
            )
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    return low, high


def check_labels(name: str, labels: NDArray[Any], num_images: int) -> NDArray[np.int64]:
    """Class indices as int64 (N,); raises DataError, about `name`, if they are none."""
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} is {labels.dtype} of shape {labels.shape}; expected integers of shape"
            f" ({num_images},), one for each image."
        )
    low, high = (int(labels.min()), int(labels.max())) if num_images else (0, 0)
    if low < 0 or high >= MAX_CLASSES:
        raise DataError(
            f"{name} has classes from {low} to {high}; expected 0 to {MAX_CLASSES - 1}."
        )
    return labels.astype(np.int64)


def numbered_names(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names for classes that have none: their numbers, padded so that they sort as numbers do."""
    count = int(labels.max(initial=-1)) + 1
    return tuple(f"{i:0{len(str(count - 1))}d}" for i in range(count))


def check_class_names(name: str, names: Sequence[str], labels: NDArray[np.int64]) -> None:
    """Raise DataError, about `name`, unless there is a name of its own for every class."""
    checked_class_names(f"In {name}, class", names)
    most = int(labels.max(initial=-1))
    if len(set(names)) < len(names) or most >= len(names):
        raise DataError(
            f"{name} names {len(names):,} classes, {len(set(names)):,} of them different, but the"
            f" labels go up to {most}; expected a name of its own for each from 0 on."
        )


def to_pixels(image: NDArray[Any], low: float) -> NDArray[np.uint8]:
    """(H, W, C) as `check_images` found it → uint8; low: the value of black."""
    if image.dtype == np.uint8:
        return np.asarray(image)
    # torch takes seconds to import, and only float arrays need the one conversion of pixels.
    import torch

    from training.model.pixels import to_uint8

    values = torch.from_numpy(image.astype(np.float32))
    return to_uint8(values if low < 0 else 2 * values - 1).numpy()
