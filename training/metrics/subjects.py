"""Owns what a report looks at: the fakes and the reals they are held against, read in blocks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.metrics.features import Evaluator
from training.metrics.splits import Rows, real_blocks, split, spread
from training.metrics.thumbnails import thumbnails
from training.model.sampling import Sampler

FEWEST = 4
MOST_GROUPS = 10  # more fakes tell little where few reals are there to compare with
_BLOCK = 500  # full-size fakes in memory at a time


@dataclass(frozen=True)
class Seen:
    """Images as the evaluator sees them, in the order of `labels`.

    features (n, F), predictions (n,), labels (n,) or None, small: thumbnails uint8 (n, r, r, C).
    """

    features: NDArray[np.float64]
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    small: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Subjects:
    """reference: held-out images. others: as many other reals as there are fakes in a group.

    fakes: whole groups, one after another, each with the labels of `others`. So a fake group and
    `others` differ in nothing but being fake.
    """

    fakes: Seen
    reference: Seen
    others: Seen

    @property
    def groups(self) -> list[NDArray[np.float64]]:
        """The features of each group of fakes."""
        return np.split(self.fakes.features, len(self.fakes) // len(self.others))


def look(
    sampler: Sampler,
    dataset: Dataset,
    evaluator: Evaluator,
    num_samples: int,
    first_seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Subjects:
    """Generate about `num_samples` fakes, a whole number of groups up to ten, and read the reals.

    progress gets (fakes made, fakes in all). Raises ValueError if there are too few images.
    """
    rows = split(dataset)
    reference = spread(rows.reference, num_samples)
    groups = min(MOST_GROUPS, max(1, round(num_samples / max(1, len(rows.others)))))
    others = spread(rows.others, num_samples // groups)
    _check_enough(dataset, len(reference), len(others), num_samples)
    labels = None if dataset.labels is None else np.tile(dataset.labels[others], groups)
    seeds = range(first_seed, first_seed + groups * len(others))
    return Subjects(
        fakes=_seen(_generated(sampler, seeds, labels, progress), labels, evaluator, "fakes"),
        reference=_reals(dataset, reference, evaluator),
        others=_reals(dataset, others, evaluator),
    )


def _check_enough(dataset: Dataset, reference: int, others: int, num_samples: int) -> None:
    if num_samples < FEWEST:
        raise ValueError(f"num_samples is {num_samples}; expected {FEWEST} or more")
    if min(reference, others) < FEWEST:
        raise ValueError(
            f"dataset {dataset.name!r} has {reference} held-out and {others} other images to "
            f"measure with; {FEWEST} of each are needed, and a tenth is held out: bring more images"
        )


def _generated(
    sampler: Sampler,
    seeds: range,
    labels: NDArray[np.int64] | None,
    progress: Callable[[int, int], None] | None,
) -> Iterable[NDArray[np.uint8]]:
    for i in range(0, len(seeds), _BLOCK):
        block = slice(i, i + _BLOCK)
        yield sampler.from_seeds(seeds[block], None if labels is None else labels[block])
        if progress is not None:
            progress(min(i + _BLOCK, len(seeds)), len(seeds))


def _reals(dataset: Dataset, rows: Rows, evaluator: Evaluator) -> Seen:
    labels = None if dataset.labels is None else dataset.labels[rows]
    return _seen(real_blocks(dataset, rows), labels, evaluator, "real images")


def _seen(
    blocks: Iterable[NDArray[np.uint8]],
    labels: NDArray[np.int64] | None,
    evaluator: Evaluator,
    what: str,
) -> Seen:
    features, predictions, small = [], [], []
    for images in blocks:
        f, p = evaluator(images)
        features.append(f)
        predictions.append(p)
        small.append(thumbnails(images))
    joined = np.concatenate(features)
    if not np.isfinite(joined).all():
        raise ValueError(
            f"evaluator {evaluator.digest[:12]} gives NaN or infinity for {what}; delete it from "
            "its cache, so that it is trained again"
        )
    return Seen(joined, np.concatenate(predictions), labels, np.concatenate(small))
