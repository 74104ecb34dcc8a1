"""Owns how a dataset looks to the collapse watch, and how far each statistic falls in a drop.

Every statistic of a window of fakes is a number that falls when modes are lost. How much it moves
by chance, and how far it falls where half of the modes are missing, is learnt from the reals:
windows of them against other reals, whole and with half of their classes or clusters left out.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.collapse import statistics
from training.collapse.features import Features, RandomFilters

WINDOW_IMAGES = 512
MIN_IMAGES = 200

_MAX_FIT, _MAX_TRIAL = 6000, 4000  # reals the reference is made of, and reals that try it
_DIMS = 64
_BINS = 100
_CLUSTERS = 10
_MIN_CLASS_IMAGES = 20  # on average, for statistics of classes
_TRIALS = 12


@dataclass(frozen=True)
class Trial:
    """What one statistic does on windows of reals.

    mean and noise (standard deviation) of whole windows; halved: the mean of windows of half of
    the modes, as a share of `mean`.
    """

    mean: float
    noise: float
    halved: float


class Reference:
    """The reals, as the statistics need them.

    images: uint8 (N, H, W, C), N ≥ MIN_IMAGES. labels: int64 (N,) in [0, num_classes), or None.
    Statistics of classes are left out where there are none, or a class has no image.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        num_classes: int,
        seed: int,
    ) -> None:
        self.filters = RandomFilters(images.shape[3], seed)
        rows = np.random.default_rng(seed).permutation(len(images))
        split = min(_MAX_FIT, len(rows) // 2)
        fit, trial = rows[:split], rows[split : split + _MAX_TRIAL]
        seen = self.filters.of_rows(images, fit)
        self._mean = seen.responses.mean(dim=0)
        self._axes = _principal_axes(seen.responses - self._mean)  # (F, _DIMS)
        x = self._project(seen)
        self._pixel_distance = statistics.mean_distance(seen.pixels[:WINDOW_IMAGES])
        self._distance = statistics.mean_distance(x[:WINDOW_IMAGES])
        self._reals = x[:WINDOW_IMAGES]
        self._radii = statistics.neighbour_radii(self._reals)
        self._bins = statistics.k_means(x, min(_BINS, split // 10), seed)
        self._shares = statistics.bin_shares(x, self._bins)

        self._num_classes, held = 0, None
        if labels is not None and _teach(y := torch.from_numpy(labels[fit]), num_classes):
            self._num_classes, held = num_classes, torch.from_numpy(labels[trial])
            self._weights = statistics.linear_scores(seen.responses, y, num_classes)
            self._class_distances = statistics.mean_class_distances(x, y, num_classes)
        tried = self.filters.of_rows(images, trial)
        self.trials = self._trials(tried, held, torch.Generator().manual_seed(seed))

    def measure(
        self, fakes: Features, labels: Tensor | None, earlier: Tensor | None
    ) -> tuple[dict[str, float], Tensor]:
        """The statistics of a window, each lower where modes are lost; and its shares of the bins.

        diversity_pixels, diversity_features: mean distance between two images, over that of reals.
        coverage: share of reals with a fake beside them. bins: share of the reals whose bin is
        filled. own_bins: the same of what the fakes, in shares `earlier`, had in common with reals.
        class_margin: how clearly the class asked for is seen. class_spread: mean distance between
        two images of a class, over that of reals. The last two where there are labels.
        """
        x = self._project(fakes)
        shares = statistics.bin_shares(x, self._bins)
        pixel_distance = statistics.mean_distance(fakes.pixels)
        measured = {
            "diversity_pixels": _ratio(pixel_distance, self._pixel_distance),
            "diversity_features": _ratio(statistics.mean_distance(x), self._distance),
            "coverage": statistics.coverage(self._reals, self._radii, x),
            "bins": statistics.kept_share(shares, self._shares),
        }
        if earlier is not None:
            own = torch.minimum(earlier, self._shares)
            measured["own_bins"] = statistics.kept_share(shares, own) / float(own.sum())
        if labels is not None and self._num_classes:
            measured |= self._measure_classes(fakes.responses, x, labels)
        return measured, shares

    def _measure_classes(self, responses: Tensor, x: Tensor, labels: Tensor) -> dict[str, float]:
        scores = responses @ self._weights[:-1] + self._weights[-1]
        spread = statistics.mean_class_distances(x, labels, self._num_classes)
        spread /= self._class_distances
        return {
            "class_margin": statistics.class_margin(scores, labels),
            "class_spread": float(spread[spread.isfinite()].mean()),
        }

    def _project(self, seen: Features) -> Tensor:
        return (seen.responses - self._mean) @ self._axes

    def _trials(
        self, reals: Features, labels: Tensor | None, draws: torch.Generator
    ) -> dict[str, Trial]:
        """Statistics of classes try to miss half of the classes, the others half of clusters."""
        x = self._project(reals)
        clusters = statistics.k_means(x, _CLUSTERS, seed=0)
        nearest = torch.cdist(x, clusters).argmin(dim=1)
        trials = self._try(reals, None, nearest, draws)
        return trials if labels is None else self._try(reals, labels, labels, draws) | trials

    def _try(
        self, reals: Features, labels: Tensor | None, modes: Tensor, draws: torch.Generator
    ) -> dict[str, Trial]:
        """Each statistic on windows of `reals`, whole and without half of the `modes`."""
        size = min(WINDOW_IMAGES, len(reals) // 2)
        whole: list[dict[str, float]] = []
        halved: list[dict[str, float]] = []
        for _ in range(_TRIALS):
            rows = torch.randperm(len(reals), generator=draws)[:size]
            asked = None if labels is None else labels[rows]
            whole.append(self.measure(reals[rows], asked, self._shares)[0])
            rows = _without_half(rows, modes, draws)
            halved.append(self.measure(reals[rows], asked, self._shares)[0])
        trials = {name: _trial(_column(whole, name), _column(halved, name)) for name in whole[0]}
        return {name: trial for name, trial in trials.items() if trial is not None}


def _without_half(rows: Tensor, modes: Tensor, draws: torch.Generator) -> Tensor:
    """`rows`, but those of half of the modes replaced by random rows of the other half."""
    order = torch.randperm(int(modes.max()) + 1, generator=draws)
    kept = torch.isin(modes, order[: (len(order) + 1) // 2])
    others = kept.nonzero().squeeze(1)
    drawn = others[torch.randint(len(others), (len(rows),), generator=draws)]
    return torch.where(kept[rows], rows, drawn)


def _ratio(fakes: float, reals: float) -> float:
    return fakes / reals if reals else math.nan


def _column(measured: list[dict[str, float]], name: str) -> Tensor:
    return torch.tensor([m[name] for m in measured])


def _trial(whole: Tensor, halved: Tensor) -> Trial | None:
    """None for a statistic that says nothing of these reals, as a distance where all are alike."""
    mean, noise = float(whole.mean()), float(whole.std())
    if not (mean > 2 * noise and math.isfinite(mean)):
        return None
    return Trial(mean, noise, float(halved.mean()) / mean)


def _teach(labels: Tensor, num_classes: int) -> bool:
    """Whether these labels are enough for statistics of classes."""
    enough = num_classes > 1 and len(labels) >= _MIN_CLASS_IMAGES * num_classes
    return enough and bool((labels.bincount(minlength=num_classes) > 0).all())


def _principal_axes(centred: Tensor) -> Tensor:
    """The directions of largest variance of centred rows, shape (F, _DIMS or fewer)."""
    return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -_DIMS:]
