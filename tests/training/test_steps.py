"""One step: the same however its batch is cut, and what it does when memory runs out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.batches import Batch
from training.config import TrainConfig
from training.crew import Crew
from training.presets import PRESETS
from training.reals import Reals
from training.state import TrainingState
from training.steps import Step

CPU = torch.device("cpu")
TINY = PRESETS["tiny"]
ADA = replace(TINY, augment="ada", augment_p=0.5, augment_schedule="constant")


def make(config: TrainConfig, told=print) -> tuple[TrainingState, Step]:
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    state = TrainingState(config, config.network(28, 1, 2), 0, CPU)
    labels = np.arange(64) % 4 // 3  # three of class 0 for each of class 1
    reals = Reals(images, labels, 0, CPU, config.mirror, config.class_balance)
    return state, Step(config, state, reals, 10_000, False, Crew(), told)


def weights(state: TrainingState) -> torch.Tensor:
    nets = (state.G, state.D, *state.emas)
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


def after_steps(config: TrainConfig, steps: int = 3) -> torch.Tensor:
    state, step = make(config)
    for _ in range(steps):
        step()
    return weights(state)


# Weights move by .01 to .03 here. Rounding differs between cuts, and a finite difference magnifies
# it by 1/ε² = 400.
ROUNDING = 3e-5

# Adam's first steps are rate·sign(gradient): a rounding error in a gradient near 0 becomes a
# difference of the size of the rate. SGD shows the gradients themselves.
PLAIN = {"optimizer_g": "sgd", "optimizer_d": "sgd", "lr_g": 0.01, "lr_d": 0.01}


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, penalty="exact"),
        replace(TINY, loss="wasserstein", gp_weight=10.0, gamma=0.0, gamma_final=0.0),
        ADA,
        replace(ADA, instance_noise=0.1, mirror=True, augment_same_draw=True),
        replace(TINY, objective="vae", kl_weight=0.1, lr_g=1e-5, lr_d=1e-5),
    ],
    ids=["finite differences", "exact", "gradient penalty", "augmented", "noisy", "vae"],
)
def test_a_batch_in_parts_takes_the_step_of_the_whole(config):
    rates = {"lr_g": 1e-5, "lr_d": 1e-5} if config.objective == "vae" else {}
    config = replace(config, **{**PLAIN, **rates})
    whole, parts = after_steps(config), after_steps(replace(config, accumulation=4))
    assert torch.allclose(whole, parts, atol=ROUNDING)
    assert not torch.equal(whole, weights(make(config)[0]))


@pytest.mark.parametrize(
    "change",
    [
        {"d_steps": 3},
        {"instance_noise": 0.2},
        {"mirror": True},
        {"class_balance": True},
        {"label_smoothing": 0.1, "loss": "non_saturating"},
        {"adversarial_weight": 0.5},
        {"r1_weight": 0.0},
        {"r2_weight": 0.0},
        {"gp_weight": 10.0},
        {"spectral_norm": True},
        {"init": "orthogonal"},
        {"augment": "diffaugment", "augment_p": 1.0, "augment_schedule": "constant"},
        {"augment": "ada_full", "augment_p": 1.0, "augment_schedule": "constant"},
        {"optimizer_g": "rmsprop"},
        {"optimizer_d": "adamw", "weight_decay_d": 0.1},
        {"beta1_g": 0.5},
        {"beta2_d": 0.5},
    ],
    ids=str,
)
def test_every_choice_changes_the_course_of_training(change):
    moved = after_steps(replace(TINY, **change))
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, after_steps(TINY))


@pytest.mark.parametrize(
    "loss", ["relativistic", "non_saturating", "minimax", "hinge", "least_squares", "wasserstein"]
)
def test_every_loss_trains_with_every_penalty(loss):
    for change in ({"penalty": "exact"}, {"penalty": "finite_difference"}, {"gp_weight": 1.0}):
        assert torch.isfinite(after_steps(replace(TINY, loss=loss, **change))).all()


def test_an_adaptive_augmentation_moves_towards_its_target():
    config = replace(TINY, augment="ada", augment_schedule="adaptive", augment_target=-1.0)
    state, step = make(config)
    for _ in range(8):
        stats = step()
    # 8 steps of 16 images, at 1 per 5 % of 10,000 images
    assert state.augment_p == pytest.approx(8 * 16 / 500) or stats["sign_real"] == -1


def test_several_averages_follow_g_at_their_own_pace():
    config = replace(TINY, ema_fractions=(0.0, 1.0), burn_in_fraction=0.0)
    state, step = make(config)
    first = weights(state)
    step()
    fast, slow = (next(iter(ema.parameters())) for ema in state.emas)
    now = next(iter(state.G.parameters()))
    assert torch.equal(fast, now)
    assert not torch.equal(slow, now)
    assert not torch.equal(weights(state), first)


def run_out_of_memory_above(limit: int, monkeypatch) -> None:
    """A device on which parts of more than `limit` images do not fit."""
    from training import steps

    real = steps.discriminator_loss

    def greedy(config, generator, discriminator, batch: Batch, now):
        if len(batch) > limit:
            raise torch.OutOfMemoryError("no room")
        return real(config, generator, discriminator, batch, now)

    monkeypatch.setattr(steps, "discriminator_loss", greedy)


def test_a_batch_that_does_not_fit_is_taken_in_parts_and_the_run_goes_on(monkeypatch):
    config = replace(TINY, **PLAIN)
    expected = after_steps(config)
    run_out_of_memory_above(5, monkeypatch)
    told = []
    state, step = make(config, told.append)
    for _ in range(3):
        step()
    assert state.parts == 4
    assert told == [
        "out of memory; going on in 2 parts a batch",
        "out of memory; going on in 4 parts a batch",
    ]
    assert torch.allclose(weights(state), expected, atol=ROUNDING)


def test_an_image_that_does_not_fit_ends_the_run_with_the_device_s_words(monkeypatch):
    run_out_of_memory_above(0, monkeypatch)
    _, step = make(TINY)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        step()


def test_other_runtime_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    from training import steps

    def broken(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(steps, "discriminator_loss", broken)
    _, step = make(TINY)
    with pytest.raises(RuntimeError, match="shapes differ"):
        step()


def test_a_raised_gamma_takes_the_steps_of_a_larger_one():
    state, step = make(TINY)
    state.gamma_factor = 2.0  # a power of two, so that the products are exact
    for _ in range(3):
        step()
    larger = replace(TINY, gamma=2 * TINY.gamma, gamma_final=2 * TINY.gamma_final)
    assert torch.equal(weights(state), after_steps(larger))
    assert not torch.equal(weights(state), after_steps(TINY))
