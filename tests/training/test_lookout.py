"""The look at G while it trains: what it may cost, and what it does about a collapse."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training import run
from training.crew import Crew
from training.data.dataset import Dataset
from training.health import DivergedError
from training.history import read_history
from training.lookout import BUDGET, Lookout
from training.plan import Plan
from training.presets import PRESETS
from training.progress import Reporter
from training.run import Run, train
from training.state import TrainingState

TINY = PRESETS["tiny"]
NETWORK = TINY.network(28, 1, 2)


class ScriptedWatch:
    """A watch whose windows are one look long, and as bad as they are told to be."""

    def __init__(self, verdicts: list[str]) -> None:
        self.verdicts = verdicts
        self.seen: list[np.ndarray] = []
        self.restarts = 0
        self.off = None

    def add(self, fakes, labels, logit_gap):
        self.seen.append(fakes)
        bad = self.verdicts.pop(0) if self.verdicts else ""
        return SimpleNamespace(statistics={"diversity": 0.5}, bad=(bad,) if bad else ())

    def restart(self) -> None:
        self.restarts += 1


def lookout(run_dir: Path, verdicts: list[str], elapsed_sec: float = 1e9, clock=lambda: 0.0):
    state = TrainingState(TINY, NETWORK, 0, torch.device("cpu"))
    looking = Lookout(ScriptedWatch(verdicts), state, NETWORK, False, run_dir, clock)
    state.elapsed_sec = elapsed_sec
    return looking, state


class Ticking:
    """A clock that moves by half a second whenever it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def test_looking_never_takes_more_than_its_share_of_the_time(tmp_path):
    looking, state = lookout(tmp_path, [], elapsed_sec=0.0, clock=Ticking())
    for _ in range(200):  # seconds of training
        state.elapsed_sec += 1.0
        assert looking({}, False) == ""
    assert looking.windows == 200 * BUDGET / 0.5
    assert looking.share <= BUDGET


def test_one_bad_window_is_a_suspicion_and_two_in_a_row_are_a_collapse(tmp_path):
    looking, state = lookout(tmp_path, ["a", "", "b", "c"], elapsed_sec=0.0, clock=Ticking())
    told = []
    for _ in range(100):
        state.elapsed_sec += 1.0
        told.append(looking({"logit_gap": 1.0}, False))
    assert [t for t in told if t] == ["c"]


def test_a_suspicion_at_the_end_is_followed_until_it_is_settled(tmp_path):
    for verdicts, told in ((["a", ""], ""), (["a", "b"], "b")):
        looking, state = lookout(tmp_path, list(verdicts), elapsed_sec=20.0, clock=Ticking())
        assert looking({}, False) == ""
        state.elapsed_sec = 20.0  # no time of its own is left
        assert looking({}, True) == told


def test_it_shows_other_images_every_time_and_leaves_the_draws_of_training_alone(tmp_path):
    looking, state = lookout(tmp_path, ["a"])
    before = state.rng.get_state(), torch.get_rng_state()
    looking._look(None)
    looking._look(None)
    one, two = looking._watch.seen
    assert one.shape == (64, 28, 28, 1)
    assert not np.array_equal(one, two)
    assert state.G.training
    assert torch.equal(before[0], state.rng.get_state())
    assert torch.equal(before[1], torch.get_rng_state())


class LateWatch(ScriptedWatch):
    """Healthy until the first snapshot was written, then bad until the run goes back."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__([])
        self.run_dir = run_dir

    def add(self, fakes, labels, logit_gap):
        late = (self.run_dir / "samples.png").exists() and not self.restarts
        self.verdicts = ["gone"] if late else []
        return super().add(fakes, labels, logit_gap)


def watched_run(
    run_dir: Path, monkeypatch, watch: ScriptedWatch, save_sec: float = 30.0
) -> tuple[bool, ScriptedWatch]:
    """Train 30 steps under `watch`, which looks for half of the time."""
    monkeypatch.setattr(run, "CollapseWatch", lambda *_: watch)
    monkeypatch.setattr(run, "SNAPSHOTS", 2)
    monkeypatch.setattr("training.lookout.BUDGET", 0.5)
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    none = np.zeros(64, np.bool_)
    dataset = Dataset("d", "0" * 64, 28, 1, ("a", "b"), images, np.arange(64) % 2, none, {})
    plan = Plan(TINY, NETWORK, False, 0, 480, None, {})
    run_dir.mkdir(exist_ok=True)
    work = Run(plan, dataset, run_dir, Crew(), Reporter(run_dir))
    return train(work, lambda: False, lambda _: None, None, save_sec), watch


def events(run_dir: Path) -> list[dict]:
    """What a person should know of."""
    return read_history(run_dir).events


def test_a_collapse_is_told_rolled_back_and_met_with_more_penalty_and_lower_rates(
    tmp_path, monkeypatch
):
    finished, watch = watched_run(
        tmp_path, monkeypatch, ScriptedWatch(["", "class b is gone", "class b is gone"])
    )
    assert finished
    (event,) = events(tmp_path)
    assert event["event"] == "rolled_back"
    assert "modes collapsed: class b is gone" in event["text"]
    assert "with rates × 0.5 and γ × 3 (rollback 1 of 3)" in event["text"]
    assert watch.restarts == 1
    pointer = json.loads((tmp_path / "state.json").read_text())
    assert (pointer["cur_nimg"], pointer["gamma_factor"], pointer["rate"]) == (480, 3.0, 0.5)
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("diversity") == 0.5 for line in lines)


def test_what_was_saved_since_the_last_healthy_window_is_not_trusted(tmp_path, monkeypatch):
    finished, _ = watched_run(tmp_path, monkeypatch, LateWatch(tmp_path), save_sec=0.0)
    assert finished  # 480 images, looked at after 240 and at the end; a state saved every 16
    (event,) = events(tmp_path)
    assert "back to 0.2 kimg" in event["text"]


def test_a_run_that_collapses_again_and_again_leaves_its_last_good_generator(tmp_path, monkeypatch):
    with pytest.raises(DivergedError, match=r"training broke 4 times, .* modes collapsed: gone"):
        watched_run(tmp_path, monkeypatch, ScriptedWatch(["", *["gone"] * 100]))
    assert [e["event"] for e in events(tmp_path)] == [*["rolled_back"] * 3, "gave_up"]
    assert (tmp_path / "last_good.safetensors").is_file()
    assert not (tmp_path / "averages").exists()


def test_the_watch_is_a_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CollapseWatch", lambda *_: pytest.fail("nobody asked for it"))
    images = np.zeros((64, 28, 28, 1), np.uint8)
    dataset = Dataset(
        "d", "0" * 64, 28, 1, ("a", "b"), images, np.arange(64) % 2, np.zeros(64, np.bool_), {}
    )
    config = replace(TINY, collapse_watch=False)
    plan = Plan(config, NETWORK, False, 0, 16, None, {})
    work = Run(plan, dataset, tmp_path, Crew(), Reporter(tmp_path))
    assert train(work, lambda: False, lambda _: None, None, save_sec=30.0)
