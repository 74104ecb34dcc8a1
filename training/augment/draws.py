"""Owns the chance in augmentation: what is drawn for each image, and which images it concerns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Images changed at a time on a CPU: larger results are fresh pages from the system at every call,
# and resampling 64 images took twice as long in one piece.
CPU_CHUNK = 16


@dataclass(frozen=True)
class Draws:
    """What was drawn for `count` images: for each group of operations one tensor, first dim count.

    Everywhere 0 stands for "not drawn": a row of zeros leaves its image alone, and so does a
    missing group, at no cost.
    """

    count: int
    groups: dict[str, Tensor]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> "Draws":
        """A part of the batch's draws; the whole is drawn first, so no cut changes anything."""
        groups = {name: values[part] for name, values in self.groups.items()}
        return Draws(len(range(self.count)[part]), groups)


class Augmentation(Protocol):
    """Random changes to images in two parts, so that several batches can share the chance."""

    def draw(
        self, count: int, p: float, img_resolution: int, img_channels: int, rng: torch.Generator
    ) -> Draws:
        """Draws for `count` images, on rng's device. p in [0, 1]: odds of each operation."""
        ...

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (B, C, R, R), about [-1, 1], C 1 or 3, R ≥ 8, changed as drawn; never clipped.

        The same dtype and shape come out, and derivatives of any order pass, autocast or not.
        Images and draws share a device.
        """
        ...


@dataclass(frozen=True)
class Dice:
    """Independent numbers for each of `count` images, shape (count, …), on rng's device."""

    count: int
    rng: torch.Generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        u = torch.rand(self.count, *shape, generator=self.rng, device=self.rng.device)
        return low + (high - low) * u

    def normal(self, std: float, *shape: int) -> Tensor:
        n = torch.randn(self.count, *shape, generator=self.rng, device=self.rng.device)
        return std * n

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        """Floats that hold one of low, …, high - 1."""
        size = (self.count, *shape)
        drawn = torch.randint(low, high, size, generator=self.rng, device=self.rng.device)
        return drawn.float()

    def keep(self, values: Tensor, odds: float) -> Tensor:
        """Each image keeps its values with probability `odds`; the others get zeros."""
        coin = self.uniform(0, 1, *[1] * (values.ndim - 1))
        return values * (coin < odds)


def where_drawn(
    images: Tensor, drawn: Tensor, change: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """change(images, *parameters) where `drawn`, shape (B,), is set; other images as they were.

    images and each of the parameters have the first dimension B.
    """
    if images.device.type != "cpu":
        # To look which rows are set would wait for the device, longer than changing them all.
        return torch.where(drawn.view(-1, 1, 1, 1), change(images, *parameters), images)
    rows = drawn.nonzero().squeeze(1)
    if len(rows) == 0:
        return images
    changed = [change(images[r], *(p[r] for p in parameters)) for r in rows.split(CPU_CHUNK)]
    return images.index_copy(0, rows, torch.cat(changed))
