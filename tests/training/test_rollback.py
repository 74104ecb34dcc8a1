"""A run that breaks: back to the last good state, three times at most; no bad state is saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training import loop, run
from training.crew import Crew
from training.data.dataset import Dataset
from training.health import DivergedError, check_statistics, check_weights, is_out_of_memory
from training.plan import Plan
from training.presets import PRESETS
from training.progress import Reporter
from training.run import Run, train
from training.state import TrainingState
from training.steps import Step

TINY = replace(PRESETS["tiny"], collapse_watch=False)


def broken_run(run_dir: Path, monkeypatch, times: int) -> bool:
    """Train 30 steps; a weight of G turns NaN before the tenth and later ones, so many times."""
    struck = []

    class Spoiled(Step):
        def __call__(self):
            if self._state.cur_nimg >= 160 and len(struck) < times:
                struck.append(self._state.cur_nimg)
                next(self._state.G.parameters()).data[0, 0] = float("nan")
            return super().__call__()

    monkeypatch.setattr(loop, "Step", Spoiled)
    monkeypatch.setattr(run, "SNAPSHOTS", 2)
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    none = np.zeros(64, np.bool_)
    dataset = Dataset("d", "0" * 64, 28, 1, ("a", "b"), images, np.arange(64) % 2, none, {})
    plan = Plan(TINY, TINY.network(28, 1, 2), False, 0, 480, None, {})
    run_dir.mkdir(exist_ok=True)
    work = Run(plan, dataset, run_dir, Crew(), Reporter(run_dir))
    return train(work, lambda: False, lambda _: None, None, save_sec=0.0)


def events(run_dir: Path) -> list[str]:
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    found = [json.loads(line)["event"] for line in lines]
    return [event for event in found if event != "samples"]


def saved(run_dir: Path) -> TrainingState:
    state = TrainingState(TINY, TINY.network(28, 1, 2), 0, torch.device("cpu"))
    assert state.load(run_dir)
    return state


def test_a_run_that_meets_nan_goes_back_halves_its_rates_and_ends_well(tmp_path, monkeypatch):
    assert broken_run(tmp_path, monkeypatch, times=2)
    assert events(tmp_path) == ["rolled_back", "rolled_back"]
    state = saved(tmp_path)
    assert (state.cur_nimg, state.rollbacks, state.rate) == (480, 2, 0.25)
    assert (tmp_path / "averages" / "0.safetensors").is_file()


def test_a_run_that_breaks_again_and_again_gives_up_and_keeps_its_last_good_state(
    tmp_path, monkeypatch
):
    with pytest.raises(DivergedError, match=r"training broke 4 times"):
        broken_run(tmp_path, monkeypatch, times=100)
    assert events(tmp_path) == [*["rolled_back"] * 3, "gave_up"]
    saved(tmp_path).check()
    assert not (tmp_path / "averages").exists()


def test_statistics_that_are_nan_infinite_or_run_away_are_named():
    check_statistics({"loss_D": 1e5, "r1": 0.0}, 64)
    for value in (float("nan"), float("inf"), -1e7):
        with pytest.raises(DivergedError, match=r"^r1 is .* at image 64$"):
            check_statistics({"loss_D": 1.0, "r1": value}, 64)


def test_a_tensor_that_is_not_finite_is_named_and_counts_are_let_be():
    check_weights({"G.w": torch.ones(2), "steps": torch.tensor(3)}, 64)
    with pytest.raises(DivergedError, match=r"G\.w holds NaN or infinity at image 64"):
        check_weights({"G.w": torch.tensor([1.0, float("inf")])}, 64)


def test_a_lack_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
