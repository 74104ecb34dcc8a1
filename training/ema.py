"""Owns the moving averages of G's weights, one of which is kept and served."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, batch_size: int, half_life_nimg: float) -> None:
    """ema ← lerp(net, ema, ½^(batch/half-life)); half-life in images, 0 copies the weights.

    Running statistics of batch normalisation are averaged with the weights they belong to.
    """
    decay = 0.5 ** (batch_size / half_life_nimg) if half_life_nimg > 0 else 0.0
    averaged, current = _tensors(ema), _tensors(net)
    get_ema_multi_avg_fn(decay)(averaged, current, 0)


def _tensors(net: nn.Module) -> list[Tensor]:
    both = chain(net.parameters(), net.buffers())
    return [t for t in both if t.is_floating_point()]  # not the count of batches seen
