"""Owns the proof that a NaN never ruins a run: injected into G, D, the data or an optimizer.

    python benchmarks/faults.py --n 100

Each of n small trainings gets NaN at a random step in a random place; a third of them get it again
each time they come back. All must end `recovered` (the run finished with finite weights after a
rollback) or `failed` with a reason, and the last good state on the disk must load and be finite.
"""

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from training import run as training_run
from training.crew import Crew
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.health import DivergedError, check_weights
from training.model.checkpoint import parse
from training.plan import Plan
from training.presets import PRESETS
from training.progress import Reporter
from training.run import Run, train
from training.state import TrainingState
from training.steps import Step

PLACES = ("G", "D", "EMA", "data", "optimizer of G", "optimizer of D")
TOTAL_NIMG = 1600


class Saboteur(Step):
    """A Step that spoils the state before some of its calls."""

    where, when, every_time, struck = "", 0, False, 0

    def __call__(self) -> dict[str, torch.Tensor]:
        kind = type(self)
        if self._state.cur_nimg >= kind.when and (kind.every_time or not kind.struck):
            kind.struck += 1
            self._spoil(kind.where)
        return super().__call__()

    def _spoil(self, where: str) -> None:
        state = self._state
        if where == "data":
            real_next = self._reals.next

            def poisoned(size: int) -> tuple[torch.Tensor, torch.Tensor]:
                self._reals.next = real_next  # type: ignore[method-assign]
                images, c = real_next(size)
                images[0] = float("nan")
                return images, c

            self._reals.next = poisoned  # type: ignore[method-assign]
            return
        if where.startswith("optimizer"):
            optimizer = state.opt_G if where.endswith("G") else state.opt_D
            tensors = [slot["exp_avg"] for slot in optimizer.state.values()]
        else:
            net = {"G": state.G, "D": state.D, "EMA": state.G_ema}[where]
            tensors = [p.data for p in net.parameters()]
        if tensors:
            spoiled_one = random.choice(tensors)
            spoiled_one[(0,) * spoiled_one.ndim] = float("nan")


def main(n: Annotated[int, typer.Option(help="How many trainings.")] = 100, seed: int = 0) -> None:
    """Print how n spoiled trainings ended, and whether each kept its last good state."""
    torch.set_num_threads(1)
    random.seed(seed)
    training_run.write_report = lambda *_, **__: None  # pictures are not what is tried here
    training_run.SNAPSHOTS = 2
    ends: Counter[tuple[str, str]] = Counter()
    intact = 0
    with tempfile.TemporaryDirectory() as scratch:
        dataset_dir = make_dataset(Path(scratch))
        for i in range(n):
            place = PLACES[i % len(PLACES)]
            end, good = spoiled(
                dataset_dir, Path(scratch) / f"run-{i}", place, again=i // len(PLACES) % 3 == 2
            )
            ends[place, end] += 1
            intact += good
    for (place, end), count in sorted(ends.items()):
        print(f"NaN in {place:15s} {end:10s} {count}")
    good = sum(count for (_, end), count in ends.items() if end in ("recovered", "failed"))
    print(f"{good} of {n} recovered or failed with a reason, ", end="")
    print(f"{intact} of {n} with the last good state intact")
    raise SystemExit(intact != n or good != n)


def make_dataset(folder: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), np.uint8)
    np.savez(folder / "noise.npz", images=images, labels=np.arange(300) % 2)
    import_dataset(folder / "noise.npz", folder / "packed", ImportOptions("noise"))
    return folder / "packed"


def spoiled(dataset_dir: Path, run_dir: Path, place: str, again: bool) -> tuple[str, bool]:
    """How a training that is spoiled in `place` ends, and whether its saved state is sound."""
    from training.data.dataset import load_dataset

    dataset, config = load_dataset(dataset_dir), PRESETS["tiny"]
    network = config.network(28, 1, 2)
    plan = Plan(config, network, False, 0, TOTAL_NIMG, None, {})
    Saboteur.where, Saboteur.every_time, Saboteur.struck = place, again, 0
    Saboteur.when = random.randrange(config.batch_size, TOTAL_NIMG - config.batch_size)
    run_dir.mkdir()
    run = Run(plan, dataset, run_dir, Crew(), Reporter(run_dir, speaking=False))
    try:
        finished = train(run, lambda: False, lambda _: None, None, save_sec=0.05)
        end = "recovered" if finished and Saboteur.struck else "untouched"
    except DivergedError as error:
        end = "failed" if "training broke" in str(error) else "without a reason"
    return end, is_sound(plan, run_dir)


def is_sound(plan: Plan, run_dir: Path) -> bool:
    """Whether what a resume would load is whole and finite, and so are finished weights."""
    state = TrainingState(plan.config, plan.network, 0, torch.device("cpu"))
    loaded = state.load(run_dir)
    check_weights(state.G_ema.state_dict(), state.cur_nimg)
    for path in (run_dir / "averages").glob("*.safetensors"):
        from training.model.files import sha256_bytes

        data = path.read_bytes()
        parse(data, sha256_bytes(data), str(path))
    return loaded


if __name__ == "__main__":
    import training.loop

    training.loop.Step = Saboteur  # type: ignore[misc]
    typer.run(main)
