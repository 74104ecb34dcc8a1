"""Owns the search for copies: is a fake nearer to a training image than new real images are?"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.metrics.errors import Estimate, share
from training.metrics.splits import real_blocks, trained_rows
from training.metrics.thumbnails import thumbnails
from training.model.grid import make_grid
from training.model.sampling import Sampler

Images = NDArray[np.uint8]
_NEAR = 0.01  # of the reals count as near
_FEWEST = 200  # held-out images: half of them tell where the nearest hundredth begins
_PAIRS = 16
_BLOCK = 2048


@dataclass(frozen=True)
class Memorisation:
    """Shares of fakes and of held-out reals that are as near to a training image as the nearest
    hundredth of other held-out reals; and the closest pairs: rows of fakes, rows of the dataset."""

    fakes: Estimate
    reals: float
    closest_fakes: NDArray[np.int64]
    closest_rows: NDArray[np.int64]

    def picture(
        self,
        sampler: Sampler,
        dataset: Dataset,
        labels: NDArray[np.int64] | None,
        first_seed: int,
    ) -> Images:
        """The pairs as one image (H, W, C), four in a row, the fake on the left of each."""
        seeds = [first_seed + int(i) for i in self.closest_fakes]
        fakes = sampler.from_seeds(seeds, None if labels is None else labels[self.closest_fakes])
        pairs = np.concatenate([fakes, dataset.images[self.closest_rows]], axis=2)
        gap = max(1, dataset.resolution // 8)
        return make_grid(np.pad(pairs, ((0, 0), (0, gap), (0, gap), (0, 0))), columns=4)


def memorisation(
    fakes: Images, held_out: Images, dataset: Dataset, device: torch.device
) -> Memorisation | None:
    """fakes and held_out: thumbnails (n, r, r, C). None with fewer than 200 held out."""
    if len(held_out) < _FEWEST:
        return None
    everyone = np.concatenate([fakes, held_out])
    distances, rows = nearest_training_image(everyone, dataset, device)
    of_fakes, of_reals = distances[: len(fakes)], distances[len(fakes) :]
    near = np.quantile(of_reals[::2], _NEAR)
    closest = np.argsort(of_fakes, kind="stable")[:_PAIRS]
    return Memorisation(
        fakes=share(of_fakes <= near),
        reals=share(of_reals[1::2] <= near).value,
        closest_fakes=closest,
        closest_rows=rows[closest],
    )


def nearest_training_image(
    images: Images, dataset: Dataset, device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance to the nearest image that is not held out, and its row, both (n,).

    images: thumbnails. The distance is the root mean square over pixels, in grey levels.
    """
    best = torch.full((len(images),), torch.inf, device=device)
    row = torch.zeros(len(images), dtype=torch.int64, device=device)
    trained = trained_rows(dataset)
    start = 0
    for block in real_blocks(dataset, trained):
        training = _flat(thumbnails(block), device)
        for i in range(0, len(images), _BLOCK):
            part = slice(i, i + _BLOCK)
            nearest, index = _squared(_flat(images[part], device), training).min(dim=1)
            better = nearest < best[part]
            best[part] = torch.where(better, nearest, best[part])
            row[part] = torch.where(better, index + start, row[part])
        start += len(block)
    per_pixel = best.cpu().double().clamp(min=0) / images[0].size
    return per_pixel.sqrt().numpy(), trained[row.cpu().numpy()]


def _flat(images: Images, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)).to(device).float()


def _squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2)
