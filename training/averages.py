"""Owns the choice among a run's generators, after the run, by their measured distance."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.metrics.evaluation import distance
from training.metrics.features import Evaluator
from training.model.checkpoint import trained_generator
from training.model.files import write_atomic
from training.model.sampling import Sampler
from training.pins import read_pointer
from training.run import Run
from training.snapshots import snapshot_paths

CHOICE_SEED = 10**6  # seeds that no reported number uses: a choice must not flatter its own report
MAX_SNAPSHOTS = 10


@dataclass(frozen=True)
class _Candidate:
    """An average of G over `ema_fraction` of the run, as it was after `cur_nimg` images."""

    path: Path
    cur_nimg: int
    ema_fraction: float


def choose_average(run: Run, evaluator: Evaluator) -> None:
    """Leave the average with the lowest `fd_cnn` as generator.safetensors, and averages.json.

    Several half-lives are kept because which one is best shows only afterwards (Karras et al. 2023,
    arXiv 2312.02696, section 3). A run that kept its snapshots chooses among ten of these as well,
    evenly spread: some runs are best long before their end.
    """
    candidates = _candidates(run)
    found = [_distance(c.path, run, evaluator) for c in candidates] if len(candidates) > 1 else []
    best = found.index(min(found)) if found else 0
    report = [
        {**asdict(c), "path": c.path.name, "fd_cnn": fd, "chosen": c is candidates[best]}
        for c, fd in zip(candidates, found, strict=False)
    ]
    if report:
        run.report.say(f"best is {_told(report[best])}; {'; '.join(map(_told, report))}")
    write_atomic(run.run_dir / "averages.json", json.dumps(report).encode())
    write_atomic(run.run_dir / "generator.safetensors", candidates[best].path.read_bytes())


def chosen_average(run_dir: Path) -> dict[str, Any] | None:
    """What averages.json says of the one that was chosen; None if there was no choice."""
    path = run_dir / "averages.json"
    compared = json.loads(path.read_bytes()) if path.is_file() else []
    return next((row for row in compared if row["chosen"]), None)


def _candidates(run: Run) -> list[_Candidate]:
    """The averages at the end, then snapshots but for the last, which is the first average."""
    fractions = run.plan.config.ema_fractions
    state = read_pointer(run.run_dir)
    assert state is not None, "a run that has ended has saved its state"
    end = state["cur_nimg"]
    averages = [
        _Candidate(run.run_dir / "averages" / f"{i}.safetensors", end, fraction)
        for i, fraction in enumerate(fractions)
    ]
    paths = snapshot_paths(run.run_dir) if run.keep_snapshots else []
    kept = [path for path in paths if int(path.stem) < end]
    places = np.linspace(0, len(kept) - 1, min(len(kept), MAX_SNAPSHOTS)).round().astype(int)
    return averages + [_Candidate(kept[i], int(kept[i].stem), fractions[0]) for i in places]


def _told(row: dict[str, Any]) -> str:
    kimg = f"{row['cur_nimg'] / 1000:,.0f} kimg"
    return f"{row['ema_fraction']:g} of the run at {kimg}, fd_cnn {row['fd_cnn']:.3f}"


def _distance(path: Path, run: Run, evaluator: Evaluator) -> float:
    generator = trained_generator(path.read_bytes(), run.plan.network, str(path))
    sampler = Sampler(generator, run.plan.network, run.device)
    return distance(sampler, run.dataset, evaluator, first_seed=CHOICE_SEED)["fd_cnn"]
