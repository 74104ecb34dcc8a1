"""Owns the moving average of G's weights, the generator that is kept and served."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, batch_size: int, half_life_nimg: float) -> None:
    """ema ← lerp(net, ema, ½^(batch/half-life)); half-life in images, 0 copies the weights."""
    decay = 0.5 ** (batch_size / half_life_nimg) if half_life_nimg > 0 else 0.0
    for averaged, current in zip(ema.parameters(), net.parameters(), strict=True):
        averaged.lerp_(current, 1 - decay)
