"""Owns the time-to-quality curve by the independent judge: what each kept generator is worth.

    noisewell train --data mnist/train.zip --run-dir run --preset cpu28 --keep-snapshots …
    python -m benchmarks.quality run judge.safetensors mnist/train.zip mnist/heldout.zip --out curve

Each snapshot draws the same seeds with the same classes, in the shares that training images
have. The floor puts as many training images where the fakes stand.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.fakes import classes_of
from benchmarks.judge import draws, frechet, load_judge, read_images, read_reals
from training.plots import Level, Series, draw_plot
from training.snapshots import list_snapshots, read_snapshots


def main(
    run_dir: Path,
    judge_file: Path,
    train: Path,
    heldout: Path,
    out: Annotated[Path, typer.Option(help="Writes OUT.png and OUT.jsonl.")],
    n: Annotated[int, typer.Option(help="Images that a distance is of.")] = 10_000,
    title: str = "Distance to real images",
) -> None:
    """Print and draw how far the samples are from held-out images, as training goes on."""
    judge, _ = load_judge(judge_file)
    reals, labels = read_reals(train), classes_of(train, n)
    kept, _ = read_images(judge, read_reals(heldout).images)
    sets = [read_images(judge, reals.images[i])[0] for i in draws(len(reals.images), n)]
    floor = float(np.mean([frechet(features, kept) for features in sets]))
    rows: list[dict[str, float]] = []
    total = len(list_snapshots(run_dir))
    for snapshot in track(read_snapshots(run_dir, torch.device("cpu")), total=total):
        images = snapshot.sampler.from_seeds(range(n), labels)
        features, classes = read_images(judge, images)
        rows.append(
            {
                "cur_nimg": snapshot.cur_nimg,
                "elapsed_sec": snapshot.elapsed_sec or float("nan"),
                "fd": frechet(features, kept),
                "floor": floor,
                "accuracy": float((classes == labels).mean()),
            }
        )
    out.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    x = np.array([row["cur_nimg"] / 1000 for row in rows])
    distances = Series("generator", x, np.array([row["fd"] for row in rows]))
    draw_plot(title, [distances], level=Level("real images", floor), log_above=10).save(
        out.with_suffix(".png"), optimize=True
    )
    _show(rows, n)


def _show(rows: list[dict[str, float]], n: int) -> None:
    table = Table("kimg", "seconds", "Fréchet distance", "× floor", "read as asked")
    for row in rows:
        table.add_row(
            f"{row['cur_nimg'] / 1000:.0f}",
            f"{row['elapsed_sec']:.0f}",
            f"{row['fd']:.4f}",
            f"{row['fd'] / row['floor']:.1f}",
            f"{row['accuracy']:.2%}",
        )
    table.title = f"N = {n:,}, floor {rows[0]['floor']:.4f}"
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
