"""The report: every number beside what reals score, and none that could not be measured."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from training.metrics import classification
from training.metrics.classifier import Classifier
from training.metrics.evaluation import distance, evaluate, measure, table, told
from training.metrics.features import Evaluator
from training.metrics.splits import split
from training.metrics.subjects import look

ABOUT = {"num_samples", "num_reals", "group_size", "first_seed", "evaluator", "evaluator_kind",
         "dataset_hash"}  # fmt: skip
DISTANCES = {"fd_cnn", "kid"}
MANIFOLD = {"precision", "recall", "density", "coverage"}
OF_CLASSES = {"class_accuracy_by_class", "class_accuracy_by_class_reals", "class_share",
              "class_share_reals"}  # fmt: skip


def with_real(distances=(), scores=()):
    """Names of a number, of what reals score, and of its standard error."""
    beside = [(d, "floor") for d in distances] + [(s, "reals") for s in scores]
    return {f"{name}{suffix}" for name, real in beside for suffix in ("", f"_{real}", "_se")}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "_TOTAL_NIMG", 400)
        yield


@pytest.fixture(scope="module")
def found(bars, evaluator_of, painter):
    """A perfect generator and the Evaluation of twice as many fakes as there are held out."""
    sampler = painter()
    return sampler, measure(sampler, bars, evaluator_of(bars), num_samples=480, first_seed=7)


def test_every_number_stands_beside_what_reals_score_and_its_error(found):
    report = found[1].metrics
    scores = {*MANIFOLD, "class_accuracy", "cas", "memorised"}
    assert report.keys() == ABOUT | OF_CLASSES | with_real(DISTANCES, scores)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_report_says_on_what_it_was_measured(found, bars, evaluator_of):
    report = found[1].metrics
    assert {name: report[name] for name in ABOUT} == {
        "num_samples": 480,
        "num_reals": 240,
        "group_size": 240,
        "first_seed": 7,
        "evaluator": evaluator_of(bars).digest[:12],
        "evaluator_kind": "labels",
        "dataset_hash": bars.hash,
    }


def test_the_images_behind_the_floors_score_the_floors_in_the_place_of_fakes(
    bars, evaluator_of, painter
):
    others = split(bars).others
    sampler = painter(lambda labels, seed: bars.images[others[(seed - 10**6) % 240, None]])
    report = evaluate(sampler, bars, evaluator_of(bars), num_samples=480)
    for name in DISTANCES:
        assert report[name] == report[f"{name}_floor"]
    for name in MANIFOLD:
        assert report[name] == report[f"{name}_reals"]
    assert report["memorised"] == 1
    assert report["class_accuracy"] > 0.95


def test_a_perfect_generator_is_read_and_taught_from_as_reals_are(found):
    # Some 1 % of 480 fakes by the luck of the draw: five times that has odds below 1 in 10,000.
    report = found[1].metrics
    for name in ("class_accuracy", "cas", "precision", "recall"):
        assert report[name] == pytest.approx(report[f"{name}_reals"], abs=0.05)
    assert report["memorised"] < 0.06


def test_a_fake_is_made_once_and_only_the_pictured_ones_again(found):
    sampler, evaluation = found
    assert sampler.asked[:480] == list(range(7, 487))
    assert len(sampler.asked) == 480 + 16
    assert evaluation.closest.dtype == np.uint8
    assert evaluation.closest.ndim == 3


def test_a_generator_that_lost_a_class_shows_it(bars, evaluator_of, painter, make_blobs):
    def without_top(labels, seed):
        return make_blobs(np.maximum(labels, 1), seed)

    report = evaluate(painter(without_top), bars, evaluator_of(bars), num_samples=480)
    assert (
        report["class_accuracy_by_class"]["top"]
        < 0.1
        < 0.9
        < report["class_accuracy_by_class"]["middle"]
    )
    assert report["class_share"]["top"] < 0.1 < 0.3 < report["class_share_reals"]["top"]
    assert report["class_accuracy_by_class_reals"]["top"] > 0.9
    assert report["fd_cnn"] > 10 * report["fd_cnn_floor"]
    assert report["coverage"] < 0.75
    assert report["cas"] < report["cas_reals"] - 0.2


def test_a_generator_that_repeats_one_image_is_precise_and_covers_nothing(
    bars, evaluator_of, painter
):
    copy = bars.images[~bars.heldout][:1]
    report = evaluate(painter(lambda labels, seed: copy), bars, evaluator_of(bars), 240)
    assert report["memorised"] == 1
    assert report["recall"] < 0.05
    assert report["coverage"] < 0.1


def test_the_quick_report_has_the_numbers_of_the_whole_one(found, bars, evaluator_of, painter):
    quick = distance(painter(), bars, evaluator_of(bars), num_samples=480, first_seed=7)
    assert quick.keys() == ABOUT | with_real(["fd_cnn"], ["class_accuracy"])
    assert quick.items() <= found[1].metrics.items()


def test_fewer_fakes_than_held_out_images_are_compared_with_as_many(bars, evaluator_of, painter):
    report = distance(painter(), bars, evaluator_of(bars), num_samples=60)
    assert [report[n] for n in ("num_samples", "num_reals", "group_size")] == [60, 60, 60]


def test_few_held_out_images_are_compared_with_ten_groups_at_most(make_bars, evaluator_of, painter):
    dataset = make_bars(60)
    report = distance(painter(), dataset, evaluator_of(dataset), num_samples=10_000)
    assert [report[n] for n in ("num_samples", "num_reals", "group_size")] == [60, 6, 6]


def test_progress_counts_the_fakes(bars, evaluator_of, painter):
    told_of = []
    look(painter(), bars, evaluator_of(bars), 960, 0, lambda *done: told_of.append(done))
    assert told_of == [(500, 960), (960, 960)]


def test_without_labels_nothing_is_said_of_classes(make_bars, evaluator_of, painter):
    dataset = make_bars(600, labelled=False)
    report = evaluate(painter(num_classes=0), dataset, evaluator_of(dataset), 60)
    assert report.keys() == ABOUT | with_real(DISTANCES, MANIFOLD)
    assert report["evaluator_kind"] == "rotations"


def test_five_held_out_images_have_a_distance_but_no_fifth_neighbour(
    make_bars, evaluator_of, painter
):
    dataset = make_bars(50)
    report = evaluate(painter(), dataset, evaluator_of(dataset), 60)
    assert report["num_reals"] == 5
    assert report.keys() == ABOUT | OF_CLASSES | with_real(DISTANCES, ["class_accuracy"])


@pytest.mark.parametrize(
    ("images", "samples", "told_of"),
    [
        (30, 60, "has 3 held-out and 3 other images to measure with; 4 of each are needed"),
        (100, 3, "num_samples is 3; expected 4 or more"),
    ],
)
def test_too_few_images_are_refused_with_how_many_are_needed(
    images, samples, told_of, make_bars, evaluator_of, painter
):
    dataset = make_bars(images)
    with pytest.raises(ValueError, match=told_of):
        evaluate(painter(), dataset, evaluator_of(dataset), samples)


@pytest.mark.parametrize("other", [{"img_resolution": 16}, {"img_channels": 3}, {"num_classes": 2}])
def test_a_generator_of_other_images_is_refused(other, bars, evaluator_of, painter):
    sampler = painter(**other)
    with pytest.raises(ValueError, match=r"the generator makes .* the dataset 'bars' holds"):
        measure(sampler, bars, evaluator_of(bars))
    assert sampler.asked == []


def test_an_evaluator_that_gives_nan_is_named(bars, painter):
    net = Classifier(1, 3)
    net.to_features.bias.data[0] = float("nan")
    evaluator = Evaluator(net, "0123456789abcdef", torch.device("cpu"))
    with pytest.raises(ValueError, match="evaluator 0123456789ab gives NaN or infinity for fakes"):
        evaluate(painter(), bars, evaluator, 60)


def test_people_read_each_number_beside_that_of_reals(found):
    metrics = found[1].metrics
    out = io.StringIO()
    Console(file=out, width=160).print(table(metrics))
    for name in (*DISTANCES, *MANIFOLD, "class_accuracy", "cas", "memorised"):
        assert name in out.getvalue()
    assert "480 fakes in groups of 240, seeds from 7, against 240 held-out" in out.getvalue()
    assert told(metrics).endswith("480 samples")
    few = {name: value for name, value in metrics.items() if name in ABOUT or "fd_cnn" in name}
    Console(file=out, width=160).print(table(few))
