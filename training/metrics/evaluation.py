"""Owns the report on a generator: its numbers, each beside its real-against-real floor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.data.dataset import Dataset
from training.metrics.features import Evaluator
from training.metrics.frechet import frechet_distance
from training.model.sampling import Sampler

DEFAULT_SAMPLES = 10_000
_PARTS = 4  # disjoint parts of the fakes, whose spread gives the standard error


@dataclass(frozen=True)
class _Reference:
    features: np.ndarray
    labels: np.ndarray | None
    predictions: np.ndarray


def evaluate(
    sampler: Sampler,
    dataset: Dataset,
    evaluator: Evaluator,
    num_samples: int = DEFAULT_SAMPLES,
    first_seed: int = 0,
) -> dict[str, Any]:
    """Numbers for `sampler` on the held-out images of `dataset`, as plain JSON values.

    Fakes are N seeds from `first_seed` on, with the labels of the held-out images, N at most
    `num_samples`; the floor compares as many training images with the same held-out ones.
    `class_accuracy` is absent without labels. Raises ValueError if dataset and generator make
    different images.
    """
    _check_fit(sampler, dataset)
    reference = _reference(dataset, evaluator, num_samples)
    n = len(reference.features)
    fakes = sampler.from_seeds(range(first_seed, first_seed + n), reference.labels)
    features, predictions = evaluator(fakes)
    report: dict[str, Any] = {
        "num_samples": n,
        "evaluator": evaluator.digest[:12],
        "dataset_hash": dataset.hash,
        "fd_cnn": round(frechet_distance(features, reference.features), 4),
        "fd_cnn_floor": round(_floor(dataset, evaluator, reference.features), 4),
        "fd_cnn_se": round(_standard_error(features, reference.features), 4),
    }
    if reference.labels is not None:
        report["class_accuracy"] = _accuracy(predictions, reference.labels)
        report["class_accuracy_reals"] = _accuracy(reference.predictions, reference.labels)
        report["class_accuracy_by_class"] = {
            name: _accuracy(predictions[rows], reference.labels[rows])
            for i, name in enumerate(dataset.class_names)
            if (rows := reference.labels == i).any()
        }
    return report


def _check_fit(sampler: Sampler, dataset: Dataset) -> None:
    made = (sampler.config.img_resolution, sampler.config.img_channels, sampler.config.num_classes)
    wanted = (dataset.resolution, dataset.channels, dataset.num_classes)
    if made != wanted:
        raise ValueError(
            f"the generator makes (resolution, channels, classes) {made}, the dataset "
            f"{dataset.name!r} holds {wanted}; evaluate it on the images it was trained for"
        )


def _reference(dataset: Dataset, evaluator: Evaluator, num_samples: int) -> _Reference:
    images, labels = dataset.split(heldout=True)
    if len(images) < 2:  # a very small dataset: judged on what it was trained on, or not at all
        images, labels = dataset.split(heldout=False)
    if len(images) > num_samples:
        rows = np.sort(np.random.default_rng(0).permutation(len(images))[:num_samples])
        images, labels = images[rows], None if labels is None else labels[rows]
    features, predictions = evaluator(images)
    return _Reference(features, labels, predictions)


def _floor(dataset: Dataset, evaluator: Evaluator, reference: np.ndarray) -> float:
    """The distance a perfect generator would show: other reals, as many of them."""
    images, _ = dataset.split(heldout=False)
    count = min(len(reference), len(images))
    rows = np.sort(np.random.default_rng(1).permutation(len(images))[:count])
    return frechet_distance(evaluator(images[rows])[0], reference)


def _standard_error(fakes: np.ndarray, reference: np.ndarray) -> float:
    if len(fakes) < 2 * _PARTS:
        return 0.0
    parts = [frechet_distance(fakes[i::_PARTS], reference) for i in range(_PARTS)]
    return float(np.std(parts, ddof=1) / np.sqrt(_PARTS))


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return round(float((predictions == labels).mean()), 4)


def told(metrics: Mapping[str, Any]) -> str:
    """The report in one line, for people."""
    line = f"fd_cnn {metrics['fd_cnn']:.3f} (real against real {metrics['fd_cnn_floor']:.3f})"
    if "class_accuracy" in metrics:
        line += f", {metrics['class_accuracy']:.1%} read as the class asked for"
    return f"{line}, {metrics['num_samples']} samples"
