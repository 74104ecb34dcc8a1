"""Owns how settings move during the burn-in: one cosine shape for all of them."""

import math
from dataclasses import dataclass

from training.config import TrainConfig


@dataclass(frozen=True)
class Cosine:
    """v(n) = final + (base - final)·½(1 + cos(π·min(n, N)/N)): base at 0, final from N on.

    R3GAN (arXiv 2501.05441, appendix) moves γ, β2, rates, EMA and augmentation so.
    """

    base: float
    final: float

    def at(self, cur_nimg: float, burn_in_nimg: float) -> float:
        """The value after `cur_nimg` images of a burn-in of `burn_in_nimg` images (≥ 0)."""
        done = min(cur_nimg / burn_in_nimg, 1.0) if burn_in_nimg > 0 else 1.0
        return self.final + (self.base - self.final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Moment:
    """The settings that move, as they are for one step. Half-lives are in images."""

    lr_g: float
    lr_d: float
    beta2_g: float
    beta2_d: float
    gamma: float
    instance_noise: float
    augment_p: float
    ema_half_lives: tuple[float, ...]


def moment_at(config: TrainConfig, cur_nimg: int, total_nimg: int) -> Moment:
    """Every moving setting after `cur_nimg` of `total_nimg` images."""
    burn_in_nimg = config.burn_in_fraction * total_nimg

    def at(base: float, final: float) -> float:
        return Cosine(base, final).at(cur_nimg, burn_in_nimg)

    lr_scale = at(1.0, config.lr_final_ratio)
    ramps = config.augment_schedule == "burn_in"
    return Moment(
        lr_g=config.lr_g * lr_scale,
        lr_d=config.lr_d * lr_scale,
        beta2_g=at(config.beta2_g, config.beta2_final_g),
        beta2_d=at(config.beta2_d, config.beta2_final_d),
        gamma=at(config.gamma, config.gamma_final),
        instance_noise=at(config.instance_noise, 0.0),
        augment_p=at(0.0, config.augment_p) if ramps else config.augment_p,
        ema_half_lives=tuple(at(0.0, f * total_nimg) for f in config.ema_fractions),
    )
