"""Owns the proof that a collapse is undone: forced on a real training, seen, and rolled back.

    python benchmarks/rollback.py PACKED_DATASET OUT_DIR --kimg 40

Three quarters into the run G's last convolution is set to zero before every step, so that all its
images are one, until the run goes back. What the watch saw in the last windows before the state it
went back to stands beside the first windows after, at halved rates and γ × 3. The average of G is
measured just before the collapse, as the run has gone back, and at the same image count again.
"""

import json
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import nn

from training import loop
from training.crew import Crew
from training.data.dataset import load_dataset
from training.history import read_history
from training.metrics.evaluation import distance
from training.metrics.features import load_or_train_evaluator
from training.objectives import Stats
from training.plan import Plan, wants_bf16
from training.presets import PRESETS
from training.progress import Reporter
from training.run import Run, served_sampler, train
from training.steps import Step

WATCHED = (
    "diversity_pixels", "diversity_features", "coverage", "bins", "own_bins", "class_margin",
    "class_spread",
)  # fmt: skip


def main(
    packed: Path,
    out: Path,
    preset: str = "cpu28",
    kimg: int = 40,
    save_sec: float = 30.0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print the distance before the collapse and after the rollback, and what the run said."""
    torch.set_num_threads(threads)
    cpu, dataset, config = torch.device("cpu"), load_dataset(packed), PRESETS[preset]
    network = config.network(dataset.resolution, dataset.channels, dataset.num_classes)
    judge = load_or_train_evaluator(dataset, out / "evaluators", cpu)
    plan = Plan(config, network, wants_bf16("auto", cpu), 0, kimg * 1000, None, {})
    found: dict[str, dict[str, float]] = {}

    class Collapsing(Step):
        def __call__(self) -> Stats:
            state = self._state
            there = state.cur_nimg >= plan.total_nimg * 3 // 4
            if there and not state.rollbacks:
                self._measure("before")
                last = [m for m in state.G.modules() if isinstance(m, nn.Conv2d)][-1]
                last.weight.data.zero_()
            elif state.rollbacks:
                self._measure("gone back")
                if there:
                    self._measure("there again")
            return super().__call__()

        def _measure(self, when: str) -> None:
            if when not in found:
                sampler = served_sampler(self._state.G_ema, network, cpu)
                found[when] = distance(sampler, dataset, judge)

    loop.Step = Collapsing  # type: ignore[misc]
    run = Run(plan, dataset, out / "run", Crew(), Reporter(out / "run"))
    run.run_dir.mkdir(parents=True)
    train(run, lambda: "there again" in found, lambda _: None, None, save_sec)
    for line in (run.run_dir / "events.jsonl").read_text().splitlines():
        print(json.loads(line)["text"])
    windows(run.run_dir)
    for when, now in found.items():
        change = now["fd_cnn"] / found["before"]["fd_cnn"] - 1
        print(f"{when}: fd_cnn {now['fd_cnn']:.4f} ({change:+.1%}), ", end="")
        print(f"{now['class_accuracy']:.2%} read as asked")


def windows(run_dir: Path) -> None:
    """Print each statistic of the watch: median of four windows before and of four after."""
    history = read_history(run_dir)
    back = history.events[-1]["cur_nimg"]
    rows = [row for row in history.stats if "coverage" in row]
    before = [row for row in rows if row["cur_nimg"] <= back][-4:]
    after = [row for row in rows if row["cur_nimg"] > back][:4]
    for name in [n for n in before[-1] if n in WATCHED]:
        old, new = (median(row[name] for row in part) for part in (before, after))
        print(f"{name}: {old:.3f} before, {new:.3f} after ({new / old - 1:+.1%})")


if __name__ == "__main__":
    typer.run(main)
