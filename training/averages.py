"""Owns the choice among a run's averages of G, after the run, by their measured distance."""

import json
from pathlib import Path
from typing import Any

from training.metrics.evaluation import distance
from training.metrics.features import Evaluator
from training.model.checkpoint import trained_generator
from training.model.files import write_atomic
from training.model.sampling import Sampler
from training.run import Run

CHOICE_SEED = 10**6  # seeds that no reported number uses: a choice must not flatter its own report


def choose_average(run: Run, evaluator: Evaluator) -> None:
    """Leave the average with the lowest `fd_cnn` as generator.safetensors, and averages.json.

    Several half-lives are kept because which one is best shows only afterwards (Karras et al. 2023,
    arXiv 2312.02696, section 3).
    """
    fractions = run.plan.config.ema_fractions
    files = [run.run_dir / "averages" / f"{i}.safetensors" for i in range(len(fractions))]
    report: list[dict[str, Any]] = []
    if len(files) > 1:
        distances = [_distance(path, run, evaluator) for path in files]
        report = [
            {"ema_fraction": fraction, "fd_cnn": distance}
            for fraction, distance in zip(fractions, distances, strict=True)
        ]
        best = distances.index(min(distances))
        run.report.say(
            f"average over {fractions[best]:g} of the run is best: "
            + ", ".join(f"{r['ema_fraction']:g} gives fd_cnn {r['fd_cnn']:.3f}" for r in report)
        )
    else:
        best = 0
    write_atomic(run.run_dir / "averages.json", json.dumps(report).encode())
    write_atomic(run.run_dir / "generator.safetensors", files[best].read_bytes())


def _distance(path: Path, run: Run, evaluator: Evaluator) -> float:
    generator = trained_generator(path.read_bytes(), run.plan.network, str(path))
    sampler = Sampler(generator, run.plan.network, run.device)
    return distance(sampler, run.dataset, evaluator, first_seed=CHOICE_SEED)["fd_cnn"]
