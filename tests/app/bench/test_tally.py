import math
from array import array

import pytest

from app.bench.tally import Result, agree, by_the_rule, merged, quantile_of


def result(
    seconds: float = 1.0, images: int = 0, errors: int = 0, **latencies: list[float]
) -> Result:
    """`s200=[…]`: the latencies of answers with status 200."""
    by_status = {int(name[1:]): array("d", values) for name, values in latencies.items()}
    return Result(seconds, by_status, {"odd": errors} if errors else {}, array("d"), images)


def answers(count: int) -> Result:
    return result(images=2 * count, s200=[0.001] * count)


def test_quantiles_are_values_that_were_seen():
    values = [float(i) for i in range(1, 101)]
    assert [quantile_of(values, q) for q in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert quantile_of([7.0], 0.99) == 7
    assert math.isnan(quantile_of([], 0.5))


def test_only_good_answers_count_as_throughput():
    seen = result(2, 30, 4, s200=[0.01] * 20, s304=[0.03] * 10, s503=[0.5] * 5)
    assert (seen.ok, seen.requests, seen.failed) == (30, 39, 9)
    assert (seen.per_sec, seen.images_per_sec) == (15, 15)
    assert seen.latency_ms(0.5) == pytest.approx(10)
    assert seen.latency_ms(1) == pytest.approx(30)
    assert seen.latency_ms(0.99, 503) == pytest.approx(500)
    assert math.isnan(seen.latency_ms(0.5, 429))


def test_windows_are_merged_without_loss():
    whole = merged([result(1, 5, 1, s200=[1.0]), result(3, 7, 2, s200=[2.0], s503=[9.0])])
    assert (whole.seconds, whole.images, whole.errors) == (4, 12, {"odd": 3})
    assert {s: list(seen) for s, seen in whole.latencies_sec.items()} == {200: [1, 2], 503: [9]}


@pytest.mark.parametrize(
    ("rates", "settled"),
    [
        ([100, 109, 104], True),
        ([100, 111, 104], False),
        ([100, 100], False),
        ([50, 100, 101, 102], True),
        ([100, 101, 102, 50], False),
        ([0, 0, 0], False),
        ([], False),
    ],
)
def test_three_windows_in_a_row_within_a_tenth_settle_it(rates: list[float], settled: bool):
    assert agree(rates) is settled


def test_the_figure_is_the_middle_one_of_the_last_three():
    figure = by_the_rule([answers(n) for n in (10, 500, 104, 100, 96)])
    assert (figure.per_sec, figure.images_per_sec, figure.settled) == (100, 200, True)
    assert figure.rates == (10, 500, 104, 100, 96)
    assert figure.windows.ok == 300


def test_a_figure_that_did_not_settle_says_so():
    figure = by_the_rule([answers(10), answers(90)])
    assert (figure.per_sec, figure.settled, figure.to_json()["settled"]) == (50, False, False)


def test_a_result_without_answers_can_be_told():
    assert result().to_json()["latency_ms"] == {"p50": None, "p90": None, "p99": None, "max": None}
