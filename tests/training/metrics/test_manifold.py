"""Precision, recall, density and coverage against their definitions and closed forms."""

import numpy as np
import pytest

from training.metrics import manifold
from training.metrics.manifold import prdc

K = 5


def by_definition(fakes, reals, k):
    """The equations of the papers, with the whole matrix of distances."""
    between = np.linalg.norm(reals[:, None] - fakes[None], axis=2)  # (m, n)

    def reach(points):
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        return np.sort(distances, axis=1)[:, k]  # column 0 is the point itself

    in_real_ball = between <= reach(reals)[:, None]
    return {
        "precision": in_real_ball.any(axis=0).mean(),
        "recall": (between <= reach(fakes)).any(axis=1).mean(),
        "density": in_real_ball.sum(axis=0).mean() / k,
        "coverage": in_real_ball.any(axis=1).mean(),
    }


def test_all_four_are_what_their_definitions_say_whatever_the_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    fakes, reals = rng.normal(0.3, 0.8, (70, 4)), rng.normal(size=(90, 4))
    expected = by_definition(fakes, reals, 3)
    assert {n: e.value for n, e in prdc(fakes, reals, 3).items()} == pytest.approx(expected)
    monkeypatch.setattr(manifold, "_CHUNK", 700)
    assert {n: e.value for n, e in prdc(fakes, reals, 3).items()} == pytest.approx(expected)


def test_equal_distributions_have_density_1_and_coverage_97_percent_at_10k():
    # Of 2N alike points a ball that reaches to the 5th of N - 1 holds none of the other N with
    # odds (N-1)…(N-5) / ((2N-1)…(2N-5)) → 1/32 (Naeem et al. 2020): coverage .9687, by simulation
    # ± .0021 (density ± .0083). Five of these: odds 1 in 2 million.
    rng = np.random.default_rng(0)
    found = prdc(rng.normal(size=(10_000, 8)), rng.normal(size=(10_000, 8)))
    assert found["coverage"].value == pytest.approx(1 - 1 / 32, abs=0.0105)
    assert found["density"].value == pytest.approx(1, abs=0.042)
    assert found["precision"].value == pytest.approx(found["recall"].value, abs=0.03)


def test_a_set_against_itself_is_precise_and_covered():
    points = np.random.default_rng(0).normal(size=(50, 4))
    found = prdc(points, points)
    assert [found[name].value for name in ("precision", "recall", "coverage")] == [1, 1, 1]


def test_what_lies_elsewhere_scores_nothing():
    rng = np.random.default_rng(0)
    found = prdc(rng.normal(100, 1, (50, 4)), rng.normal(size=(50, 4)))
    assert [e.value for e in found.values()] == [0, 0, 0, 0]


def test_half_of_the_modes_are_precise_but_not_recalled():
    rng = np.random.default_rng(0)
    modes = np.array([[0.0, 0.0], [100.0, 0.0]])
    reals = modes[np.arange(400) % 2] + rng.normal(size=(400, 2))
    fakes = rng.normal(size=(400, 2))
    found = prdc(fakes, reals)
    assert found["precision"].value > 0.9
    assert found["recall"].value <= 0.5
    assert found["coverage"].value <= 0.5


@pytest.mark.parametrize(
    ("dims", "scale", "n", "m"),
    [(4, 1.0, 400, 400), (12, 0.8, 400, 400), (12, 0.5, 600, 300), (12, 0.8, 300, 600)],
)
def test_the_errors_are_the_spread_over_draws_within_a_factor_of_1_6(dims, scale, n, m):
    # Over 300 draws the ratios were .75 to 1.11; 150 know their spread to 6 %, so that a ratio
    # beyond 1/1.6 has odds of about 1 in 1000.
    rng = np.random.default_rng(0)
    reals = rng.normal(size=(m, dims))
    draws = [prdc(rng.normal(0.2, scale, (n, dims)), reals) for _ in range(150)]
    for name in draws[0]:
        spread = np.std([d[name].value for d in draws], ddof=1)
        claimed = np.sqrt(np.mean([d[name].se ** 2 for d in draws]))
        assert 1 / 1.6 < claimed / spread < 1.6, name


def test_too_few_points_for_a_fifth_neighbour_are_refused():
    with pytest.raises(ValueError, match=r"5 fakes and 9 reals; expected more than k = 5 of each"):
        prdc(np.zeros((5, 2)), np.zeros((9, 2)))
