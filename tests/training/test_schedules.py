"""Schedules, averages and the order of the reals."""

import numpy as np
import pytest
import torch
from torch import nn

from training.ema import update_ema
from training.reals import Reals
from training.schedules import Cosine


def test_a_schedule_starts_at_base_passes_the_middle_and_stays_at_final():
    schedule = Cosine(1.0, 0.1)
    assert schedule.at(0, 100) == pytest.approx(1.0)
    assert schedule.at(50, 100) == pytest.approx(0.55)
    assert schedule.at(100, 100) == pytest.approx(0.1)
    assert schedule.at(10_000, 100) == pytest.approx(0.1)


def test_a_burn_in_of_nothing_is_over_at_once():
    assert Cosine(1.0, 0.1).at(0, 0) == pytest.approx(0.1)


def test_half_of_the_old_average_is_left_after_a_half_life():
    net, ema = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(net.weight, 0.0)
    nn.init.constant_(ema.weight, 1.0)
    for _ in range(10):
        update_ema(ema, net, batch_size=64, half_life_nimg=640)
    assert ema.weight.item() == pytest.approx(0.5)


def test_a_half_life_of_nothing_copies_the_weights():
    net, ema = nn.Linear(2, 2), nn.Linear(2, 2)
    update_ema(ema, net, batch_size=1, half_life_nimg=0)
    assert torch.equal(net.weight, ema.weight)


def numbered_reals(n: int) -> Reals:
    images = np.zeros((n, 2, 2, 1), np.uint8)
    return Reals(images, np.arange(n), seed=0, device=torch.device("cpu"))


def test_every_image_is_seen_once_an_epoch_in_another_order_each_time():
    reals = numbered_reals(10)
    first, second = (reals.next(10)[1].tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second  # equal by chance once in 10! = 3.6 million


def test_position_alone_says_which_images_come_next():
    there = numbered_reals(10)
    there.next(7)
    then = there.next(9)[1].tolist()
    resumed = numbered_reals(10)
    resumed.position = 7
    assert resumed.next(9)[1].tolist() == then


def test_images_arrive_in_range_with_their_labels():
    pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    images, c = Reals(pixels, np.array([0, 1]), 0, torch.device("cpu")).next(2)
    assert images[c == 0].item() == -1.0
    assert images[c == 1].item() == 1.0
