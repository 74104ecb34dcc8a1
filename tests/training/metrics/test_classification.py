"""The classification accuracy score: what fakes teach about reals."""

import numpy as np
import pytest
import torch

from training.metrics import classification
from training.metrics.classification import classification_score
from training.metrics.splits import split, spread, trained_rows
from training.metrics.subjects import Seen

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(classification, "_TOTAL_NIMG", 640)
    monkeypatch.setattr(classification, "NETS", 2)


def seen(images, labels):
    return Seen(np.zeros((len(images), 1)), np.zeros(len(images), np.int64), labels, images)


def score(fakes, labels, dataset):
    rows = split(dataset).reference
    held_out = seen(dataset.images[rows], dataset.labels[rows])
    return classification_score(seen(fakes, labels), held_out, dataset, CPU)


def test_real_images_in_the_place_of_fakes_score_what_reals_score(bars):
    rows = spread(trained_rows(bars), 400)
    found = score(bars.images[rows], bars.labels[rows], bars)
    assert found.fakes.value == found.reals > 0.8


def test_fakes_of_the_wrong_class_teach_the_wrong_thing(bars):
    rows = spread(trained_rows(bars), 400)
    found = score(bars.images[rows], (bars.labels[rows] + 1) % 3, bars)
    assert found.fakes.value < 0.2 < 0.8 < found.reals


def test_each_net_learns_from_a_share_of_its_own_and_their_spread_is_the_error(bars):
    rows = spread(trained_rows(bars), 400)
    half_wrong = (bars.labels[rows] + np.arange(400) % 2) % 3
    found = score(bars.images[rows], half_wrong, bars)
    assert found.fakes.value == pytest.approx(0.5, abs=0.1)  # one net right, the other wrong
    assert found.fakes.se == pytest.approx(0.5, abs=0.1)


def test_fakes_that_show_nothing_teach_nothing(bars):
    # 240 reals in three classes: more than half right by guessing has odds below 1 in a million.
    noise = np.random.default_rng(0).integers(0, 256, (400, 12, 12, 1), np.uint8)
    assert score(noise, np.arange(400) % 3, bars).fakes.value < 0.5


def test_few_fakes_or_none_with_labels_are_not_scored(bars, make_bars):
    labels = np.arange(400) % 3
    fakes = np.zeros((400, 12, 12, 1), np.uint8)
    assert score(fakes[:149], labels[:149], bars) is None
    unlabelled = make_bars(300, labelled=False)
    held_out = seen(unlabelled.images, None)
    assert classification_score(seen(fakes, None), held_out, unlabelled, CPU) is None
