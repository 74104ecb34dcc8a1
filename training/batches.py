"""Owns everything random in a step: drawn for the whole batch at once, then cut.

However a batch is cut, into parts that fit the memory or shares of several processes, every image
meets the same latent, noise and augmentation: the step stays the same but for rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.draws import Augmentation, Draws
from training.config import TrainConfig
from training.reals import Reals
from training.schedules import Moment


@dataclass(frozen=True)
class Disguise:
    """What stands between an image and D: instance noise and augmentation, or neither."""

    augmentation: Augmentation | None
    draws: Draws | None
    noise: Tensor | None  # (B, C, H, W), already scaled

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, C, H, W); the same ones, or others moved by a little, come out alike."""
        if self.noise is not None:
            images = images + self.noise
        if self.augmentation is not None and self.draws is not None:
            images = self.augmentation.apply(images, self.draws)
        return images

    def __getitem__(self, rows: slice) -> "Disguise":
        draws = None if self.draws is None else self.draws[rows]
        return Disguise(self.augmentation, draws, None if self.noise is None else self.noise[rows])


@dataclass(frozen=True)
class Batch:
    """Reals with their classes, latents for as many fakes, and what else a step draws."""

    images: Tensor  # (B, C, H, W) in [-1, 1]
    c: Tensor  # (B,) int64, of the reals and of the fakes paired with them
    z: Tensor  # (B, z_dim)
    direction: Tensor | None  # (B, 2, C, H, W): n of x + εn, for reals and fakes
    mix: Tensor | None  # (B, 1, 1, 1) in [0, 1): where between real and fake GP looks
    real_disguise: Disguise
    fake_disguise: Disguise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(
            self.images[rows],
            self.c[rows],
            self.z[rows],
            None if self.direction is None else self.direction[rows],
            None if self.mix is None else self.mix[rows],
            self.real_disguise[rows],
            self.fake_disguise[rows],
        )

    def cut(self, parts: int) -> "list[Batch]":
        """The batch in `parts` equal parts."""
        size = len(self) // parts
        return [self[i : i + size] for i in range(0, len(self), size)]


class Drawer:
    """Draws a run's batches, always in the same order from the same generator."""

    def __init__(
        self,
        config: TrainConfig,
        reals: Reals,
        rng: torch.Generator,
        augmentation: Augmentation | None,
    ) -> None:
        self._config = config
        self._reals = reals
        self._rng = rng
        self._augmentation = augmentation

    def next(self, moment: Moment, for_d: bool) -> Batch:
        """A batch of fresh reals and latents; `for_d` with what D's penalties need."""
        config, size = self._config, self._config.batch_size
        images, c = self._reals.next(size)
        z = self._draw(torch.randn, size, config.z_dim)
        penalised = for_d and config.penalty == "finite_difference" and config.gamma > 0
        direction = self._noise_like(images, 2) if penalised else None
        mix = self._draw(torch.rand, size, 1, 1, 1) if for_d and config.gp_weight else None
        real = self._disguise(images, moment)
        fake = real if config.augment_same_draw else self._disguise(images, moment)
        return Batch(images, c, z, direction, mix, real, fake)

    def _disguise(self, images: Tensor, moment: Moment) -> Disguise:
        draws = noise = None
        if self._augmentation is not None:
            size, channels, resolution, _ = images.shape
            p = moment.augment_p
            draws = self._augmentation.draw(size, p, resolution, channels, self._rng)
        if moment.instance_noise:
            noise = moment.instance_noise * self._noise_like(images, 1).squeeze(1)
        return Disguise(self._augmentation, draws, noise)

    def _noise_like(self, images: Tensor, each: int) -> Tensor:
        """N(0, I), shape (B, each, C, H, W), channels last in memory as the images are."""
        size, channels, height, width = images.shape
        noise = self._draw(torch.randn, size, each, height, width, channels)
        return noise.permute(0, 1, 4, 2, 3)

    def _draw(self, how: Callable[..., Tensor], *shape: int) -> Tensor:
        return how(shape, generator=self._rng, device=self._rng.device)
