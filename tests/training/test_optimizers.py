"""Optimizers: each is the rule of its name, and follows the schedule."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from training.config import PlayerConfig
from training.optimizers import make_optimizer, set_schedule

PLAYER = PlayerConfig("adam", 0.1, 0.5, 0.9, 0.99, 0.0, 1e-8)
GRADIENT, LR = 2.0, 0.1


def stepped(player: PlayerConfig, steps: int = 1) -> float:
    """A weight of 1 after steps along a constant gradient of 2 at rate .1."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    optimizer = make_optimizer(net, player)
    set_schedule(optimizer, LR, player.beta2)
    for _ in range(steps):
        net.weight.grad = torch.full_like(net.weight, GRADIENT)
        optimizer.step()
    return net.weight.item()


def test_adam_moves_by_its_rate_along_a_constant_gradient():
    assert stepped(PLAYER, 3) == pytest.approx(1 - 3 * LR, abs=1e-6)


def test_adamw_decays_the_weight_apart_from_the_gradient():
    player = replace(PLAYER, optimizer="adamw", weight_decay=0.5)
    assert stepped(player) == pytest.approx(1 - LR * 0.5 - LR, abs=1e-6)


def test_sgd_with_momentum_speeds_up():
    # velocities g, 1.5g: 0.1 · 2 · (1 + 1.5)
    assert stepped(replace(PLAYER, optimizer="sgd"), 2) == pytest.approx(1 - 0.5)


def test_rmsprop_divides_by_the_running_root_mean_square():
    # v = (1 - .9)·g²: the first step is rate·g/√(.1 g²) = rate·√10
    player = replace(PLAYER, optimizer="rmsprop", beta1=0.0)
    assert stepped(player) == pytest.approx(1 - LR * 10**0.5, abs=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_a_rate_of_nothing_moves_nothing(name):
    net = nn.Linear(1, 1)
    optimizer = make_optimizer(net, replace(PLAYER, optimizer=name))
    before = net.weight.clone()
    net.weight.grad, net.bias.grad = torch.ones(1, 1), torch.ones(1)
    optimizer.step()  # made with rate 0, until the schedule says otherwise
    assert torch.equal(net.weight, before)
