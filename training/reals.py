"""Owns the order in which a run sees its real images."""

import numpy as np
import torch
from torch import Tensor

from training.model.pixels import to_float


class Reals:
    """The training images on the device, drawn in a fresh permutation every epoch.

    Where the next batch starts is `position`, the images drawn so far: with the seed, that is all
    there is to save, since each epoch's permutation follows from (seed, epoch).
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        seed: int,
        device: torch.device,
        mirror: bool = False,
    ) -> None:
        self._images = torch.from_numpy(np.ascontiguousarray(images)).to(device)  # (N, H, W, C)
        c = torch.zeros(len(images), dtype=torch.int64) if labels is None else torch.tensor(labels)
        self._labels = c.to(device)
        self._seed = seed
        self._device = device
        self._mirror = mirror
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        self._flips = np.empty(0, np.bool_)
        self.position = 0

    def __len__(self) -> int:
        return len(self._images)

    def next(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], shape (B, C, H, W), channels last in memory, and classes (B,)."""
        order, flips = self._take(batch_size)
        index = torch.from_numpy(order).to(self._device)
        pixels = self._images[index]  # (B, H, W, C)
        if self._mirror:
            flip = torch.from_numpy(flips).to(self._device)
            pixels = torch.where(flip[:, None, None, None], pixels.flip(2), pixels)
        return to_float(pixels).permute(0, 3, 1, 2), self._labels[index]

    def _take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the next `count` images stand, and which of them to flip left to right."""
        orders: list[np.ndarray] = []
        flips: list[np.ndarray] = []
        while count:
            epoch, start = divmod(self.position, len(self))
            self._begin(epoch)
            orders.append(self._order[start : start + count])
            flips.append(self._flips[start : start + count])
            count -= len(orders[-1])
            self.position += len(orders[-1])
        return np.concatenate(orders), np.concatenate(flips)

    def _begin(self, epoch: int) -> None:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = rng.permutation(len(self))
            self._flips = rng.random(len(self)) < 0.5
            self._epoch = epoch
