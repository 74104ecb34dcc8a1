"""Owns where pixels come from: affine maps of the image plane, moved exactly or resampled.

A position is (x, y, 1) in pixels from the centre of the image, x to the right, y down. The pixels
are taken by index: F.grid_sample's backward has no derivative, and exact penalties need one.
"""

from functools import cache

import torch
from torch import Tensor

from training.augment.filters import REACH, both_ways, interpolation, low_pass, reflected

MARGIN = 2 * REACH - 1  # samples of the doubled grid that the low-pass needs beyond the edge


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that stretch by factors (B,)."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(x, zero, zero, zero, y, zero, zero, zero, one)


def rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn by angles (B,) in radians, from the x-axis to the y-axis."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return _matrix(cos, -sin, zero, sin, cos, zero, zero, zero, one)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that shift by (B,) pixels."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(one, zero, x, zero, one, y, zero, zero, one)


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, dim=1).unflatten(1, (3, 3))


def take(images: Tensor, index: Tensor) -> Tensor:
    """Pixels of (B, C, H, W) at flat positions y·W + x, int64 (B, S, S): (B, C, S, S)."""
    every_channel = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, every_channel).unflatten(2, index.shape[1:])


def move(images: Tensor, inverse: Tensor) -> Tensor:
    """Maps of the pixel grid onto itself: flips, quarter turns, whole shifts; edges reflected.

    inverse: (B, 3, 3), from positions in the result to positions in `images`.
    """
    size = images.shape[-1]
    x, y = _sources(inverse, torch.arange(size, device=images.device), size)
    x, y = (reflected(at.round(), size).long() for at in (x, y))
    return take(images, y * size + x)


def resample(images: Tensor, inverse: Tensor) -> Tensor:
    """Any affine map, edges reflected, without jagged lines: Karras et al. 2020, figure 14.

    Images are doubled by a windowed sinc, sampled between four pixels at twice the resolution, and
    halved by the same filter. inverse: as for `move`.
    """
    size, doubled = images.shape[-1], 2 * images.shape[-1] - 1
    up, points, down = _resampling(size, images.dtype, images.device)
    images = both_ways(images, up)  # (B, C, 2R - 1, 2R - 1): mirrors stay on its outermost pixels
    x, y = (reflected(2 * at, doubled) for at in _sources(inverse, points, size))
    left, top = (at.floor().clamp(max=doubled - 2) for at in (x, y))
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    index = (top * doubled + left).long()
    upper = torch.lerp(take(images, index), take(images, index + 1), right_share)
    index = index + doubled
    lower = torch.lerp(take(images, index), take(images, index + 1), right_share)
    return both_ways(torch.lerp(upper, lower, low_share), down)


def _sources(inverse: Tensor, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """x and y, each (B, S, S), in pixels from the first one, that `points` (S,) come from."""
    centre = (size - 1) / 2
    across, along = points - centre, (points - centre)[:, None]
    rows = inverse[:, :2, :, None, None].unbind(1)
    x, y = (row[:, 0] * across + row[:, 1] * along + row[:, 2] + centre for row in rows)
    return x, y


@cache
def _resampling(
    size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Doubling (2R - 1, R); the halved pixels the result is sampled at (S,); halving (R, S)."""
    pixels = torch.arange(size, dtype=dtype, device=device)
    halves = torch.arange(2 * size - 1, dtype=dtype, device=device) / 2
    steps = torch.arange(-MARGIN, 2 * size - 1 + MARGIN, dtype=dtype, device=device)
    weights = low_pass(pixels[:, None] - steps / 2)
    return interpolation(halves, size), steps / 2, weights / weights.sum(dim=1, keepdim=True)
