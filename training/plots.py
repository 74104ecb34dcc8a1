"""Owns the curves of a run: series of numbers drawn as one picture, with Pillow alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Floats = NDArray[np.float64]

SIZE = (880, 500)  # shown at half of it, so that it is sharp on a dense screen
COLORS = ("#1c6f76", "#c4602d", "#7a5ea8", "#a88418", "#4a7fc1")
_GRID, _INK, _QUIET = "#e6e6e6", "#23282c", "#6a7277"
_SUPERSAMPLED = 2
_LEFT_GAP, _HEAD_Y, _TOP, _RIGHT, _BOTTOM = 14, 30, 66, 856, 424
_TITLE_PX, _TEXT_PX = 26, 22
_LINE_PX, _DOT_PX = 3, 4
_DASH, _SAMPLE_PX = (9, 16), 27  # a dash's length and the distance to the next; legend's samples
_MOST_POINTS = 300  # a longer series is drawn as the mean and the range of so many bins
_FEW_POINTS = 24  # a shorter one shows where its points are
_LOG_ABOVE = 1000.0  # a wider range hides its lower decades on a linear axis


@dataclass(frozen=True)
class Series:
    """A line and its name in the legend. x: (n,), ascending. y: (n,), NaN or infinite: a gap."""

    name: str
    x: Floats
    y: Floats


@dataclass(frozen=True)
class Level:
    """A horizontal line to hold the others against, such as what real images score."""

    name: str
    y: float


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high`, on the pixels from `first` to `last`."""

    low: float
    high: float
    first: float
    last: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, values: Floats | Sequence[float]) -> Floats:
        low, high, v = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            low, high, v = math.log10(low), math.log10(high), np.log10(v)
        return self.first + (v - low) / (high - low) * (self.last - self.first)


@dataclass(frozen=True)
class _Curve:
    """A series as it is drawn: each point a mean, with the range it stands for."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def draw_plot(
    title: str,
    series: Sequence[Series],
    x_unit: str = "kimg",
    level: Level | None = None,
    log_above: float = _LOG_ABOVE,
) -> Image.Image:
    """An RGB picture of `SIZE`; y is logarithmic where positive values span more than `log_above`.

    A series of 100,000 points takes no longer than one of 300: bins, each with its mean and range.
    """
    curves = [_thinned(s) for s in series]
    y_values = np.concatenate([[] if level is None else [level.y], *(s.y for s in series)])
    y_axis = _y_axis(y_values[np.isfinite(y_values)], log_above)
    left = _LEFT_GAP + max(_font(_TEXT_PX).getlength(t) for t in tick_labels(y_axis.ticks)) + 10
    x_axis = _x_axis(max((float(s.x[-1]) for s in series if len(s.x)), default=0.0), left)
    picture = _lines(x_axis, y_axis, curves, level)
    draw = ImageDraw.Draw(picture)
    draw.text((_LEFT_GAP, _HEAD_Y), title, _INK, _font(_TITLE_PX), anchor="lm")
    _name_ticks(draw, x_axis, y_axis, x_unit)
    _legend(draw, [s.name for s in series], level)
    return picture


def round_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten that cover [low, high] in `most` steps or fewer.

    The first and the last lie on or just outside the ends; low < high.
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return tuple(k * step for k in range(first, last + 1))


def decade_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Powers of ten that cover [low, high], `most` steps or fewer; 0 < low < high."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = math.ceil((last - first) / most)
    return tuple(10.0**k for k in range(first, last + step, step))


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """As many digits as tell neighbours apart, six at least."""
    step = min(abs(b - a) for a, b in pairwise(ticks))
    digits = math.ceil(math.log10(max(map(abs, ticks)) / step)) + 1
    return [f"{tick:,.{max(6, digits)}g}" for tick in ticks]


def _y_axis(values: Floats, log_above: float) -> _Axis:
    """The frame ends on ticks; from 0 where the values come near it."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low > 0 and high / low > log_above:
        ticks = decade_ticks(low, high, most=6)
        return _Axis(ticks[0], ticks[-1], _BOTTOM, _TOP, ticks, log=True)
    if low == high:
        low, high = low - (abs(low) / 4 or 1), high + (abs(high) / 4 or 1)
    ticks = round_ticks(0.0 if 0 < low <= high / 2 else low, high, most=5)
    return _Axis(ticks[0], ticks[-1], _BOTTOM, _TOP, ticks)


def _x_axis(end: float, left: float) -> _Axis:
    """From 0 to the last point, with the ticks that lie between."""
    end = end if end > 0 else 1.0
    return _Axis(
        0.0, end, left, _RIGHT, tuple(t for t in round_ticks(0.0, end, most=7) if t <= end)
    )


def _thinned(series: Series) -> _Curve:
    x, y = series.x, np.where(np.isfinite(series.y), series.y, np.nan)
    if len(x) <= _MOST_POINTS:
        return _Curve(x, y, y, y)
    starts = np.linspace(0, len(x), _MOST_POINTS, endpoint=False).astype(np.intp)
    finite = np.add.reduceat(np.isfinite(y).astype(np.float64), starts)
    with np.errstate(invalid="ignore"):  # a bin without one finite value is a gap
        return _Curve(
            x=np.add.reduceat(x, starts) / np.diff(starts, append=len(x)),
            mean=np.add.reduceat(np.nan_to_num(y), starts) / finite,
            low=np.fmin.reduceat(y, starts),
            high=np.fmax.reduceat(y, starts),
        )


def _lines(
    x_axis: _Axis, y_axis: _Axis, curves: Sequence[_Curve], level: Level | None
) -> Image.Image:
    """Grid, bands and lines, drawn large and reduced, which smooths their edges."""
    scale = _SUPERSAMPLED
    canvas = Image.new("RGB", (SIZE[0] * scale, SIZE[1] * scale), "white")
    draw = ImageDraw.Draw(canvas, "RGBA")
    left, right = x_axis.first * scale, x_axis.last * scale
    for y in y_axis.at(y_axis.ticks) * scale:
        draw.line((left, y, right, y), _GRID, scale)
    for x in x_axis.at(x_axis.ticks) * scale:
        draw.line((x, _BOTTOM * scale, x, (_BOTTOM + 8) * scale), _QUIET, scale)
    draw.line((left, _BOTTOM * scale, right, _BOTTOM * scale), _QUIET, scale)
    for curve, color in zip(curves, COLORS * len(curves), strict=False):
        _draw_curve(draw, x_axis, y_axis, curve, color)
    if level is not None:
        y = float(y_axis.at([level.y])[0]) * scale
        for start, end in _dashes(left, right, scale):
            draw.line((start, y, end, y), _QUIET, 2 * scale)
    return canvas.reduce(scale)


def _draw_curve(
    draw: ImageDraw.ImageDraw, x_axis: _Axis, y_axis: _Axis, curve: _Curve, color: str
) -> None:
    x = x_axis.at(curve.x) * _SUPERSAMPLED
    mean, low, high = (y_axis.at(v) * _SUPERSAMPLED for v in (curve.mean, curve.low, curve.high))
    for part in _unbroken(mean):
        px = x[part]
        if curve.low is not curve.mean and len(px) > 1:
            edge = [*zip(px, low[part], strict=True), *zip(px[::-1], high[part][::-1], strict=True)]
            draw.polygon(edge, f"{color}40")
        points = list(zip(px, mean[part], strict=True))
        draw.line(points, color, _LINE_PX * _SUPERSAMPLED, joint="curve")
        if len(curve.x) <= _FEW_POINTS or len(points) == 1:
            for point in points:
                draw.circle(point, _DOT_PX * _SUPERSAMPLED, color)


def _unbroken(values: Floats) -> list[slice]:
    """The runs of values between the gaps."""
    there = np.concatenate([[0], np.isfinite(values).astype(np.int8), [0]])
    starts, ends = np.flatnonzero(np.diff(there) == 1), np.flatnonzero(np.diff(there) == -1)
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def _name_ticks(draw: ImageDraw.ImageDraw, x_axis: _Axis, y_axis: _Axis, x_unit: str) -> None:
    font = _font(_TEXT_PX)
    for y, label in zip(y_axis.at(y_axis.ticks), tick_labels(y_axis.ticks), strict=True):
        draw.text((x_axis.first - 10, y), label, _QUIET, font, anchor="rm")
    for x, label in zip(x_axis.at(x_axis.ticks), tick_labels(x_axis.ticks), strict=True):
        x = min(x, SIZE[0] - 4 - font.getlength(label) / 2)
        draw.text((x, _BOTTOM + 12), label, _QUIET, font, anchor="ma")
    draw.text((_RIGHT, SIZE[1] - 10), x_unit, _QUIET, font, anchor="rs")


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str], level: Level | None) -> None:
    """From the right end of the title's line to the left; a level's sample is dashed."""
    entries: list[tuple[str, str]] = list(zip(names, COLORS * len(names), strict=False))
    if level is not None:
        entries.append((level.name, _QUIET))
    x, font = float(_RIGHT), _font(_TEXT_PX)
    for name, color in reversed(entries):
        draw.text((x, _HEAD_Y), name, _QUIET, font, anchor="rm")
        x -= font.getlength(name) + 10 + _SAMPLE_PX
        whole = [(x, x + _SAMPLE_PX)]
        for start, end in _dashes(x, x + _SAMPLE_PX) if color == _QUIET else whole:
            draw.line((start, _HEAD_Y + 1, end - 1, _HEAD_Y + 1), color, _LINE_PX)
        x -= 22


def _dashes(left: float, right: float, scale: int = 1) -> list[tuple[float, float]]:
    long, apart = _DASH[0] * scale, _DASH[1] * scale
    return [(x, min(x + long, right)) for x in np.arange(left, right, apart).tolist()]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
