"""Schedules, averages and the order of the reals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from training.ema import update_ema
from training.presets import PRESETS
from training.reals import Reals
from training.schedules import Cosine, moment_at


def test_a_schedule_starts_at_base_passes_the_middle_and_stays_at_final():
    schedule = Cosine(1.0, 0.1)
    assert schedule.at(0, 100) == pytest.approx(1.0)
    assert schedule.at(50, 100) == pytest.approx(0.55)
    assert schedule.at(100, 100) == pytest.approx(0.1)
    assert schedule.at(10_000, 100) == pytest.approx(0.1)


def test_a_burn_in_of_nothing_is_over_at_once():
    assert Cosine(1.0, 0.1).at(0, 0) == pytest.approx(0.1)


def test_every_moving_setting_starts_and_ends_where_it_should():
    config = replace(
        PRESETS["cpu28"],
        burn_in_fraction=0.5,
        lr_final_ratio=0.3,
        gamma_final=0.005,
        ema_fractions=(0.01, 0.1),
        instance_noise=0.2,
        augment="ada",
        augment_p=0.4,
    )
    start, end, beyond = (moment_at(config, n, 1000) for n in (0, 500, 900))
    assert (start.lr_g, end.lr_g) == pytest.approx((1e-3, 3e-4))
    assert (start.beta2_d, end.beta2_d) == pytest.approx((0.9, 0.99))
    assert (start.gamma, end.gamma) == pytest.approx((0.05, 0.005))
    assert (start.instance_noise, end.instance_noise) == pytest.approx((0.2, 0.0))
    assert (start.augment_p, end.augment_p) == pytest.approx((0.0, 0.4))
    assert (start.ema_half_lives, end.ema_half_lives) == ((0.0, 0.0), pytest.approx((10, 100)))
    assert beyond == end


def test_a_constant_augmentation_is_there_from_the_first_image():
    config = replace(PRESETS["cpu28"], augment="ada", augment_p=0.4, augment_schedule="constant")
    assert moment_at(config, 0, 1000).augment_p == 0.4


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


def test_running_statistics_are_averaged_with_the_weights():
    net, ema = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    net.running_mean.fill_(1.0)
    update_ema(ema, net, batch_size=64, half_life_nimg=64)
    assert ema.running_mean.item() == pytest.approx(0.5)


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


def test_mirrored_reals_are_flipped_half_of_the_time_and_the_same_way_after_a_resume():
    pixels = np.tile(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1), (400, 1, 1, 1))

    def flips(position: int, count: int) -> torch.Tensor:
        reals = Reals(pixels, None, 0, torch.device("cpu"), mirror=True)
        reals.position = position
        return reals.next(count)[0][:, 0, 0, 0] > 0

    drawn = flips(0, 400)
    assert 140 < drawn.sum() < 260  # beyond 6 standard deviations: odds of 1 in 500 million
    assert torch.equal(flips(100, 50), drawn[100:150])


def balanced_reals(labels: np.ndarray, position: int = 0, mirror: bool = False) -> Reals:
    """Reals whose one pixel is their place in `labels`."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    reals = Reals(images, labels, 0, torch.device("cpu"), mirror, class_balance=True)
    reals.position = position
    return reals


UNBALANCED = np.repeat([0, 1, 3], [90, 9, 1])  # nothing of class 2


def test_balanced_reals_show_every_class_once_a_round_whatever_its_size():
    _, c = balanced_reals(UNBALANCED).next(99)
    assert (c.reshape(33, 3).sort(dim=1).values == torch.tensor([0, 1, 3])).all()


def test_balanced_reals_show_all_of_a_class_before_any_of_it_again():
    images, c = balanced_reals(UNBALANCED).next(99)
    shown = [tuple(run.tolist()) for run in images[c == 1].flatten()[:27].split(9)]
    assert all(len(set(run)) == 9 for run in shown)
    assert len(set(shown)) == 3  # in another order each time: alike once in 9! = 362,880


def test_balanced_reals_follow_from_their_position_across_epochs():
    there = balanced_reals(UNBALANCED, mirror=True)
    there.next(170)
    images, c = there.next(80)
    again = balanced_reals(UNBALANCED, position=170, mirror=True).next(80)
    assert torch.equal(images, again[0])
    assert torch.equal(c, again[1])


def test_reals_that_are_not_balanced_keep_the_order_they_always_had():
    drawn = numbered_reals(10).next(10)[1].tolist()
    assert drawn == np.random.default_rng([0, 0]).permutation(10).tolist()
