"""FID and its neighbours, on features small enough to be checked by other means."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from training.data.dataset import Dataset
from training.metrics.frechet import frechet_distance
from training.metrics.inception_scores import Moments, evaluate_inception, moments

WIDTH = 6


class Projection:
    """Stands for Inception: a random linear map of the pixels."""

    width = WIDTH
    digest = "0123456789abcdef"

    def __call__(self, images):
        pixels = images.reshape(len(images), -1)
        weights = np.random.default_rng(0).normal(size=(pixels.shape[1], WIDTH))
        return ((pixels - 128.0) @ weights / 64).astype(np.float32)


def blobs(count, seed=0, brightness=128, spread=30):
    noise = np.random.default_rng(seed).normal(brightness, spread, size=(count, 4, 4, 1))
    return noise.clip(0, 255).astype(np.uint8)


def dataset_of(images, labels=None):
    return Dataset(
        name="blobs",
        hash="feed" * 16,
        resolution=4,
        channels=1,
        class_names=() if labels is None else ("a", "b", "c"),
        images=images,
        labels=labels,
        heldout=np.arange(len(images)) % 10 == 0,
        manifest={},
    )


@dataclass
class Shelf:
    """A generator whose seed i gives image i of a shelf; remembers the classes asked for."""

    images: np.ndarray
    classes: np.ndarray | None = None
    num_classes: int = 0

    @property
    def config(self):
        return SimpleNamespace(img_resolution=4, img_channels=1, num_classes=self.num_classes)

    def from_seeds(self, seeds, classes=None):
        if classes is not None:
            before = [] if self.classes is None else [self.classes]
            self.classes = np.concatenate([*before, classes])
        return self.images[list(seeds)]


def report_on(fakes, reals, **options):
    options = {"num_fakes": len(fakes), **options}
    return evaluate_inception(Shelf(fakes), dataset_of(reals), Projection(), **options)


def test_the_fid_is_of_all_fakes_against_all_reals_held_out_or_not():
    fakes, reals = blobs(1200, seed=1, brightness=150), blobs(1301)
    features = [Projection()(images).astype(np.float64) for images in (fakes, reals)]
    report = report_on(fakes, reals)
    assert report["fid1200_full"] == pytest.approx(frechet_distance(*features), abs=1e-4)
    assert (report["num_samples"], report["num_reals"]) == (1200, 1301)


def test_a_copy_of_the_reals_is_at_no_distance():
    reals = blobs(1000)
    report = report_on(reals, reals)
    assert report["fid1k_full"] == pytest.approx(0, abs=1e-9)
    assert report["kid1k"] < 0  # what an unbiased estimate gives where pairs repeat


def test_names_carry_how_many_images_were_compared():
    report = report_on(blobs(3000, seed=1), blobs(5000))
    numbers = {name for name in report if name.startswith(("fid", "kid", "pr"))}
    assert numbers == {
        *("fid3k_full", "fid3k_full_se", "kid3k", "kid3k_floor", "kid3k_se"),
        *("fid2500", "fid2500_floor"),
        *(
            f"pr2500_inception_{part}{suffix}"
            for part in ("precision", "recall")
            for suffix in ("", "_reals", "_se")
        ),
    }


def test_a_perfect_generator_stands_at_the_floors():
    # Fakes and reals are draws of one distribution. Over 60 of them fid1k stood 0 ± .041 from its
    # floor, kid1k at 0 ± .10 and the shares 0 ± .0125 from theirs: the bounds are five of those.
    report = report_on(blobs(1000, seed=1), blobs(2000))
    assert report["fid1k"] == pytest.approx(report["fid1k_floor"], abs=0.2)
    assert abs(report["kid1k"]) < 0.5
    for part in ("precision", "recall"):
        name = f"pr1k_inception_{part}"
        assert report[name] == pytest.approx(report[f"{name}_reals"], abs=0.065)


def test_a_worse_generator_is_seen_in_each_number():
    report = report_on(blobs(1000, seed=1, brightness=200), blobs(2000))
    assert report["fid1k"] > 10 * report["fid1k_floor"]
    assert report["kid1k"] > report["kid1k_floor"] + 5 * report["kid1k_se"]
    assert report["pr1k_inception_precision"] < report["pr1k_inception_precision_reals"] / 2


def test_fakes_that_are_all_alike_are_precise_and_recall_little():
    report = report_on(blobs(1000, seed=1, spread=3), blobs(2000))
    assert report["pr1k_inception_precision"] > 0.9
    assert report["pr1k_inception_recall"] < 0.1


def test_halves_are_drawn_from_a_dataset_sorted_by_class():
    sorted_reals = np.concatenate([blobs(500, brightness=60), blobs(500, seed=1, brightness=200)])
    report = report_on(sorted_reals, sorted_reals)
    assert report["fid500_floor"] < 0.01 * frechet_distance(
        Projection()(sorted_reals[:500]), Projection()(sorted_reals[500:])
    )


def test_the_standard_error_is_the_jackknife_of_five_groups():
    fakes, reals = blobs(200, seed=1), blobs(300)
    features = Projection()(fakes).astype(np.float64)
    without = [
        frechet_distance(features[np.arange(200) % 5 != group], Projection()(reals))
        for group in range(5)
    ]
    expected = np.sqrt(4 / 5 * ((without - np.mean(without)) ** 2).sum())
    assert report_on(fakes, reals)["fid200_full_se"] == pytest.approx(expected, abs=1e-4)


def test_the_standard_error_is_the_spread_over_fresh_fakes():
    reals = blobs(2000)
    reports = [report_on(blobs(500, seed, brightness=140), reals) for seed in range(1, 31)]
    spread = np.std([report["fid500_full"] for report in reports], ddof=1)
    told = np.mean([report["fid500_full_se"] for report in reports])
    # .40 told and .456 seen over 150 seeds. 30 know their ratio to 15 %: a half is 3.7 sd away.
    assert spread / 2 < told < spread * 2


def test_fakes_carry_each_label_as_often_as_the_dataset_does():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    shelf = Shelf(blobs(120), num_classes=3)
    evaluate_inception(shelf, dataset_of(blobs(60), labels), Projection(), num_fakes=120)
    assert np.bincount(shelf.classes).tolist() == [20, 40, 60]
    assert len(set(shelf.classes[:10])) > 1  # and not one class after another


def test_fakes_come_from_the_seeds_asked_for():
    fakes = blobs(300)
    moved = report_on(fakes, blobs(50, seed=1), num_fakes=100, first_seed=200)
    alone = report_on(fakes[200:], blobs(50, seed=1))
    assert moved == alone | {"first_seed": 200}


def test_the_report_names_the_network_and_the_dataset():
    report = report_on(blobs(10, seed=1), blobs(10))
    assert report["inception"] == "0123456789ab"
    assert report["dataset_hash"] == "feed" * 16


def test_floors_are_absent_where_a_half_has_no_covariance():
    report = report_on(blobs(10, seed=1), blobs(2 * WIDTH + 1))
    assert "fid10_full" in report
    assert not any(name.startswith("pr") or name.endswith("fid6_floor") for name in report)


@pytest.mark.parametrize(("fakes", "reals"), [(WIDTH, 100), (100, WIDTH)])
def test_too_few_images_for_a_covariance_are_refused(fakes, reals):
    with pytest.raises(ValueError, match=f"{fakes} fakes against {reals} reals: .*at least 7 "):
        report_on(blobs(fakes), blobs(reals))


def test_more_fakes_than_fid_is_published_with_are_refused():
    with pytest.raises(ValueError, match="60,000 fakes: at most 50,000"):
        report_on(blobs(10), blobs(10), num_fakes=60_000)


def test_a_generator_of_other_images_is_refused():
    with pytest.raises(ValueError, match="the generator makes"):
        evaluate_inception(Shelf(blobs(10), num_classes=2), dataset_of(blobs(10)), Projection())


def test_progress_counts_reals_and_fakes():
    told = []
    report_on(blobs(700), blobs(600), progress=lambda done, total: told.append((done, total)))
    assert told == [(500, 1300), (600, 1300), (1100, 1300), (1300, 1300)]


# Moments.


def test_summed_moments_are_mean_and_covariance():
    features = np.random.default_rng(0).normal(3, 2, size=(1234, 5)).astype(np.float32)
    other = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    in_parts = moments(features[:200]) + moments(features[200:])
    expected = frechet_distance(features.astype(np.float64), other.astype(np.float64))
    assert in_parts.distance(moments(other)) == pytest.approx(expected, rel=1e-9)


def test_moments_less_a_part_are_those_of_the_rest():
    features = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    rest = moments(features) - moments(features[::3])
    kept = features[np.arange(500) % 3 != 0]
    assert rest.distance(moments(kept)) == pytest.approx(0, abs=1e-9)


def sums_of(mean, scales, turn, count=50_000):
    """Moments of `count` points of exactly this mean and the covariance turn · diag(s²) · turnᵀ."""
    covariance = (turn * scales**2) @ turn.T
    return Moments(count, count * mean, (count - 1) * covariance + count * np.outer(mean, mean))


def test_the_distance_at_2048_features_is_the_closed_form():
    # Covariances with common axes: ‖μ₁-μ₂‖² + Σ(σ₁-σ₂)², as ill-conditioned as Inception's.
    rng = np.random.default_rng(0)
    v = rng.normal(size=2048)
    mirror = np.eye(2048) - 2 * np.outer(v, v) / (v @ v)  # common axes: an orthogonal matrix
    means, scales = rng.normal(0.4, 0.3, (2, 2048)), np.exp(rng.normal(-3, 1.5, (2, 2048)))
    expected = ((means[0] - means[1]) ** 2).sum() + ((scales[0] - scales[1]) ** 2).sum()
    a, b = (sums_of(mean, scale, mirror) for mean, scale in zip(means, scales, strict=True))
    assert a.distance(b) == pytest.approx(expected, rel=1e-6)
