"""Owns how a setting moves during the burn-in: one cosine shape for all of them."""

import math
from dataclasses import dataclass


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
