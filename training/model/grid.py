"""Owns laying many images out as one."""

import math

import numpy as np
from numpy.typing import NDArray


def make_grid(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """Images (n, H, W, C) → one (rows·H, columns·W, C), row by row; empty cells are black.

    columns defaults to the squarest layout.
    """
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    cells = cells.reshape(rows, columns, height, width, channels)
    return cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
