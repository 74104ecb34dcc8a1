"""Owns DiffAugment (Zhao et al. 2020, arXiv 2006.10738): colour, translation and cutout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.cutout import cut_out, draw_cutout
from training.augment.draws import Dice, Draws, where_drawn
from training.augment.geometry import take


@dataclass(frozen=True)
class DiffAugment:
    """The policy "color,translation,cutout"; p = 1 is the published one. See Augmentation."""

    def draw(
        self, count: int, p: float, img_resolution: int, img_channels: int, rng: torch.Generator
    ) -> Draws:
        if p == 0:
            return Draws(count, {})
        dice = Dice(count, rng)
        brightness = dice.keep(dice.uniform(-0.5, 0.5, 1), p)
        saturation = dice.keep(dice.uniform(-1, 1, 1), p if img_channels > 1 else 0.0)
        contrast = dice.keep(dice.uniform(-0.5, 0.5, 1), p)
        farthest = int(img_resolution / 8 + 0.5)
        shift = dice.keep(dice.integer(-farthest, farthest + 1, 2), p)
        # The square covers whole pixels: its centre lies on one if its side is odd.
        odd = (img_resolution + 1) // 2 % 2
        centre = (dice.integer(0, img_resolution + 1 - odd, 2) + odd / 2) / img_resolution
        groups = {
            "colour": torch.cat([brightness, saturation, contrast], dim=1),
            "shift": shift,
            "cutout": draw_cutout(dice, centre, p),
        }
        return Draws(count, groups)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        if not draws.groups:
            return images
        colour, shift = draws.groups["colour"], draws.groups["shift"]
        images = where_drawn(images, colour.any(dim=1), recolour, colour)
        images = where_drawn(images, shift.any(dim=1), shift_in_zeros, shift)
        return cut_out(images, draws.groups["cutout"])


def recolour(images: Tensor, colour: Tensor) -> Tensor:
    """Adds brightness, stretches each pixel about its grey, then the image about its mean.

    colour: (B, 3), brightness, saturation - 1, contrast - 1.
    """
    brightness, saturation, contrast = colour[:, :, None, None, None].unbind(1)
    images = images + brightness
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (1 + saturation) * (images - grey)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (1 + contrast) * (images - mean)


def shift_in_zeros(images: Tensor, shift: Tensor) -> Tensor:
    """Shifts right and down by whole pixels (B, 2); what comes in from outside is 0."""
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    x, y = (pixels - shift.long()[:, :, None]).unbind(1)  # each (B, R): where pixels come from
    inside = ((y == y.clamp(0, size - 1))[:, :, None]) & (x == x.clamp(0, size - 1))[:, None]
    index = y.clamp(0, size - 1)[:, :, None] * size + x.clamp(0, size - 1)[:, None]
    return take(images, index).masked_fill(~inside[:, None], 0)
