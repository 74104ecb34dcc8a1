"""Owns the proof of what a report costs: seconds of each part and the most memory it took.

    python benchmarks/evaluate_cost.py VERSION_DIR PACKED_DATASET --n 10000
    python benchmarks/evaluate_cost.py VERSION_DIR PACKED_DATASET --n 50000

The evaluator is trained, or read from --cache, before the clock starts. With --points the neighbour
metrics alone are measured too, on as many random features a side.
"""

import resource
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from training.data.dataset import load_dataset
from training.metrics import evaluation
from training.metrics.features import load_or_train_evaluator
from training.metrics.kernel import kernel_distance
from training.metrics.manifold import prdc
from training.model.checkpoint import load_generator
from training.model.sampling import Sampler
from training.model.threads import half_the_cores

PARTS = {
    "look": "generating, and what the evaluator sees",
    "_frechet": "Fréchet distance",
    "_kernel": "kernel distance",
    "_manifold": "precision, recall, density, coverage",
    "_classification_score": "classification accuracy score",
    "memorisation": "nearest training images",
}


def main(
    version_dir: Path,
    data: Path,
    n: Annotated[int, typer.Option(help="How many fakes.")] = 10_000,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: half the cores.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where evaluators are kept.")] = None,
    points: Annotated[int, typer.Option(help="Also n random features a side.")] = 0,
) -> None:
    """Print the report, what each part of it took, and the peak of resident memory."""
    torch.set_num_threads(threads or half_the_cores())
    device = torch.device("cpu")
    dataset = load_dataset(data)
    with TemporaryDirectory() as scratch:
        evaluator = load_or_train_evaluator(dataset, cache or Path(scratch), device)
    sampler = Sampler(*load_generator(version_dir), device)
    print(f"before: peak {_peak_mb():.0f} MB")
    for name, what in PARTS.items():
        setattr(evaluation, name, _timed(what, getattr(evaluation, name)))
    with _clock("the whole report"):
        report = evaluation.measure(sampler, dataset, evaluator, n)
    Console().print(evaluation.table(report.metrics))
    if points:
        _neighbours(points)


def _neighbours(n: int) -> None:
    fakes, reals = np.random.default_rng(0).normal(size=(2, n, 64))
    with _clock(f"precision … coverage of {n} against {n}"):
        print({name: round(e.value, 4) for name, e in prdc(fakes, reals).items()})
    with _clock(f"kernel distance of {n} and {n}"):
        print(kernel_distance(fakes, reals))


def _timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with _clock(what):
            return function(*args, **kwargs)

    return timed


@contextmanager
def _clock(what: str) -> Generator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    wall, busy = time.perf_counter() - began, time.process_time() - cpu
    print(f"{what:45s} {wall:6.1f} s ({busy:6.1f} CPU s), peak {_peak_mb():.0f} MB")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
