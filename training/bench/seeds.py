"""Owns the spread of a result over seeds: the same run, again and again, with other draws."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.parent import fail


def seeds(
    data: Annotated[Path, typer.Option(help="What `train` takes; packed saves time.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; give it again to go on.")],
    count: Annotated[int, typer.Option("--seeds", min=2, help="How many.")] = 3,
    preset: Annotated[str | None, typer.Option(help="A preset of `train`.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Of each run.")] = None,
    kimg: Annotated[float | None, typer.Option(help="Of each run.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: half the cores.")] = 0,
) -> None:
    """Train the same with other seeds and print how far the results lie apart."""
    out.mkdir(parents=True, exist_ok=True)
    shared = ["--data", str(data), *train_options(preset, minutes, kimg, settings, threads)]
    found: list[dict[str, Any]] = []
    for seed in track(range(count), "training", console=Console(stderr=True)):
        run_dir = out / f"seed-{seed}"
        command = [*shared, "--seed", str(seed), "--run-dir", str(run_dir)]
        done = subprocess.run(
            [sys.executable, "-m", "training.train", *command], stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            fail(f"seed {seed}: {done.stderr.strip().splitlines()[-1]}", done.returncode)
        found.append(json.loads((run_dir / "metrics.json").read_text("utf-8")))
    _show(found)


def train_options(
    preset: str | None,
    minutes: float | None,
    kimg: float | None,
    settings: Sequence[str] | None,
    threads: int,
) -> list[str]:
    """The arguments of `train` that benchmarks pass on."""
    options = ["--threads", str(threads)]
    for option, value in (("--preset", preset), ("--minutes", minutes), ("--kimg", kimg)):
        options += [] if value is None else [option, str(value)]
    for setting in settings or []:
        options += ["--set", setting]
    return options


def _show(found: list[dict[str, Any]]) -> None:
    numbers = [n for n in ("fd_cnn", "fd_cnn_floor", "class_accuracy") if n in found[0]]
    table = Table("", *numbers, title=f"{len(found)} seeds")
    for seed, metrics in enumerate(found):
        table.add_row(f"seed {seed}", *(f"{metrics[n]:.4f}" for n in numbers))
    for name, summary in (
        ("mean", statistics.mean),
        ("standard deviation", statistics.stdev),
        ("lowest", min),
        ("highest", max),
    ):
        table.add_row(name, *(f"{summary(m[n] for m in found):.4f}" for n in numbers))
    Console().print(table)
