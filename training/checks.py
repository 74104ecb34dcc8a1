"""Owns what is refused or warned of before the first step: whether data, settings and crew fit."""

import numpy as np

from training.config import ConfigError, TrainConfig
from training.data.dataset import Dataset
from training.metrics.splits import split
from training.metrics.subjects import FEWEST

FEW_PER_CLASS = 100  # fewer, and a conditional G repeats them: Karras et al. 2020, arXiv 2006.06676
FEW_HELD_OUT = 200  # fewer, and the numbers of the evaluation are mostly noise


def check_fit(config: TrainConfig, dataset: Dataset, processes: int) -> list[str]:
    """Warnings, each a sentence; raises ConfigError naming the setting and what would work."""
    _check_batch(config, dataset, processes)
    _check_balance(config, dataset)
    _check_colours(dataset)
    warnings = [*_class_warnings(dataset), *_size_warnings(dataset)]
    _check_measurable(dataset)
    return warnings


def _check_batch(config: TrainConfig, dataset: Dataset, processes: int) -> None:
    there, batch = int((~dataset.heldout).sum()), config.batch_size
    if there < batch:
        raise ConfigError(
            f"batch_size is {batch}, dataset {dataset.name!r} has {there} images to train on; "
            f"use --set batch_size={max(2, there // 2)} or bring more images"
        )
    if batch % (processes * config.accumulation):
        raise ConfigError(
            f"batch_size is {batch}, which {processes} processes with accumulation "
            f"{config.accumulation} cannot share; use a multiple of "
            f"{processes * config.accumulation}"
        )
    if processes > 1 and config.architecture == "dcgan":
        raise ConfigError(
            "architecture=dcgan normalises over its batch, so that several processes would not "
            "train as one does; start one, or use architecture=strided"
        )


def _check_balance(config: TrainConfig, dataset: Dataset) -> None:
    if config.class_balance and dataset.labels is None:
        raise ConfigError(
            f"class_balance is true, but dataset {dataset.name!r} has no classes; "
            "use class_balance=false, or import the images in class folders or with labels"
        )


def _check_colours(dataset: Dataset) -> None:
    first = dataset.images[0]
    if all(np.array_equal(image, first) for image in dataset.images):
        what = "of one colour" if first.min() == first.max() else "the same image"
        raise ConfigError(
            f"dataset {dataset.name!r} has {dataset.num_images} images, all {what}: there is "
            "nothing to learn; bring images that differ"
        )


def _check_measurable(dataset: Dataset) -> None:
    rows = split(dataset)
    there = len(rows.reference), len(rows.others)
    if min(there) < FEWEST:
        raise ConfigError(
            f"dataset {dataset.name!r} has {dataset.num_images} images, which leaves {there[0]} "
            f"held-out and {there[1]} other ones to measure a generator with; {FEWEST} of each are "
            "needed, and a tenth is held out: bring more images"
        )


def _class_warnings(dataset: Dataset) -> list[str]:
    if dataset.labels is None:
        return []
    counts = np.bincount(dataset.labels[~dataset.heldout], minlength=dataset.num_classes)
    if empty := [name for name, n in zip(dataset.class_names, counts, strict=True) if n == 0]:
        raise ConfigError(
            f"class {empty[0]!r} of dataset {dataset.name!r} has no image to train on; bring some, "
            "or import the images without that class"
        )
    few = [
        f"{name!r} ({n})"
        for name, n in zip(dataset.class_names, counts, strict=True)
        if n < FEW_PER_CLASS
    ]
    if not few:
        return []
    shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return [
        f"few images to train on in {shown}: such classes come out poor and repetitive; "
        "augment=ada with augment_p=0.3 helps"
    ]


def _size_warnings(dataset: Dataset) -> list[str]:
    held_out = int(dataset.heldout.sum())
    if held_out >= FEW_HELD_OUT:
        return []
    return [f"{held_out} images are held out to measure with: expect noisy numbers"]
