"""Owns the evaluator: a CNN trained on the dataset itself, whose features judge; and its cache.

It learns the labels or, without any, to tell rotations. It downloads nothing, and never sees the
held-out images nor those that give the floors.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.metrics.classifier import ROTATIONS, Classifier, fit, read
from training.metrics.splits import split
from training.model.checkpoint import load_into, parse, serialize
from training.model.files import locked, sha256_bytes, write_atomic, write_json

RECIPE = 2  # counts changes of the network, of its training, and of the images it learns from
_TOTAL_NIMG = 120_000
_MOST_EPOCHS = 20


class Evaluator:
    """A trained Classifier with the digest of its weights.

    kind: what it learnt, and so what its predictions are.
    """

    def __init__(
        self,
        net: Classifier,
        digest: str,
        device: torch.device,
        kind: Literal["labels", "rotations"] = "labels",
    ) -> None:
        self._net = net.to(device).eval()
        self.device = device
        self.digest = digest
        self.kind = kind

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """uint8 (n, H, W, C) → features float64 (n, 64) and predicted outputs int64 (n,)."""
        return read(self._net, images, self.device)


def load_or_train_evaluator(
    dataset: Dataset,
    cache_dir: Path,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluator:
    """The dataset's evaluator, from `cache_dir` or trained now.

    Training is seeded; progress gets (images seen, images in all). Raises CheckpointError if the
    cached file was altered, ValueError if there is no image to learn from.
    """
    path = cache_dir / f"{dataset.hash[:16]}-cnn{RECIPE}.safetensors"
    about = path.with_suffix(".json")
    net = Classifier(dataset.channels, dataset.num_classes or ROTATIONS)
    with locked(path.with_suffix(".lock")):  # two runs on one dataset share what the first trains
        if not about.is_file():
            _train(net, dataset, device, progress)
            data = serialize(net.state_dict())
            write_atomic(path, data)
            write_json(about, {"sha256": sha256_bytes(data)})
        digest = json.loads(about.read_text("utf-8"))["sha256"]
        load_into(net, parse(path.read_bytes(), digest, str(path)), str(path))
    return Evaluator(net, digest, device, "rotations" if dataset.labels is None else "labels")


def _train(
    net: Classifier,
    dataset: Dataset,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> None:
    rows = split(dataset).learnt
    if len(rows) < 2:
        raise ValueError(
            f"dataset {dataset.name!r} leaves {len(rows)} images for an evaluator to learn from; "
            "expected 2 or more: bring more images"
        )
    total_nimg = min(_TOTAL_NIMG, _MOST_EPOCHS * len(rows))
    fit(net, dataset.images, dataset.labels, rows, total_nimg, device, progress=progress)
