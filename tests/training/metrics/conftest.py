"""Owns the small datasets and the perfect generators that reports are tried on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.metrics import features
from training.metrics.features import Evaluator, load_or_train_evaluator
from training.model.networks.config import NetworkConfig

NAMES = ("top", "middle", "bottom")
SIZE = 12


def blobs(labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """A bright bar whose height tells the class, of a random length and place, on noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (len(labels), SIZE, SIZE, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        start, length = rng.integers(0, 4), rng.integers(4, 9)
        image[4 * label : 4 * label + 3, start : start + length] = rng.integers(120, 250)
    return images


def make(n: int = 2400, labelled: bool = True, name: str = "bars") -> Dataset:
    """n images, sorted by class, every tenth held out."""
    labels = np.sort(np.arange(n) % len(NAMES))
    return Dataset(
        name=name,
        hash=f"{n:08d}{labelled:08d}" * 4,
        resolution=SIZE,
        channels=1,
        class_names=NAMES if labelled else (),
        images=blobs(labels, seed=0),
        labels=labels if labelled else None,
        heldout=np.arange(n) % 10 == 3,
        manifest={},
    )


@dataclass
class Painter:
    """In the place of a Sampler: paints `seed` by a function, and notes what it was asked for."""

    paint: Callable[[NDArray[np.int64], int], NDArray[np.uint8]] = blobs
    config: NetworkConfig = field(
        default_factory=lambda: NetworkConfig("dense", SIZE, 1, len(NAMES), 4, (4,))
    )
    asked: list[int] = field(default_factory=list)

    def from_seeds(self, seeds: Any, classes: Any = None) -> NDArray[np.uint8]:
        labels = np.asarray(seeds) % len(NAMES) if classes is None else classes
        self.asked += list(seeds)
        return np.concatenate(
            [self.paint(labels[i : i + 1], 10**6 + s) for i, s in enumerate(seeds)]
        )


@pytest.fixture(scope="session")
def bars() -> Dataset:
    """2400 labelled images, 240 held out."""
    return make()


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., Dataset]:
    """`make_bars(n, labelled=True)`."""
    return make


@pytest.fixture(scope="session")
def painter() -> Callable[..., Painter]:
    """`painter()` draws as the dataset was drawn, `painter(paint)` as it likes."""

    def make_painter(paint: Any = blobs, **config: Any) -> Painter:
        one = Painter(paint)
        return replace(one, config=replace(one.config, **config))

    return make_painter


@pytest.fixture(scope="session")
def evaluator_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Dataset], Evaluator]:
    """The evaluator of a dataset, trained once and briefly: bars are easy."""
    cache: Path = tmp_path_factory.mktemp("evaluators")

    def evaluator(dataset: Dataset) -> Evaluator:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(features, "_TOTAL_NIMG", 3000)
            return load_or_train_evaluator(dataset, cache, torch.device("cpu"))

    return evaluator


@pytest.fixture(scope="session")
def make_blobs() -> Callable[[NDArray[np.int64], int], NDArray[np.uint8]]:
    """`make_blobs(labels, seed)`: images of these classes."""
    return blobs
