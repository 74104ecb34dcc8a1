"""Owns the augmentation pipe of Karras et al. 2020 (arXiv 2006.06676, appendix B)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.cutout import cut_out, draw_cutout
from training.augment.draws import Dice, Draws, where_drawn
from training.augment.filters import both_ways, octave_bands
from training.augment.geometry import move, resample, rotation, scaling, translation

# What natural images hold of each octave band, low to high: they fall off as 1/frequency.
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


@dataclass(frozen=True)
class Strengths:
    """What p is multiplied by for each group of operations; a group of strength 0 costs nothing.

    The default is the set of R3GAN (arXiv 2501.05441).
    """

    blit: float = 1.0  # flip, quarter turns, whole shifts
    geometry: float = 1.0  # scale, rotation, stretch, fractional shifts
    colour: float = 0.5  # brightness, contrast, luma flip, hue, saturation
    bands: float = 0.0  # gains of octave bands
    noise: float = 0.0
    cutout: float = 1.0


EVERYTHING = Strengths(colour=1.0, bands=1.0, noise=1.0)


@dataclass(frozen=True)
class Ada:
    """Each operation by itself with probability p times its group's strength. See Augmentation."""

    strengths: Strengths

    def draw(
        self, count: int, p: float, img_resolution: int, img_channels: int, rng: torch.Generator
    ) -> Draws:
        dice, s = Dice(count, rng), self.strengths
        groups: dict[str, Tensor] = {}
        if p * s.blit > 0:
            groups["blit"] = _draw_blit(dice, p * s.blit, img_resolution)
        if p * s.geometry > 0:
            groups["geometry"] = _draw_geometry(dice, p * s.geometry, img_resolution)
        if p * s.colour > 0:
            groups["colour"] = _draw_colour(dice, p * s.colour, img_channels)
        if p * s.bands > 0:
            boosts = [dice.keep(dice.normal(1, 1), p * s.bands) for _ in BAND_POWER]
            groups["bands"] = torch.cat(boosts, dim=1)
        if p * s.noise > 0:
            std = dice.normal(0.1, 1, 1, 1).abs()
            pattern = dice.normal(1, img_channels, img_resolution, img_resolution)
            groups["noise"] = dice.keep(std * pattern, p * s.noise)
        if p * s.cutout > 0:
            groups["cutout"] = draw_cutout(dice, dice.uniform(0, 1, 2), p * s.cutout)
        return Draws(count, groups)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        groups = draws.groups
        with torch.autocast(images.device.type, enabled=False):
            images = transform(images, groups.get("blit"), groups.get("geometry"))
            if (colour := groups.get("colour")) is not None:
                images = where_drawn(images, colour.any(dim=1), recolour, colour)
            if (bands := groups.get("bands")) is not None:
                images = where_drawn(images, bands.any(dim=1), amplify_bands, bands)
            if (noise := groups.get("noise")) is not None:
                images = images + noise
            if (cutout := groups.get("cutout")) is not None:
                images = cut_out(images, cutout)
            return images


def _draw_blit(dice: Dice, odds: float, size: int) -> Tensor:
    """(B, 4): flip 0 or 1, quarter turns 0 to 3, shift right and down in whole pixels."""
    flip = dice.keep(dice.integer(0, 2, 1), odds)
    turns = dice.keep(dice.integer(0, 4, 1), odds)
    shift = dice.keep((dice.uniform(-0.125, 0.125, 2) * size).round(), odds)
    return torch.cat([flip, turns, shift], dim=1)


def _draw_geometry(dice: Dice, odds: float, size: int) -> Tensor:
    """(B, 6): log₂ scale, first angle, log₂ stretch, second angle, shift right and down in pixels.

    A rotation before and one after the stretch, so that it may have any direction; drawn so that
    the odds of either or both are `odds`.
    """
    odds_of_one = 1 - math.sqrt(1 - odds)
    scale = dice.keep(dice.normal(0.2, 1), odds)
    before = dice.keep(dice.uniform(-math.pi, math.pi, 1), odds_of_one)
    stretch = dice.keep(dice.normal(0.2, 1), odds)
    after = dice.keep(dice.uniform(-math.pi, math.pi, 1), odds_of_one)
    shift = dice.keep(dice.normal(0.125, 2) * size, odds)
    return torch.cat([scale, before, stretch, after, shift], dim=1)


def _draw_colour(dice: Dice, odds: float, img_channels: int) -> Tensor:
    """(B, 5): brightness, log₂ contrast, luma flip 0 or 1, hue angle, log₂ saturation."""
    brightness = dice.keep(dice.normal(0.2, 1), odds)
    contrast = dice.keep(dice.normal(0.5, 1), odds)
    flip = dice.keep(dice.integer(0, 2, 1), odds)
    chroma_odds = odds if img_channels > 1 else 0.0  # grey has neither hue nor saturation
    hue = dice.keep(dice.uniform(-math.pi, math.pi, 1), chroma_odds)
    saturation = dice.keep(dice.normal(1, 1), chroma_odds)
    return torch.cat([brightness, contrast, flip, hue, saturation], dim=1)


def transform(images: Tensor, blit: Tensor | None, geometry: Tensor | None) -> Tensor:
    """One affine map per image, resampled only where pixels do not fall on pixels.

    blit: (B, 4), geometry: (B, 6), columns as drawn. Blit comes first, then geometry, each in the
    order of its columns; angles turn clockwise.
    """
    # Inverses in the order of application: from a position in the result back to the image.
    inverse = torch.eye(3, device=images.device).expand(len(images), 3, 3)
    if blit is not None:
        flip, turns, x, y = blit.unbind(1)
        inverse = scaling(1 - 2 * flip, torch.ones_like(flip))
        inverse = inverse @ rotation(-math.pi / 2 * turns) @ translation(-x, -y)
    slanted = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if geometry is not None:
        scale, before, stretch, after, x, y = geometry.unbind(1)
        undo = scaling((-scale).exp2(), (-scale).exp2()) @ rotation(-before)
        undo = undo @ scaling((-stretch).exp2(), stretch.exp2()) @ rotation(-after)
        slanted = geometry.any(dim=1)
        whole = inverse @ undo @ translation(-x, -y)
        images = where_drawn(images, slanted, resample, whole)
    if blit is not None:
        images = where_drawn(images, blit.any(dim=1) & ~slanted, move, inverse)
    return images


def recolour(images: Tensor, colour: Tensor) -> Tensor:
    """Brightness b, contrast k, luma flip, hue θ and saturation s, columns of (B, 5) as drawn.

    The paper multiplies 4×4 matrices. All of them turn about or stretch along the grey axis, so the
    product is short: ±k (grey + b) + k s R(θ) (x - grey). For one channel, x is its own grey.
    """
    brightness, contrast, flip, hue, saturation = colour[:, :, None, None, None].unbind(1)
    grey = images.mean(dim=1, keepdim=True)
    chroma = images - grey
    # Rodrigues' rotation about (1, 1, 1)/√3, of a vector at right angles to it
    across = (chroma.roll(1, dims=1) - chroma.roll(-1, dims=1)) / math.sqrt(3)
    turned = hue.cos() * chroma + hue.sin() * across
    return contrast.exp2() * ((1 - 2 * flip) * (grey + brightness) + saturation.exp2() * turned)


def amplify_bands(images: Tensor, boosts: Tensor) -> Tensor:
    """Gains of the four octave bands, the product of steps that each leave the expected power.

    boosts: (B, 4), log₂ of each band's own gain. A gain applies to rows and again to columns.
    """
    shares = torch.tensor(BAND_POWER, device=boosts.device)
    power = 1 + shares * ((2 * boosts).exp2() - 1)  # (B, 4): after the step of each band
    gains = boosts.exp2() / power.sqrt().prod(dim=1, keepdim=True)
    bands = octave_bands(images.shape[-1], images.dtype, images.device)
    return both_ways(images, torch.einsum("bk,kij->bij", gains.to(images.dtype), bands))
