"""Owns the question whether our evaluator orders a run's snapshots as an independent judge does.

    noisewell train --data packed --run-dir run --preset cpu28 --minutes 5 --keep-snapshots
    python benchmarks/ordering.py run packed judge.safetensors heldout.zip

The judge is that of `judge.py`: another architecture, another seed, other code.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from judge import frechet, load_judge, read_images, read_reals
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.data.dataset import load_dataset
from training.metrics.evaluation import distance
from training.metrics.features import load_or_train_evaluator
from training.snapshots import read_snapshots


def spearman(a: list[float], b: list[float]) -> float:
    """Correlation of ranks; no two values may be equal."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks)[0, 1])


def main(
    run_dir: Path,
    packed: Path,
    judge_file: Path,
    heldout: Path,
    snapshots: Annotated[int, typer.Option(help="How many, spread evenly over the run.")] = 10,
    num_samples: int = 10_000,
    cache: Annotated[Path | None, typer.Option(help="Where our evaluator is kept.")] = None,
) -> None:
    """Print both opinions on each snapshot and how well their orders agree."""
    dataset, cpu = load_dataset(packed), torch.device("cpu")
    ours = load_or_train_evaluator(dataset, cache or run_dir / "evaluators", cpu)
    judge, _ = load_judge(judge_file)
    reals, _ = read_images(judge, read_reals(heldout).images)
    kept = list(read_snapshots(run_dir, cpu))
    chosen = [kept[i] for i in np.linspace(0, len(kept) - 1, snapshots).round().astype(int)]
    labels = np.arange(num_samples) % max(dataset.num_classes, 1)
    rows: list[tuple[float, float, float]] = []
    table = Table("kimg", "fd_cnn", "judge's distance", "judge reads as asked")
    for snapshot in track(chosen, "judging", console=Console(stderr=True)):
        fd = distance(snapshot.sampler, dataset, ours, num_samples)["fd_cnn"]
        images = snapshot.sampler.from_seeds(range(num_samples), labels)
        features, classes = read_images(judge, images)
        rows.append((fd, frechet(features, reals), float((classes == labels).mean())))
        table.add_row(f"{snapshot.cur_nimg / 1000:.1f}", *(f"{value:.4f}" for value in rows[-1]))
    Console().print(table)
    ours_fd, judge_fd, accuracy = (list(column) for column in zip(*rows, strict=True))
    print(f"Spearman with the judge's distance: {spearman(ours_fd, judge_fd):.3f}")
    print(f"Spearman with the judge's reading:  {spearman(ours_fd, [-a for a in accuracy]):.3f}")


if __name__ == "__main__":
    typer.run(main)
