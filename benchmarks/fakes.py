"""Owns the step from a version directory to an .npz of samples that `judge.py score` reads."""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.judge import read_reals
from training.model.checkpoint import load_generator
from training.model.sampling import Sampler


def main(
    version_dir: Path,
    out: Annotated[Path, typer.Option()],
    n: Annotated[int, typer.Option(help="How many; classes are asked for in turn.")] = 2000,
    like: Annotated[Path | None, typer.Option(help="Zip whose images' classes to ask for.")] = None,
) -> None:
    """Write `images` (n, H, W, C) uint8 of seeds 0…n-1 and the `labels` asked for."""
    generator, network = load_generator(version_dir)
    labels = np.arange(n) % max(network.num_classes, 1) if like is None else classes_of(like, n)
    images = Sampler(generator, network, torch.device("cpu")).from_seeds(range(n), labels)
    np.savez(out, images=images, labels=labels)
    print(f"{out}: {n} samples of {version_dir}")


def classes_of(archive: Path, n: int) -> NDArray[np.int64]:
    """Classes (n,) of the archive's images in an order drawn once, again from the first at its end.

    As many of each class as elsewhere would add to a Fréchet distance: .018 on MNIST, three floors.
    """
    labels = np.random.default_rng(0).permutation(read_reals(archive).labels)
    return np.resize(labels, n)


if __name__ == "__main__":
    typer.run(main)
