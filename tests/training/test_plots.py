import math
import random
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageColor

from training.pictures import png_of
from training.plots import (
    COLORS,
    SIZE,
    Level,
    Series,
    decade_ticks,
    draw_plot,
    round_ticks,
    tick_labels,
)

FRAME = slice(60, 430)  # the rows below the legend, down to the x axis
GREY = "#6a7277"


def line(y, x=None, name="loss_D") -> Series:
    y = np.asarray(y, np.float64)
    return Series(name, np.arange(len(y), dtype=np.float64) if x is None else np.asarray(x), y)


def is_color(picture: Image.Image, color: str) -> np.ndarray:
    """(H, W) bool: the pixels of that colour, or nearly."""
    pixels = np.asarray(picture).astype(int)
    return (np.abs(pixels - ImageColor.getrgb(color)) < 30).all(axis=2)


def heights(picture: Image.Image, color: str = COLORS[0]) -> dict[int, float]:
    """column → the middle row of what is drawn there in `color`; columns without it are absent."""
    drawn = is_color(picture, color)[FRAME]
    return {int(x): float(np.flatnonzero(drawn[:, x]).mean()) for x in drawn.any(0).nonzero()[0]}


def off_a_line(points: dict[int, float]) -> float:
    """How many pixels the points stray from the straight line that fits them best."""
    x, y = np.array(list(points)), np.array(list(points.values()))
    return float(np.abs(np.polyval(np.polyfit(x, y, 1), x) - y).max())


def test_a_straight_line_is_drawn_straight_and_rises():
    points = heights(draw_plot("", [line(3 * np.arange(30.0) + 1)]))
    assert off_a_line(points) < 1.5
    assert points[min(points)] - points[max(points)] > 250


def test_values_over_three_decades_stand_on_a_logarithmic_axis():
    wide, narrow = 10.0 ** np.linspace(-2, 2, 60), 10.0 ** np.linspace(-1, 1.9, 60)
    assert off_a_line(heights(draw_plot("", [line(wide)]))) < 1.5
    assert off_a_line(heights(draw_plot("", [line(narrow)]))) > 50


def test_a_zero_keeps_the_axis_linear():
    x = np.arange(30.0)
    points = heights(draw_plot("", [line(1e4 * x)]))
    assert off_a_line(points) < 1.5


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_gap(missing):
    y = np.ones(31)
    y[10:21] = missing
    columns = np.array(list(heights(draw_plot("", [line(y)]))))
    gaps = np.diff(columns)
    assert (gaps > 1).sum() == 1
    assert gaps.max() == pytest.approx(12 / 30 * (columns[-1] - columns[0]), abs=8)


def test_a_value_alone_between_gaps_is_a_dot():
    y = np.full(100, np.nan)
    y[50] = 1.0
    drawn = is_color(draw_plot("", [line(y)]), COLORS[0])[FRAME]
    assert 30 < drawn.sum() < 120


def test_a_hundred_thousand_points_show_their_mean_and_their_range_and_take_no_second():
    rng = np.random.default_rng(0)
    noisy = rng.uniform(-1, 1, 100_000)
    noisy[[50_000, 20_000]] = 9.0, -9.0
    began = time.perf_counter()
    picture = draw_plot("", [line(noisy)])
    assert time.perf_counter() - began < 1.0
    points = heights(picture)
    # A bin's mean of 333 draws has a standard error of .032, here .8 pixel: 300 bins within ±5 of
    # them, but for 1 run in 5000.
    assert max(points.values()) - min(points.values()) < 12
    pixels = np.asarray(picture).astype(int)[FRAME]
    tinted = pixels[:, :, 2] - pixels[:, :, 0] > 20
    left, width = min(points), max(points) - min(points)
    for rows, share in ((slice(20, 120), 0.5), (slice(250, 350), 0.2)):
        spike = np.flatnonzero(tinted[rows].any(axis=0))
        assert 0 < len(spike) < 12
        assert spike.mean() == pytest.approx(left + share * width, abs=6)


def test_a_level_lies_where_its_value_is():
    same = draw_plot("", [line([1, 1]), line([2, 2])], level=Level("real images", 1.0))
    without = draw_plot("", [line([1, 1]), line([2, 2])])
    lowest = np.mean(list(heights(without, COLORS[0]).values()))
    columns = sorted(heights(without, COLORS[0]))[20:-20]
    dashes = is_color(same, GREY)[FRAME][:, columns]
    rows, _ = np.nonzero(dashes[:-20])
    assert rows.mean() == pytest.approx(lowest, abs=1.5)


def test_the_axis_reaches_a_level_beyond_the_values():
    picture = draw_plot("", [line([10, 11])], level=Level("real images", 1.0))
    rows = dashed_rows(picture)
    assert rows
    assert min(rows) > np.median(list(heights(picture).values()))


def dashed_rows(picture: Image.Image) -> list[int]:
    """Rows above the x axis that are grey in many columns."""
    return [int(y) for y in np.flatnonzero(is_color(picture, GREY)[60:420].sum(axis=1) > 300)]


def test_the_legend_names_each_line_in_its_colour():
    names = ["loss_D", "loss_G", "adversarial_D"]
    head = draw_plot("Losses", [line([1, 2], name=n) for n in names]).crop((0, 0, SIZE[0], 58))
    assert all(is_color(head, color).sum() > 30 for color in COLORS[:3])
    assert not is_color(head, COLORS[3]).any()


def test_more_lines_than_colours_are_drawn_all_the_same():
    draw_plot("", [line([i, i]) for i in range(2 * len(COLORS) + 1)])


@pytest.mark.parametrize("values", [[], [math.nan], [0.0], [5.0, 5.0], [-2.0], [1e-30, 1e30]])
def test_any_values_make_a_picture(values):
    picture = draw_plot("odd", [line(values)])
    assert picture.size == SIZE
    assert Image.open(BytesIO(png_of(picture))).size == SIZE


def test_ticks_are_round_few_and_cover_the_range():
    rng = random.Random(0)
    for _ in range(500):
        low = rng.uniform(-1, 1) * 10 ** rng.uniform(-6, 6)
        high = low + 10 ** rng.uniform(-3, 6)
        ticks = round_ticks(low, high, most=5)
        step = ticks[1] - ticks[0]
        assert 2 <= len(ticks) <= 6
        assert ticks[0] <= low + 1e-6 * step
        assert ticks[-1] >= high - 1e-6 * step
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-3


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 7, [0, 2, 4, 6, 8]),
        (-3, 40, [-10, 0, 10, 20, 30, 40]),
    ],
)
def test_ticks_are_the_ones_a_person_would_choose(low, high, ticks):
    assert round_ticks(low, high, most=5) == pytest.approx(ticks)


def test_decades_cover_the_range():
    assert decade_ticks(0.002, 40, most=6) == pytest.approx((0.001, 0.01, 0.1, 1, 10, 100))
    assert decade_ticks(1e-6, 1e6, most=6) == pytest.approx((1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6))


def test_labels_tell_neighbours_apart():
    assert tick_labels([0.0, 0.2, 0.4]) == ["0", "0.2", "0.4"]
    assert tick_labels([0.0, 50_000.0, 100_000.0]) == ["0", "50,000", "100,000"]
    assert len(set(tick_labels([1.0, 1.0000001, 1.0000002]))) == 3
