"""Data and settings that cannot work are refused before the first step; poor ones are told."""

from dataclasses import replace

import numpy as np
import pytest

from training.checks import check_fit
from training.config import ConfigError
from training.data.dataset import Dataset
from training.presets import PRESETS

TINY = PRESETS["tiny"]


def dataset(images: np.ndarray, labels=None, classes=(), heldout=None) -> Dataset:
    n = len(images)
    kept = np.arange(n) % 10 == 0 if heldout is None else heldout
    return Dataset("d", "0" * 64, 28, 1, classes, images, labels, kept, {})


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28, 1), np.uint8)


def test_plenty_of_balanced_images_pass_without_a_word():
    labels = np.arange(3000) % 2
    assert check_fit(TINY, dataset(noise(3000), labels, ("a", "b")), processes=1) == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (dataset(noise(12)), "batch_size is 16, dataset 'd' has 10 images to train on; use --set"),
        (dataset(np.full((50, 28, 28, 1), 7, np.uint8)), "all of one colour"),
        (dataset(np.repeat(noise(1), 50, axis=0)), "all the same image"),
        (
            dataset(noise(50), np.zeros(50, np.int64), ("cat", "dog")),
            "class 'dog' of dataset 'd' has no image to train on",
        ),
        (
            dataset(noise(50), np.arange(50) // 49, ("cat", "dog"), np.arange(50) == 49),
            "class 'dog' of dataset 'd' has no image to train on",
        ),
        (
            dataset(noise(50), heldout=np.arange(50) == 49),
            "leaves 1 held-out and 1 other ones to measure a generator with; 4 of each are needed",
        ),
    ],
    ids=["few", "one colour", "one image", "empty class", "class held out", "none to measure with"],
)
def test_data_that_cannot_train_is_refused(data, told):
    with pytest.raises(ConfigError) as error:
        check_fit(TINY, data, processes=1)
    assert told in str(error.value)


def test_balancing_classes_that_do_not_exist_is_refused():
    with pytest.raises(ConfigError, match="dataset 'd' has no classes; use class_balance=false"):
        check_fit(replace(TINY, class_balance=True), dataset(noise(300)), processes=1)


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="use a multiple of 6"):
        check_fit(replace(TINY, accumulation=2), dataset(noise(300)), processes=3)


def test_batch_normalisation_over_several_processes_is_refused():
    with pytest.raises(ConfigError, match="architecture=dcgan normalises over its batch"):
        check_fit(PRESETS["dcgan"], dataset(noise(300)), processes=2)


def test_classes_with_few_images_and_few_held_out_ones_are_warned_of():
    labels = np.minimum(np.arange(300), 1)
    few, held_out = check_fit(TINY, dataset(noise(300), 1 - labels, ("a", "b"),
                                            np.arange(300) % 10 == 5), processes=1)  # fmt: skip
    assert "'b' (1)" in few
    assert held_out.startswith("30 images are held out")
