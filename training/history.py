"""Owns reading a run folder back: what the run has told so far, torn and retold lines aside."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.animation import list_grids

Row = dict[str, Any]

REAL_SUFFIXES = ("_floor", "_reals")


@dataclass(frozen=True)
class History:
    """What lies in a run folder; empty where the run has not come so far.

    run, progress, metrics: the JSON files of these names. class_counts: images of each class.
    stats and evaluations: a row a tick of stats.jsonl, a measurement of metrics.jsonl, each with a
    higher cur_nimg than the one before. events: the rows of events.jsonl with a text, in the order
    they happened. grids: (cur_nimg, path), oldest first.
    """

    run: Row
    progress: Row
    metrics: Row
    class_counts: dict[str, int]
    stats: list[Row]
    evaluations: list[Row]
    events: list[Row]
    grids: list[tuple[int, Path]]

    @property
    def asked(self) -> Row:
        """What the command said: preset, config, length, seed, dataset_hash."""
        return self.run.get("asked", {})

    @property
    def config(self) -> Row:
        return self.asked.get("config", {})


def read_history(run_dir: Path) -> History:
    """Read `run_dir`, at any moment of its run's life."""
    run = _object(run_dir / "run.json")
    imported = _object(run_dir / "dataset" / "manifest.json")
    return History(
        run=run,
        progress=_object(run_dir / "progress.json"),
        metrics=_object(run_dir / "metrics.json"),
        class_counts=run.get("class_counts") or imported.get("counts", {}),
        stats=_latest(_rows(run_dir / "stats.jsonl")),
        evaluations=_latest(_rows(run_dir / "metrics.jsonl")),
        events=[row for row in _rows(run_dir / "events.jsonl") if "text" in row],
        grids=list_grids(run_dir),
    )


def number(value: Any) -> float | None:
    """`value` if it is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def real_score(metrics: Mapping[str, Any], name: str) -> float | None:
    """What real images score in the metric `name`, where that was measured beside it."""
    scores = (number(metrics.get(name + suffix)) for suffix in REAL_SUFFIXES)
    return next((score for score in scores if score is not None), None)


def _object(path: Path) -> Row:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _rows(path: Path) -> list[Row]:
    """The whole lines of a file that a killed process may have left in the middle of one."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    rows: list[Row] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and number(row.get("cur_nimg")) is not None:
            rows.append(row)
    return rows


def _latest(rows: list[Row]) -> list[Row]:
    """Without what was told before a resume or a rollback and has been trained anew since."""
    kept: list[Row] = []
    for row in reversed(rows):
        if not kept or row["cur_nimg"] < kept[-1]["cur_nimg"]:
            kept.append(row)
    return kept[::-1]
