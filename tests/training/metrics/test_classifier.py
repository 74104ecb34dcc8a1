"""The evaluator learns what it should, from the images it may see, and is kept with its recipe."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.metrics import features
from training.metrics.classifier import Classifier, fit, read
from training.metrics.features import load_or_train_evaluator
from training.metrics.splits import split
from training.model.checkpoint import CheckpointError

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Evaluators that need only be some."""
    monkeypatch.setattr(features, "_TOTAL_NIMG", 400)


def test_the_evaluator_reads_the_classes_of_images_it_never_saw(bars, evaluator_of):
    evaluator = evaluator_of(bars)
    found, predictions = evaluator(bars.images[bars.heldout])
    assert (predictions == bars.labels[bars.heldout]).mean() > 0.95
    assert (found.shape, found.dtype) == ((240, 64), np.float64)
    assert evaluator.kind == "labels"


def test_without_labels_it_learns_how_an_image_was_turned(make_bars):
    # Upright bars stand apart from turned ones, and half turns look alike: more than 40 % right
    # where guessing gives 25 % has odds below 1 in a million on 480 images.
    dataset = make_bars(1200, labelled=False)
    net = Classifier(1, 4)
    fit(net, dataset.images, None, split(dataset).learnt, 6000, CPU)
    upright = dataset.images[dataset.heldout]
    right = [read(net, np.rot90(upright, k, (1, 2)), CPU)[1] == k for k in range(4)]
    assert np.mean(right) > 0.4


def test_training_repeats_to_the_bit_and_leaves_the_random_numbers_of_others_alone(bars):
    net = Classifier(1, 3)

    def weights():
        fit(net, bars.images, bars.labels, np.arange(200), 640, CPU, seed=3)
        return torch.cat([p.flatten() for p in net.parameters()])

    state = torch.get_rng_state()
    first = weights()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(first, weights())


@pytest.mark.usefixtures("quick")
def test_neither_held_out_nor_floor_images_have_a_part_in_the_evaluator(bars, tmp_path):
    hidden = bars.images.copy()
    rows = split(bars)
    hidden[np.concatenate([rows.reference, rows.others])] = 0
    digests = [
        load_or_train_evaluator(replace(bars, images=images), tmp_path / name, CPU).digest
        for name, images in (("whole", bars.images), ("hidden", hidden))
    ]
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("quick")
def test_the_cache_answers_for_its_dataset_and_its_recipe_alone(bars, tmp_path, monkeypatch):
    trained = []
    real_fit = features.fit

    def counting(*args, **kwargs):
        trained.append(args)
        real_fit(*args, **kwargs)

    monkeypatch.setattr(features, "fit", counting)
    first = load_or_train_evaluator(bars, tmp_path, CPU)
    assert load_or_train_evaluator(bars, tmp_path, CPU).digest == first.digest
    assert len(trained) == 1
    load_or_train_evaluator(replace(bars, hash="another" * 5), tmp_path, CPU)
    assert len(trained) == 2
    monkeypatch.setattr(features, "RECIPE", features.RECIPE + 1)
    load_or_train_evaluator(bars, tmp_path, CPU)
    assert len(trained) == 3


@pytest.mark.usefixtures("quick")
def test_an_altered_evaluator_is_refused(bars, tmp_path):
    load_or_train_evaluator(bars, tmp_path, CPU)
    (path,) = tmp_path.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_or_train_evaluator(bars, tmp_path, CPU)


def test_a_dataset_without_an_image_to_learn_from_is_refused(make_bars, tmp_path):
    dataset = replace(make_bars(6), heldout=np.ones(6, bool))
    with pytest.raises(ValueError, match="leaves 0 images for an evaluator to learn from"):
        load_or_train_evaluator(dataset, tmp_path, CPU)
