"""The Fréchet distance against its closed form."""

import numpy as np
import pytest

from training.metrics.errors import delete_a_group
from training.metrics.frechet import frechet_distance, gaussian_distance


def gaussian_points(mean, scales):
    """Points whose sample mean and covariance are exactly `mean` and diag(scales²)."""
    dim = len(mean)
    corners = np.concatenate([np.eye(dim), -np.eye(dim)]) * np.sqrt((2 * dim - 1) / 2)
    return np.asarray(mean) + corners * np.asarray(scales)


def test_a_set_is_at_no_distance_from_itself():
    points = np.random.default_rng(0).normal(size=(100, 8))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_diagonal_gaussians_are_as_far_apart_as_the_closed_form_says():
    # ‖μ₁-μ₂‖² + Σ(σ₁-σ₂)²
    a = gaussian_points([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    b = gaussian_points([1.0, 0.0, -2.0], [2.0, 2.0, 0.5])
    expected = (1 + 0 + 4) + (1 + 0 + 2.5**2)
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_a_turned_gaussian_is_as_far_as_the_closed_form_says():
    # Commuting covariances share axes, so turning both by the same matrix changes nothing.
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    a = gaussian_points([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]) @ turn
    b = gaussian_points([1.0, 0.0, -2.0], [2.0, 2.0, 0.5]) @ turn
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 2.5**2)


def test_one_point_has_no_covariance():
    with pytest.raises(ValueError, match="expected 2 or more"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_means_and_covariances_alone_give_the_same_distance():
    zero, one = np.zeros(2), np.ones(2)
    assert gaussian_distance(zero, np.eye(2), one, 4 * np.eye(2)) == pytest.approx(2 + 2)


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_the_error_is_the_spread_over_draws_within_a_factor_of_one_and_a_half(shift):
    # The jackknife is about a fifth too large where the distributions are equal; 150 draws know
    # their spread to 6 %: a ratio beyond 1.5 has odds of about 1 in 10,000.
    rng = np.random.default_rng(0)
    reals = rng.normal(size=(500, 8))

    def to_reals(features):
        return frechet_distance(features, reals)

    draws = [rng.normal(shift, 1, (500, 8)) for _ in range(150)]
    spread = np.std([to_reals(d) for d in draws], ddof=1)
    claimed = np.sqrt(np.mean([delete_a_group(to_reals, d) ** 2 for d in draws[:50]]))
    assert 1 / 1.5 < claimed / spread < 1.5
