"""Owns the report on a generator: its numbers, each beside what real images score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from training.data.dataset import Dataset
from training.metrics.classification import classification_score
from training.metrics.errors import Estimate, delete_a_group, mean_of, share
from training.metrics.features import Evaluator
from training.metrics.frechet import frechet_distance
from training.metrics.kernel import kernel_distance
from training.metrics.manifold import K, prdc
from training.metrics.meanings import MEANINGS
from training.metrics.memorisation import Memorisation, memorisation
from training.metrics.subjects import Seen, Subjects, look
from training.model.sampling import Sampler

DEFAULT_SAMPLES = 10_000
Progress = Callable[[int, int], None]
Report = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """metrics: plain JSON values, a number that cannot be measured is absent.

    closest: a picture (H, W, C) uint8 of the fakes nearest to a training image, each beside it;
    None where memorisation is not measured.
    """

    metrics: Report
    closest: NDArray[np.uint8] | None


def measure(
    sampler: Sampler,
    dataset: Dataset,
    evaluator: Evaluator,
    num_samples: int = DEFAULT_SAMPLES,
    first_seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """The whole report on `sampler` against the held-out images of `dataset`.

    Fakes are of the seeds from `first_seed` on, about `num_samples` of them: whole groups of
    `group_size`, as many as there are other reals for a floor. Distances and scores are means over
    the groups. progress gets (fakes made, fakes in all). Raises ValueError if dataset and generator
    make different images, or there are too few to measure anything.
    """
    check_fit(sampler, dataset)
    subjects = look(sampler, dataset, evaluator, num_samples, first_seed, progress)
    copies = memorisation(subjects.fakes.small, subjects.reference.small, dataset, evaluator.device)
    metrics = {
        **_about(subjects, dataset, evaluator, first_seed),
        **_frechet(subjects),
        **_kernel(subjects),
        **_manifold(subjects, evaluator),
        **_classes(subjects, dataset.class_names),
        **_classification_score(subjects, dataset, evaluator),
        **_memorised(copies),
    }
    closest = copies and copies.picture(sampler, dataset, subjects.fakes.labels, first_seed)
    return Evaluation(metrics, closest)


def evaluate(
    sampler: Sampler,
    dataset: Dataset,
    evaluator: Evaluator,
    num_samples: int = DEFAULT_SAMPLES,
    first_seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """The metrics of `measure`."""
    return measure(sampler, dataset, evaluator, num_samples, first_seed, progress).metrics


def distance(
    sampler: Sampler,
    dataset: Dataset,
    evaluator: Evaluator,
    num_samples: int = DEFAULT_SAMPLES,
    first_seed: int = 0,
) -> Report:
    """What of the report is quick: `fd_cnn` and how many fakes are read as the class asked for."""
    check_fit(sampler, dataset)
    subjects = look(sampler, dataset, evaluator, num_samples, first_seed)
    about = _about(subjects, dataset, evaluator, first_seed)
    return {**about, **_frechet(subjects), **_class_accuracy(subjects)}


def check_fit(sampler: Sampler, dataset: Dataset) -> None:
    """Raises ValueError if the generator does not make images like those of the dataset."""
    made = (sampler.config.img_resolution, sampler.config.img_channels, sampler.config.num_classes)
    wanted = (dataset.resolution, dataset.channels, dataset.num_classes)
    if made != wanted:
        raise ValueError(
            f"the generator makes (resolution, channels, classes) {made}, the dataset "
            f"{dataset.name!r} holds {wanted}; evaluate it on the images it was trained for"
        )


def _about(subjects: Subjects, dataset: Dataset, evaluator: Evaluator, first_seed: int) -> Report:
    return {
        "num_samples": len(subjects.fakes),
        "num_reals": len(subjects.reference),
        "group_size": len(subjects.others),
        "first_seed": first_seed,
        "evaluator": evaluator.digest[:12],
        "evaluator_kind": evaluator.kind,
        "dataset_hash": dataset.hash,
    }


def _frechet(subjects: Subjects) -> Report:
    reference = subjects.reference.features

    def to_reference(features: NDArray[np.float64]) -> float:
        return frechet_distance(features, reference)

    groups = [Estimate(to_reference(g), delete_a_group(to_reference, g)) for g in subjects.groups]
    return _entry("fd_cnn", mean_of(groups), "floor", to_reference(subjects.others.features))


def _kernel(subjects: Subjects) -> Report:
    reference = subjects.reference.features
    found = mean_of([kernel_distance(group, reference) for group in subjects.groups])
    floor = kernel_distance(subjects.others.features, reference)
    return _entry("kid", found, "floor", floor.value)


def _manifold(subjects: Subjects, evaluator: Evaluator) -> Report:
    reference, others = subjects.reference.features, subjects.others.features
    if min(len(reference), len(others)) <= K:
        return {}
    groups = [prdc(group, reference, device=evaluator.device) for group in subjects.groups]
    reals = prdc(others, reference, device=evaluator.device)
    report: Report = {}
    for name, real in reals.items():
        report |= _entry(name, mean_of([g[name] for g in groups]), "reals", real.value)
    return report


def _class_accuracy(subjects: Subjects) -> Report:
    if subjects.fakes.labels is None:
        return {}
    reals = float(_read_right(subjects.reference).mean())
    return _entry("class_accuracy", share(_read_right(subjects.fakes)), "reals", reals)


def _classes(subjects: Subjects, names: tuple[str, ...]) -> Report:
    """Of all fakes, and of each class: read as asked; and how many are read as it."""
    if subjects.fakes.labels is None:
        return {}
    fakes, reference = subjects.fakes, subjects.reference
    return {
        **_class_accuracy(subjects),
        "class_accuracy_by_class": _accuracy_by_class(fakes, names),
        "class_accuracy_by_class_reals": _accuracy_by_class(reference, names),
        "class_share": _shares(fakes, names),
        "class_share_reals": _shares(reference, names),
    }


def _read_right(seen: Seen) -> NDArray[np.bool_]:
    return np.asarray(seen.predictions == seen.labels)


def _accuracy_by_class(seen: Seen, names: tuple[str, ...]) -> dict[str, float]:
    right = _read_right(seen)
    rows = [np.asarray(seen.labels == i) for i in range(len(names))]
    return {
        name: _rounded(right[of_class].mean())
        for name, of_class in zip(names, rows, strict=True)
        if of_class.any()
    }


def _shares(seen: Seen, names: tuple[str, ...]) -> dict[str, float]:
    counts = np.bincount(seen.predictions, minlength=len(names))
    return {name: _rounded(c / len(seen)) for name, c in zip(names, counts, strict=True)}


def _classification_score(subjects: Subjects, dataset: Dataset, evaluator: Evaluator) -> Report:
    scores = classification_score(subjects.fakes, subjects.reference, dataset, evaluator.device)
    return {} if scores is None else _entry("cas", scores.fakes, "reals", scores.reals)


def _memorised(copies: Memorisation | None) -> Report:
    return {} if copies is None else _entry("memorised", copies.fakes, "reals", copies.reals)


def _entry(name: str, found: Estimate, real_suffix: str, real: float) -> Report:
    return {
        name: _rounded(found.value),
        f"{name}_{real_suffix}": _rounded(real),
        f"{name}_se": _rounded(found.se),
    }


def _rounded(value: float) -> float:
    """To four digits: no number here is known better."""
    return float(f"{value:.4g}")


def table(metrics: Mapping[str, Any]) -> Table:
    """The report for people: each number with its standard error, beside that of real images."""
    shown = Table(caption=_caption(metrics))
    for column in ("metric", "fakes", "reals", "meaning"):
        shown.add_column(column, justify="right" if column in ("fakes", "reals") else "left")
    for name, meaning in MEANINGS.items():
        if name in metrics:
            real = metrics.get(f"{name}_floor", metrics.get(f"{name}_reals"))
            value = f"{metrics[name]:.4g} ± {metrics[f'{name}_se']:.2g}"
            shown.add_row(name, value, f"{real:.4g}", meaning)
    return shown


def _caption(metrics: Mapping[str, Any]) -> str:
    return (
        f"{metrics['num_samples']} fakes in groups of {metrics['group_size']}, seeds from "
        f"{metrics['first_seed']}, against {metrics['num_reals']} held-out images; evaluator "
        f"{metrics['evaluator']}, trained on {metrics['evaluator_kind']}. None of this is FID."
    )


def told(metrics: Mapping[str, Any]) -> str:
    """The report in one line, for people."""
    line = f"fd_cnn {metrics['fd_cnn']:.3f} (real against real {metrics['fd_cnn_floor']:.3f})"
    if "class_accuracy" in metrics:
        line += f", {metrics['class_accuracy']:.1%} read as the class asked for"
    return f"{line}, {metrics['num_samples']} samples"
