"""Owns which real images do what when a generator is measured, and reading them in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset

Rows = NDArray[np.int64]
_BLOCK = 500  # full-size images in memory at a time


@dataclass(frozen=True)
class Split:
    """Rows of a dataset.

    reference: held out, what everything is compared with. others: as many training images of each
    class (half of the class at most) that the evaluator does not learn from: a floor puts these
    where the fakes stood. learnt: the rest. Class after class, so that every k-th row of
    reference or others is a smaller sample with the same share of each class.
    """

    reference: Rows
    others: Rows
    learnt: Rows


def split(dataset: Dataset) -> Split:
    """The same for the same dataset, always.

    With shares of classes drawn by chance, half of a floor would be the luck of that draw.
    """
    classes = dataset.labels if dataset.labels is not None else np.zeros(dataset.num_images, int)
    rng = np.random.default_rng(0)
    reference, others = [], []
    for c in range(max(dataset.num_classes, 1)):
        there = rng.permutation(np.flatnonzero(classes == c))
        held, trained = there[dataset.heldout[there]], there[~dataset.heldout[there]]
        reference.append(held)
        others.append(trained[: min(len(held), len(trained) // 2)])
    learnt = np.setdiff1d(np.flatnonzero(~dataset.heldout), np.concatenate(others))
    return Split(np.concatenate(reference), np.concatenate(others), learnt)


def spread(rows: Rows, n: int) -> Rows:
    """n of the rows, evenly spaced; all of them if there are no more."""
    n = min(n, len(rows))
    return rows[np.linspace(0, len(rows) - 1, n).round().astype(np.int64)] if n else rows[:0]


def trained_rows(dataset: Dataset) -> Rows:
    """All that are not held out, class after class."""
    rows = np.flatnonzero(~dataset.heldout)
    return rows if dataset.labels is None else rows[np.argsort(dataset.labels[rows], kind="stable")]


def real_blocks(dataset: Dataset, rows: Rows) -> Iterator[NDArray[np.uint8]]:
    """The images of `rows`, a block at a time, so that no large dataset is held in memory."""
    return (dataset.images[rows[i : i + _BLOCK]] for i in range(0, len(rows), _BLOCK))
