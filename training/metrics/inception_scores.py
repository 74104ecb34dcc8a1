"""Owns FID, KID and precision/recall on Inception features, each named by its number of fakes.

As published, the reals are the whole training set: every image of the dataset, the held-out tenth
included. No other reals are left for a floor at that N, so numbers that depend on N are also given
at half of it: there one half of the reals is the reference, the other half the floor. Means and
covariances are summed in float64 as features come; what the other numbers read is kept in fp32,
50,000 images a side at most.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.metrics.errors import jackknife
from training.metrics.evaluation import check_fit
from training.metrics.frechet import gaussian_distance
from training.metrics.inception import Inception
from training.metrics.kernel import kernel_distance
from training.metrics.manifold import prdc
from training.model.sampling import Sampler

MAX_FAKES = 50_000
_MAX_KEPT = 50_000
_BLOCK = 500
_GROUPS = 5  # of fakes, each left out once for the standard error of FID
_MAX_NEIGHBOURHOOD = 10_000  # images a side for precision and recall, which bounds their memory
_NEIGHBOURS = 3  # Kynkäänniemi et al. 2019, arXiv 1904.06991

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Moments:
    """Sums over features (n, F) that give their mean and covariance; in float64, additive."""

    count: int
    total: NDArray[np.float64]  # (F,)
    products: NDArray[np.float64]  # (F, F)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count - other.count, self.total - other.total, self.products - other.products
        )

    def distance(self, other: "Moments") -> float:
        """The Fréchet distance between the Gaussians of both."""
        return gaussian_distance(*self._gaussian(), *other._gaussian())

    def _gaussian(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean = self.total / self.count
        covariance = self.products - self.count * np.outer(mean, mean)
        return mean, covariance / (self.count - 1)


def moments(features: Features) -> Moments:
    """Of features (n, F), a block at a time."""
    width = features.shape[1]
    sums = Moments(0, np.zeros(width), np.zeros((width, width)))
    for start in range(0, len(features), _BLOCK):
        x = features[start : start + _BLOCK].astype(np.float64)
        sums += Moments(len(x), x.sum(axis=0), x.T @ x)
    return sums


@dataclass(frozen=True)
class _Side:
    """What is known of one set of images: all their moments, the features of the first 50,000."""

    moments: Moments
    features: Features


def evaluate_inception(
    sampler: Sampler,
    dataset: Dataset,
    inception: Inception,
    num_fakes: int = MAX_FAKES,
    first_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Numbers of `sampler` as papers name them: of 50,000 fakes, `fid50k_full` and `kid50k`.

    Beside them, of as many fakes as there are reals in a half (if those suffice for a covariance):
    `fid25k` and its floor, and of 10,000 of them `pr10k_inception_precision` and `…_recall` with
    what as many other reals reach. The published pr50k3 reads VGG-16 features: another number. KID
    has no bias by N, so its floor, one half against the other, holds at any. Fakes carry the labels
    of the dataset, each as often as another. `…_se`: the error of having drawn these fakes.

    progress gets (images seen, images in all). Raises ValueError for a generator that makes other
    images than the dataset holds, and for too few images or too many.
    """
    check_fit(sampler, dataset)
    num_reals = dataset.num_images
    _check_counts(num_fakes, num_reals, inception.width)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, num_reals + num_fakes)

    reals = _side(_real_images(dataset), num_reals, inception, tell)
    made = _fake_images(sampler, dataset, num_fakes, first_seed)
    fakes = _side(made, num_fakes, inception, lambda done: tell(num_reals + done))
    return {
        "num_samples": num_fakes,
        "num_reals": num_reals,
        "first_seed": first_seed,
        "inception": inception.digest[:12],
        "dataset_hash": dataset.hash,
        **_fid(fakes, reals),
        **_kid(fakes.features, reals.features),
        **_beside_floors(fakes.features, reals.features),
    }


def _check_counts(num_fakes: int, num_reals: int, width: int) -> None:
    if min(num_fakes, num_reals) <= width:
        raise ValueError(
            f"FID of {num_fakes:,} fakes against {num_reals:,} reals: a covariance of {width:,} "
            f"features needs at least {width + 1:,} images of each"
        )
    if num_fakes > MAX_FAKES:
        raise ValueError(
            f"FID of {num_fakes:,} fakes: at most {MAX_FAKES:,}, the number FID is published with"
        )


def _real_images(dataset: Dataset) -> Iterator[NDArray[np.uint8]]:
    """All of them, shuffled: datasets come sorted by class, and the first half must be a half."""
    order = np.random.default_rng(0).permutation(dataset.num_images)
    for start in range(0, len(order), _BLOCK):
        yield dataset.images[np.sort(order[start : start + _BLOCK])]


def _fake_images(
    sampler: Sampler, dataset: Dataset, num_fakes: int, first_seed: int
) -> Iterator[NDArray[np.uint8]]:
    labels = dataset.labels
    if labels is not None:
        labels = np.resize(np.random.default_rng(0).permutation(labels), num_fakes)
    for start in range(0, num_fakes, _BLOCK):
        part = slice(start, min(start + _BLOCK, num_fakes))
        seeds = range(first_seed + part.start, first_seed + part.stop)
        yield sampler.from_seeds(seeds, None if labels is None else labels[part])


def _side(
    blocks: Iterable[NDArray[np.uint8]],
    count: int,
    inception: Inception,
    tell: Callable[[int], None],
) -> _Side:
    kept = np.empty((min(count, _MAX_KEPT), inception.width), np.float32)
    sums = moments(kept[:0])
    for images in blocks:
        features = inception(images)
        room = kept[sums.count : sums.count + len(features)]
        room[:] = features[: len(room)]
        sums += moments(features)
        tell(sums.count)
    return _Side(sums, kept)


def _fid(fakes: _Side, reals: _Side) -> dict[str, float]:
    n = fakes.moments.count
    without_one = [
        (fakes.moments - moments(fakes.features[i::_GROUPS])).distance(reals.moments)
        for i in range(_GROUPS)
    ]
    return {
        f"fid{_k(n)}_full": round(fakes.moments.distance(reals.moments), 4),
        f"fid{_k(n)}_full_se": round(jackknife(np.array(without_one)), 4),
    }


def _kid(fakes: Features, reals: Features) -> dict[str, float]:
    name, kid = f"kid{_k(len(fakes))}", kernel_distance(fakes, reals)
    half = len(reals) // 2
    floor = kernel_distance(reals[:half], reals[half:]).value
    return {
        name: round(kid.value, 6),
        f"{name}_floor": round(floor, 6),
        f"{name}_se": round(kid.se, 6),
    }


def _beside_floors(fakes: Features, reals: Features) -> dict[str, float]:
    """What depends on N, at an N that leaves as many other reals; {} if that is too few for FID."""
    n, width = min(len(fakes), len(reals) // 2), reals.shape[1]
    if n <= width:
        return {}
    fakes, reference, others = fakes[:n], reals[:n], reals[n : 2 * n]
    gaussian = moments(reference)
    return {
        f"fid{_k(n)}": round(moments(fakes).distance(gaussian), 4),
        f"fid{_k(n)}_floor": round(moments(others).distance(gaussian), 4),
        **_precision_recall(fakes, reference, others),
    }


def _precision_recall(fakes: Features, reference: Features, others: Features) -> dict[str, float]:
    n = min(len(fakes), _MAX_NEIGHBOURHOOD)
    ours, theirs = (prdc(x[:n], reference[:n], k=_NEIGHBOURS) for x in (fakes, others))
    report: dict[str, float] = {}
    for part in ("precision", "recall"):
        name = f"pr{_k(n)}_inception_{part}"
        report[name] = round(ours[part].value, 4)
        report[f"{name}_reals"] = round(theirs[part].value, 4)
        report[f"{name}_se"] = round(ours[part].se, 4)
    return report


def _k(count: int) -> str:
    """50,000 → '50k', as papers write it; 2,500 → '2500'."""
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)
