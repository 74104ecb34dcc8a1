"""Owns the time-to-quality curve: what each generator a run kept is worth, and after how long."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from training.data.dataset import Dataset
from training.metrics.evaluation import distance
from training.metrics.features import Evaluator
from training.model.files import write_atomic
from training.report import write_report
from training.snapshots import list_snapshots, read_snapshots

Row = dict[str, Any]


def measure_curve(
    run_dir: Path,
    dataset: Dataset,
    evaluator: Evaluator,
    num_samples: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> list[Row]:
    """A row a snapshot, as in metrics.jsonl, which is written anew; report.html gets the curves.

    Raises ValueError if the run kept no snapshots.
    """
    total = len(list_snapshots(run_dir))
    rows: list[Row] = []
    for i, snapshot in enumerate(read_snapshots(run_dir, device)):
        found = distance(snapshot.sampler, dataset, evaluator, num_samples)
        moment = {"cur_nimg": snapshot.cur_nimg, "elapsed_sec": snapshot.elapsed_sec}
        rows.append({**moment, **found})
        progress(i + 1, total)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomic(run_dir / "metrics.jsonl", lines.encode())
    write_report(run_dir, final=True)
    return rows


def curve_table(rows: list[Row]) -> Table:
    """The curve in numbers, for a terminal."""
    last = rows[-1]
    title = f"fd_cnn, N = {last['num_samples']:,}, real against real {last['fd_cnn_floor']:.4f}"
    table = Table("kimg", "seconds", "fd_cnn", "× floor", "read as asked", title=title)
    for row in rows:
        seconds = "" if row["elapsed_sec"] is None else f"{row['elapsed_sec']:.0f}"
        accuracy = f"{row['class_accuracy']:.2%}" if "class_accuracy" in row else ""
        times = f"{row['fd_cnn'] / row['fd_cnn_floor']:.1f}"
        table.add_row(
            f"{row['cur_nimg'] / 1000:.1f}", seconds, f"{row['fd_cnn']:.4f}", times, accuracy
        )
    return table
