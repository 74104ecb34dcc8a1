"""Owns cutout: a square of half the side set to mid-grey."""

import torch
from torch import Tensor

from training.augment.draws import Dice


def draw_cutout(dice: Dice, centre: Tensor, odds: float) -> Tensor:
    """(B, 3): 1 and the centre (x, y), shape (B, 2), in shares of the side; zeros: no cutout."""
    return dice.keep(torch.cat([torch.ones_like(centre[:, :1]), centre], dim=1), odds)


def cut_out(images: Tensor, cutout: Tensor) -> Tensor:
    """Images with 0 in their squares, which may stand out over the edge. cutout: as drawn."""
    size = images.shape[-1]
    pixels = (torch.arange(size, device=images.device) + 0.5) / size
    marked, x, y = cutout[:, :, None].unbind(1)
    across, along = ((pixels - centre).abs() < 0.25 for centre in (x, y))
    square = along[:, :, None] & (across & (marked > 0))[:, None]
    return images.masked_fill(square[:, None], 0)
