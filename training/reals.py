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
        self, images: np.ndarray, labels: np.ndarray | None, seed: int, device: torch.device
    ) -> None:
        self._images = torch.from_numpy(np.ascontiguousarray(images)).to(device)  # (N, H, W, C)
        c = torch.zeros(len(images), dtype=torch.int64) if labels is None else torch.tensor(labels)
        self._labels = c.to(device)
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        self.position = 0

    def __len__(self) -> int:
        return len(self._images)

    def next(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], shape (B, C, H, W), channels last in memory, and classes (B,)."""
        index = torch.from_numpy(self._indices(batch_size)).to(self._device)
        return to_float(self._images[index]).permute(0, 3, 1, 2), self._labels[index]

    def _indices(self, count: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        while count:
            epoch, start = divmod(self.position, len(self))
            part = self._permutation(epoch)[start : start + count]
            parts.append(part)
            count -= len(part)
            self.position += len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self))
            self._epoch = epoch
        return self._order
