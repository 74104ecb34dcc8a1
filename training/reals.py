"""Owns the order in which a run sees its real images."""

import numpy as np
import torch
from torch import Tensor

from training.model.pixels import to_float


class Reals:
    """The training images on the device, drawn in a fresh order every epoch.

    The order is a permutation, or, with `class_balance`, a `balanced_order`. Where the next batch
    starts is `position`, the images drawn so far: with the seed, that is all there is to save,
    since each epoch's order follows from (seed, epoch).
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        seed: int,
        device: torch.device,
        mirror: bool = False,
        class_balance: bool = False,
    ) -> None:
        self._images = torch.from_numpy(np.ascontiguousarray(images)).to(device)  # (N, H, W, C)
        c = torch.zeros(len(images), dtype=torch.int64) if labels is None else torch.tensor(labels)
        self._labels = c.to(device)
        self._seed = seed
        self._device = device
        self._mirror = mirror
        balanced = class_balance and labels is not None
        self._members = members_of_classes(np.asarray(labels)) if balanced else None
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
            if self._members is None:
                self._order = rng.permutation(len(self))
            else:
                self._order = balanced_order(self._members, len(self), rng)
            self._flips = rng.random(len(self)) < 0.5
            self._epoch = epoch


def members_of_classes(labels: np.ndarray) -> list[np.ndarray]:
    """Where the images of each class stand, for the classes that have any; labels: int (N,)."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def balanced_order(members: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` places of images, int64, each class as often as any other.

    It goes round by round: one image of every class, in a random order, so that every stretch is
    as balanced as it can be. Within a class no image comes again before all of it have come.
    """
    rounds = -(-count // len(members))
    columns = [_in_passes(places, rounds, rng) for places in members]
    order = rng.permuted(np.stack(columns, axis=1), axis=1)  # (rounds, classes)
    return order.reshape(-1)[:count]


def _in_passes(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `places`, in one permutation of them after another."""
    passes = [rng.permutation(places) for _ in range(-(-count // len(places)))]
    return np.concatenate(passes)[:count]
