"""Owns low-pass filters as matrices: windowed sincs, with edges reflected, for images of any size.

A separable filter is one small matrix on the columns and on the rows. At these sizes a matrix
product beats a convolution with one channel, and the edges need no padding.
"""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

REACH = 3  # of the windowed sinc to either side, in the spacing of what it keeps
KAISER_BETA = 4.0  # with this reach: 1 ± .005 up to .55 of the cut-off, ½ at it, 0 ± .005 from 1.45

OCTAVES = (8, 4, 2, 1)  # a filter spread k times keeps what is below π/k radians a pixel


def low_pass(x: Tensor) -> Tensor:
    """The ideal low-pass of cut-off ½ cycle per unit at distances x, under a Kaiser window."""
    beta = torch.tensor(KAISER_BETA, dtype=x.dtype, device=x.device)
    inside = (1 - (x / REACH).square()).clamp(min=0).sqrt()
    window = torch.special.i0(beta * inside) / torch.special.i0(beta)
    return torch.sinc(x) * window * (x.abs() <= REACH)


def reflected(x: Tensor, size: int) -> Tensor:
    """Positions, whole or not, folded into [0, size - 1] as by mirrors on the outermost pixels."""
    period = 2 * (size - 1)
    x = x.remainder(period)
    return torch.minimum(x, period - x)


def interpolation(points: Tensor, size: int, spread: int = 1) -> Tensor:
    """(len(points), size): from samples at 0, …, size - 1 to low-passed values at `points`."""
    margin = REACH * spread
    taps = torch.arange(-margin, size + margin, device=points.device)
    weights = low_pass((points[:, None] - taps) / spread)
    weights = weights / weights.sum(dim=1, keepdim=True)  # a flat image stays as it is
    folded = torch.zeros(len(points), size, dtype=points.dtype, device=points.device)
    return folded.index_add(1, reflected(taps, size), weights)


@cache
def octave_bands(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(4, size, size): filters for [0, π/8], [π/8, π/4], [π/4, π/2], [π/2, π] radians a pixel.

    Differences of low-passes, so that the four add up to the image itself; they stand in for the
    paper's wavelets. In the middle of a band its gain is .9, its upper neighbour's .1.
    """
    points = torch.arange(size, dtype=dtype, device=device)
    below = torch.stack([interpolation(points, size, spread) for spread in OCTAVES])
    return below.diff(dim=0, prepend=torch.zeros_like(below[:1]))


class _LinearMap(torch.autograd.Function):
    """matrix @ x for a matrix that is no variable; its backward is another such map.

    Autocast is off in both directions. Around plain ops it would come back in the backward that an
    exact gradient penalty runs inside the autocast region, and round to bf16 there.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(matrix)
        with torch.autocast(x.device.type, enabled=False):
            return matrix @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # pyright: ignore
        (matrix,) = ctx.saved_tensors
        return None, cast(Tensor, _LinearMap.apply(matrix.mT, gradient))


def both_ways(images: Tensor, matrix: Tensor) -> Tensor:
    """`matrix`, (M, N) or (B, M, N), on the columns and the rows of (B, C, N, N): (B, C, M, M)."""
    matrix = matrix if matrix.ndim == 2 else matrix[:, None]
    columns = cast(Tensor, _LinearMap.apply(matrix, images))
    return cast(Tensor, _LinearMap.apply(matrix, columns.mT)).mT
