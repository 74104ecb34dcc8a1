"""Owns what the collapse watch sees of an image: 8×8 pixels, and responses of random filters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, relu

from training.model.pixels import to_float

_LARGEST = 32  # pixels a side; larger images are averaged down to it
_FILTERS, _SIZE, _GRID = 64, 5, 3
_PIXELS = 8
_CHUNK = 128  # images of 256 pixels a side are 100 MB then


@dataclass(frozen=True)
class Features:
    """Of n images: pixels (n, C·8·8) in [-1, 1] and responses (n, 2·64·3·3) ≥ 0."""

    pixels: Tensor
    responses: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> "Features":
        return Features(self.pixels[rows], self.responses[rows])


class RandomFilters:
    """images uint8 (n, H, W, C) → Features.

    Filters drawn once and never trained, rectified and pooled, tell images apart by more than
    brightness (Jarrett et al. 2009; Saxe et al. 2011). Each has mean 0 and norm 1.
    """

    def __init__(self, channels: int, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        w = torch.randn(_FILTERS, channels, _SIZE, _SIZE, generator=draws)
        w -= w.mean(dim=(1, 2, 3), keepdim=True)
        self._filters = w / w.flatten(1).norm(dim=1)[:, None, None, None]

    def of_rows(self, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Features:
        """Features of some of many images, without a copy of them all."""
        return join([self(images[rows[i : i + _CHUNK]]) for i in range(0, len(rows), _CHUNK)])

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Features:
        x = to_float(torch.tensor(images)).permute(0, 3, 1, 2)  # (n, C, H, W)
        if x.shape[2] > _LARGEST:
            x = adaptive_avg_pool2d(x, _LARGEST)
        pixels = adaptive_avg_pool2d(x, _PIXELS).flatten(1)
        x = conv2d(x, self._filters, stride=2 if x.shape[2] >= 16 else 1)  # (n, 64, h, h)
        x = torch.cat([relu(x), relu(-x)], dim=1)
        return Features(pixels, adaptive_avg_pool2d(x, _GRID).flatten(1))


def join(parts: Sequence[Features]) -> Features:
    """All images of the parts, in their order."""
    return Features(torch.cat([p.pixels for p in parts]), torch.cat([p.responses for p in parts]))
