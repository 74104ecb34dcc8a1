"""The training loop by itself: what a step changes, and when it stops."""

import numpy as np
import pytest
import torch

from training.batches import Drawer
from training.config import TrainConfig, override
from training.crew import Crew
from training.health import DivergedError
from training.loop import Hooks, training_loop
from training.objectives import discriminator_loss
from training.presets import PRESETS
from training.reals import Reals
from training.schedules import moment_at
from training.state import TrainingState

CPU = torch.device("cpu")


def tiny_run(config: TrainConfig, seed: int = 0) -> tuple[TrainingState, Reals]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28, 1), np.uint8)
    labels = np.arange(64) % 2
    return TrainingState(config, config.network(28, 1, 2), seed, CPU), Reals(
        images, labels, seed, CPU
    )


def loop(config: TrainConfig, state: TrainingState, reals: Reals, total: int, **hooks) -> bool:
    calls = {
        "tick": lambda stats: None,
        "snapshot": lambda: False,
        "save": lambda: None,
        "interrupted": lambda: False,
        **hooks,
    }
    hooks = Hooks(**calls)
    return training_loop(config, state, reals, total, 64, float("inf"), False, hooks, Crew())


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_a_step_moves_both_players_and_the_average():
    config = PRESETS["tiny"]
    state, reals = tiny_run(config)
    before = [weights(net).clone() for net in (state.G, state.D, state.G_ema)]
    assert loop(config, state, reals, 32)
    after = [weights(net) for net in (state.G, state.D, state.G_ema)]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert state.cur_nimg == 32
    assert state.reals_position == 64  # fresh reals for D and for G


def test_equal_seeds_take_equal_steps_and_others_do_not():
    config = PRESETS["tiny"]
    ends = []
    for seed in (0, 0, 1):
        state, reals = tiny_run(config, seed)
        loop(config, state, reals, 64)
        ends.append(weights(state.G_ema))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("player", ["G", "D"])
def test_a_nan_in_a_player_ends_the_run_and_nothing_is_saved(player):
    config = PRESETS["tiny"]
    state, reals = tiny_run(config)
    next(getattr(state, player).parameters()).data.view(-1)[0] = float("nan")
    saved = []
    with pytest.raises(DivergedError, match="is nan at image"):
        loop(config, state, reals, 10_000, save=lambda: saved.append(state.cur_nimg), tick_sec=0.0)
    assert saved == []


def test_an_interrupted_run_saves_and_says_it_is_not_done():
    config = PRESETS["tiny"]
    state, reals = tiny_run(config)
    saved = []
    done = loop(
        config,
        state,
        reals,
        10_000,
        save=lambda: saved.append(state.cur_nimg),
        interrupted=lambda: state.cur_nimg >= 48,
    )
    assert not done
    assert saved == [48]


def test_a_snapshot_that_reached_the_target_ends_the_run():
    config = PRESETS["tiny"]
    state, reals = tiny_run(config)
    assert loop(config, state, reals, 10_000, snapshot=lambda: state.cur_nimg >= 128)
    assert state.cur_nimg == 128


def test_statistics_that_run_away_end_the_run_before_they_are_infinite():
    config = override(PRESETS["tiny"], {"loss": "wasserstein", "lr_d": 1.0, "gamma": 0.01})
    state, reals = tiny_run(config)
    with pytest.raises(DivergedError, match="at image"):
        loop(config, state, reals, 100_000, tick_sec=0.0)


def test_exact_and_finite_difference_penalties_agree_on_a_network():
    # Their means over many draws agree; the same D, the same images, 400 draws of noise.
    exact = override(PRESETS["tiny"], {"penalty": "exact", "gamma": 1.0, "gamma_final": 1.0})
    finite = override(exact, {"penalty": "finite_difference", "penalty_epsilon": 0.01})
    state, reals = tiny_run(exact)
    now = moment_at(exact, 0, 1000)

    def r1(config: TrainConfig) -> float:
        reals.position = 0
        batch = Drawer(config, reals, state.rng, None).next(now, for_d=True)
        return discriminator_loss(config, state.G, state.D, batch, now)["r1"].item()

    estimates = torch.tensor([r1(finite) for _ in range(400)])
    error = estimates.std().item() / 400**0.5
    # Within 5 standard errors but for odds of 1 in 1.7 million, plus the bias of ε.
    assert abs(estimates.mean().item() - r1(exact)) < 5 * error + 0.02 * r1(exact)


def test_time_to_give_way_is_not_time_to_train_and_changes_no_step(monkeypatch):
    config = PRESETS["tiny"]
    now = [0.0]

    def wait() -> None:
        now[0] += 100

    monkeypatch.setattr("training.loop.time.monotonic", lambda: now[0])
    ends = []
    for give_way in (wait, lambda: None):
        state, reals = tiny_run(config)
        assert loop(config, state, reals, 64, give_way=give_way)
        assert state.elapsed_sec == 0
        ends.append(weights(state.G_ema))
    assert torch.equal(*ends)
