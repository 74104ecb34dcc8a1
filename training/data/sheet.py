"""Owns the thumbnails of a packed dataset: a few images of each class, and a sheet of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.rows import Rows
from training.model.grid import make_grid
from training.pictures import picture_of

MAX_CLASSES = 24
_COLUMNS = 12
_LINES = 8  # of a dataset without classes
_MAX_SIDE = 64
_GAP = 2

Thumbnails = NDArray[np.uint8]


def thumbnails(rows: Rows, labels: NDArray[np.int64] | None, num_classes: int) -> list[Thumbnails]:
    """Up to 12 images of each of the first classes, spread over all there are: (n, S, S, C) each.

    Without classes there is one item of up to 96. S is the resolution, at most 64.
    """
    if labels is None:
        return [_small(rows.take(_spread(np.arange(len(rows)), _LINES * _COLUMNS)))]
    members = (np.flatnonzero(labels == i) for i in range(min(num_classes, MAX_CLASSES)))
    return [_small(rows.take(_spread(numbers, _COLUMNS))) for numbers in members]


def sheet(groups: Sequence[Thumbnails]) -> NDArray[np.uint8]:
    """All thumbnails in one image, each group from a new line on: (H, W, C)."""
    lines = [
        group[first : first + _COLUMNS]
        for group in groups
        for first in range(0, len(group), _COLUMNS)
    ]
    widest = max(map(len, lines))
    cells = np.zeros((len(lines), widest, *lines[0].shape[1:]), np.uint8)
    for line, images in zip(cells, lines, strict=True):
        line[: len(images)] = images
    padding = [(0, 0), (0, _GAP), (0, _GAP), (0, 0)]
    padded = np.pad(cells.reshape(-1, *cells.shape[2:]), padding)
    return make_grid(padded, widest)[:-_GAP, :-_GAP]


def _spread(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round()
    return numbers[places.astype(np.int64)]


def _small(images: NDArray[np.uint8]) -> Thumbnails:
    if images.shape[1] <= _MAX_SIDE:
        return images
    return np.stack([_fitted(image) for image in images])


def _fitted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = picture_of(pixels).resize((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(_MAX_SIDE, _MAX_SIDE, pixels.shape[2])
