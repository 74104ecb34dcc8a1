"""Owns what counts as a broken run, and how often and how a run may come back from it."""

import math
from collections.abc import Mapping

import torch

MAX_ROLLBACKS = 3
RATE_CUT = 0.5
GAMMA_RAISE = 3.0  # after a collapse: D is told more to keep its slope, so that G is not chased
BAD_WINDOWS = 2  # one after the other, of the collapse watch

# Losses and penalties stand at 1 to 100 in a sound run, whatever the loss; a run that passes this
# is on its way to infinity, and waiting only spends the last good state's time.
RUNAWAY = 1e6


class DivergedError(Exception):
    """Weights or statistics stopped being finite numbers, or ran away."""


class CollapsedError(DivergedError):
    """G stopped making part of what it is to make."""


def check_statistics(means: Mapping[str, float], cur_nimg: int) -> None:
    """Raises DivergedError naming the statistics that are NaN, infinite or beyond RUNAWAY."""
    bad = [f"{name} is {v:g}" for name, v in means.items() if math.isnan(v) or abs(v) > RUNAWAY]
    if bad:
        raise DivergedError(f"{', '.join(bad)} at image {cur_nimg}")


def check_weights(tensors: Mapping[str, torch.Tensor], cur_nimg: int) -> None:
    """Raises DivergedError naming a tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} holds NaN or infinity at image {cur_nimg}")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the CPU's allocator, had no room."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
