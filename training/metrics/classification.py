"""Owns the classification accuracy score: what a classifier learns from fakes alone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.metrics.classifier import Classifier, fit, read
from training.metrics.errors import Estimate
from training.metrics.splits import real_blocks, spread, trained_rows
from training.metrics.subjects import Seen
from training.metrics.thumbnails import thumbnails

NETS = 4
_MOST = 10_000
_FEWEST_PER_CLASS = 25
_TOTAL_NIMG, _MOST_EPOCHS = 12_000, 20  # for each net
_WIDTH = 16  # half the evaluator's: as many right of 10,000 digits, in half the time


@dataclass(frozen=True)
class ClassificationScore:
    """The accuracy on held-out reals after learning from fakes, and from as many reals."""

    fakes: Estimate
    reals: float


def classification_score(
    fakes: Seen, held_out: Seen, dataset: Dataset, device: torch.device
) -> ClassificationScore | None:
    """Train on fakes, test on reals (Ravuri & Vinyals 2019, arXiv 1905.10887), at thumbnail size.

    Four nets, each on its own quarter, give the mean and its standard error. None without labels
    or with fewer than 25 images of each class for a net.
    """
    trained = trained_rows(dataset)
    n = min(_MOST, len(fakes), len(trained))
    if fakes.labels is None or dataset.labels is None:
        return None
    if n < NETS * _FEWEST_PER_CLASS * dataset.num_classes:
        return None
    rows, chosen = spread(trained, n), spread(np.arange(len(fakes)), n)
    reals = np.concatenate([thumbnails(block) for block in real_blocks(dataset, rows)])
    return ClassificationScore(
        fakes=_learn(fakes.small[chosen], fakes.labels[chosen], held_out, dataset, device),
        reals=_learn(reals, dataset.labels[rows], held_out, dataset, device).value,
    )


def _learn(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    held_out: Seen,
    dataset: Dataset,
    device: torch.device,
) -> Estimate:
    accuracies = []
    total_nimg = min(_TOTAL_NIMG, _MOST_EPOCHS * (len(images) // NETS))
    for i in range(NETS):
        net = Classifier(dataset.channels, dataset.num_classes, _WIDTH)
        fit(net, images, labels, np.arange(i, len(images), NETS), total_nimg, device, seed=i)
        predictions = read(net, held_out.small, device)[1]
        accuracies.append(float((predictions == held_out.labels).mean()))
    return Estimate(float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) / NETS**0.5)
