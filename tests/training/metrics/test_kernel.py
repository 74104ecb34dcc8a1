"""The kernel distance against its definition, a closed form, and the spread it claims."""

import numpy as np
import pytest

from training.metrics import kernel
from training.metrics.kernel import kernel_distance


def by_definition(x, y):
    """The unbiased estimator, term by term."""

    def mean_kernel(a, b, same):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return np.mean([(a[i] @ b[j] / x.shape[1] + 1) ** 3 for i, j in pairs])

    return mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)


def test_the_distance_is_what_its_definition_says_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 3)), rng.normal(1, 2, size=(17, 3))
    expected = by_definition(x, y)
    assert kernel_distance(x, y).value == pytest.approx(expected)
    monkeypatch.setattr(kernel, "_BLOCK", 4)
    assert kernel_distance(x, y).value == pytest.approx(expected)


def test_the_error_is_that_of_leaving_out_one_group_after_another():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(1, 2, size=(17, 3))
    left_out = np.array([by_definition(np.delete(x, [g, g + 20], 0), y) for g in range(20)])
    expected = np.sqrt(19 / 20 * ((left_out - left_out.mean()) ** 2).sum())
    assert kernel_distance(x, y).se == pytest.approx(expected)


def test_gaussians_are_as_far_apart_as_their_moments_say_and_equal_ones_are_at_zero():
    # In one dimension the kernel is 1 + 3xy + 3x²y² + x³y³, so the squared MMD of N(1, 1) and
    # N(0, 1) is 3(1 - 0)² + 3(2 - 1)² + (4 - 0)² = 22. Unbiased, so the mean over draws tells;
    # five standard errors: odds of a false alarm 1 in 2 million.
    rng = np.random.default_rng(0)
    for shift, expected in ((1.0, 22.0), (0.0, 0.0)):
        draws = [
            kernel_distance(rng.normal(shift, 1, (60, 1)), rng.normal(size=(60, 1))).value
            for _ in range(300)
        ]
        error = np.std(draws, ddof=1) / np.sqrt(len(draws))
        assert np.mean(draws) == pytest.approx(expected, abs=5 * error)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_error_is_the_spread_over_draws_within_a_factor_of_one_and_a_half(shift):
    # The jackknife is up to a fifth too large where the distributions are equal; 100 draws know
    # their spread to 7 %: a ratio beyond 1.5 has odds of about 1 in 1000.
    rng = np.random.default_rng(1)
    reals = rng.normal(size=(300, 8))
    found = [kernel_distance(rng.normal(shift, 1, (300, 8)), reals) for _ in range(100)]
    claimed = np.sqrt(np.mean([f.se**2 for f in found]))
    assert 1 / 1.5 < claimed / np.std([f.value for f in found], ddof=1) < 1.5


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="of 3 and 5 features; expected 4 and 2, or more"):
        kernel_distance(np.zeros((3, 2)), np.zeros((5, 2)))
