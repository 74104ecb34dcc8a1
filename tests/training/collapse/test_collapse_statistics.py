"""The statistics of collapse, against numbers worked out by hand."""

import pytest
import torch

from training.collapse import statistics


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_mean_distance_is_the_mean_over_all_pairs():
    assert statistics.mean_distance(column(0, 1, 3)) == pytest.approx((1 + 3 + 2) / 3)


def test_images_that_are_one_have_no_distance():
    assert statistics.mean_distance(torch.ones(5, 3)) == 0


def test_class_distances_look_inside_each_class_alone():
    labels = torch.tensor([0, 1, 0, 1, 2])
    distances = statistics.mean_class_distances(column(0, 10, 2, 13, 99), labels, 3)
    assert distances[:2].tolist() == [2, 3]
    assert distances[2].isnan()


def test_a_radius_reaches_the_fifth_other_real():
    radii = statistics.neighbour_radii(torch.arange(7.0)[:, None])
    assert radii.tolist() == [5, 4, 3, 3, 3, 4, 5]


def test_coverage_counts_reals_with_a_fake_inside_their_radius():
    reals, radii = column(0, 10, 20), torch.tensor([1.0, 1.0, 1.0])
    assert statistics.coverage(reals, radii, column(0.5, 12, 20)) == pytest.approx(2 / 3)


def test_coverage_of_a_distribution_by_itself_is_31_of_32():
    # 1 - 2⁻⁵ = .969 (Naeem et al. 2020). Of 2000 reals that are nearly independent, σ ≈ .004, twice
    # that with their dependence: five σ.
    draws = torch.Generator().manual_seed(0)
    reals, fakes = torch.rand(2, 2000, 2, generator=draws)
    covered = statistics.coverage(reals, statistics.neighbour_radii(reals), fakes)
    assert covered == pytest.approx(1 - 2**-5, abs=0.04)


def test_k_means_finds_islands_and_gives_the_same_for_a_seed():
    draws = torch.Generator().manual_seed(0)
    islands = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    rows = torch.cat([i + torch.randn(100, 2, generator=draws) for i in islands])
    centres = statistics.k_means(rows, 3, seed=1)
    # The mean of 100 normal draws has σ = .1: five σ.
    assert torch.cdist(islands, centres).amin(dim=1).max() < 0.5 * 2**0.5
    assert torch.equal(centres, statistics.k_means(rows, 3, seed=1))


def test_a_centre_nothing_is_near_to_stays_where_it_is():
    rows = torch.cat([torch.zeros(10, 1), torch.ones(1, 1)])
    assert statistics.k_means(rows, 3, seed=0).isfinite().all()


def test_bin_shares_are_shares():
    shares = statistics.bin_shares(column(0, 1, 2, 9), column(1, 10, 100))
    assert shares.tolist() == [0.75, 0.25, 0]


def test_kept_share_counts_what_stood_in_bins_that_still_hold_a_quarter():
    before = torch.tensor([0.4, 0.4, 0.2])
    now = torch.tensor([0.89, 0.11, 0.0])
    assert statistics.kept_share(now, before) == pytest.approx(0.8)
    assert statistics.kept_share(torch.tensor([0.91, 0.09, 0.0]), before) == pytest.approx(0.4)


def test_the_margin_is_the_score_of_the_class_asked_for_over_the_mean():
    scores = torch.tensor([[3.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    assert statistics.class_margin(scores, torch.tensor([0, 1])) == pytest.approx((2 + 4) / 2)
    assert statistics.class_margin(scores, torch.tensor([1, 0])) == pytest.approx((-1 - 2) / 2)


def test_linear_scores_are_the_log_odds_of_two_gaussians():
    # Means (0, 0) and (2, 0), covariance diag(1, 4): the log odds are 2·x₀ - 2.
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(40_000) % 2
    rows = torch.randn(40_000, 2, generator=draws) * torch.tensor([1.0, 2.0])
    rows[:, 0] += 2.0 * labels
    weights = statistics.linear_scores(rows, labels, 2)
    log_odds = weights[:, 1] - weights[:, 0]
    # σ of a mean of 20,000 is .007 and .014: more than five σ, and the 1 % of shrinking.
    assert log_odds.tolist() == pytest.approx([2, 0, -2], abs=0.15)
