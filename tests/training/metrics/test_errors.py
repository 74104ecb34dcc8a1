"""Standard errors against their closed forms."""

import numpy as np
import pytest

from training.metrics.errors import Estimate, delete_a_group, interleaved, jackknife, mean_of, share


def test_the_jackknife_of_a_mean_is_the_textbook_standard_error():
    x = np.random.default_rng(0).normal(size=50)
    left_out = np.array([np.delete(x, i).mean() for i in range(50)])
    assert jackknife(left_out) == pytest.approx(x.std(ddof=1) / np.sqrt(50))


def test_leaving_out_groups_of_a_mean_gives_the_standard_error_of_the_group_means():
    x = np.random.default_rng(0).normal(size=200)
    group_means = x.reshape(10, 20).mean(axis=0)
    found = delete_a_group(lambda rows: float(rows.mean()), x)
    assert found == pytest.approx(group_means.std(ddof=1) / np.sqrt(20))


def test_groups_of_sorted_rows_have_the_same_shares_and_lose_no_row():
    parts = interleaved(np.repeat(np.arange(5.0), 40))
    assert len(parts) == 20
    assert all(np.array_equal(part, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]) for part in parts)


def test_four_rows_are_enough_for_an_error():
    assert [len(part) for part in interleaved(np.arange(4.0))] == [2, 2]


def test_a_share_has_the_error_of_coin_tosses():
    assert share(np.array([True, False, False, False])) == Estimate(0.25, np.sqrt(0.1875 / 4))


def test_the_error_of_a_mean_of_four_equal_estimates_is_half_of_theirs():
    found = mean_of([Estimate(v, 0.2) for v in (1.0, 2.0, 3.0, 4.0)])
    assert (found.value, found.se) == (2.5, pytest.approx(0.1))
