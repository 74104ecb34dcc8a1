"""Owns the report of a run: its curves, its animation and report.html, from the folder alone."""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from training.animation import write_animation
from training.history import History, Row, number, read_history, real_score
from training.model.files import write_atomic
from training.model.registry import now_iso
from training.page import Plot, page_of
from training.pictures import png_of
from training.plots import Level, Series, draw_plot

# Statistics that are read together; each other one gets a plot of its own.
_TOGETHER: dict[str, tuple[str, tuple[str, ...]]] = {
    "losses": ("Losses", ("loss_D", "adversarial_D", "loss_G", "loss", "reconstruction", "kl")),
    "penalties": ("Gradient penalties", ("r1", "r2", "gp")),
    "logit_gap": ("D on reals less D on fakes", ("logit_gap",)),
    "speed": ("Speed", ("images_per_sec",)),
}
_PROGRESS = {"cur_nimg", "total_nimg", "eta_sec", "elapsed_sec"}


def write_report(run_dir: Path, final: bool) -> None:
    """Write plots/*.png and report.html into `run_dir`, and samples.webp if this is the end.

    No file of the run has to exist: the page says what is not there yet. Raises OSError if it
    cannot write.
    """
    told = read_history(run_dir)
    plots = plots_of(told)
    (run_dir / "plots").mkdir(exist_ok=True)
    for plot in plots:
        write_atomic(run_dir / "plots" / f"{plot.name}.png", plot.png)
    if final:
        write_animation(run_dir)
    animation = run_dir / "samples.webp"
    webp = animation.read_bytes() if animation.is_file() else None
    page = page_of(told, plots, webp, now_iso())
    write_atomic(run_dir / "report.html", page.encode("utf-8", "replace"))


def plots_of(told: History) -> list[Plot]:
    """A plot of every number that the run has told, and of its metrics against images and time."""
    return [*_statistics(told.stats), *_metrics(told.evaluations)]


def _statistics(rows: list[Row]) -> list[Plot]:
    together = {name for _, names in _TOGETHER.values() for name in names}
    alone = {name: (name, (name,)) for name in _names(rows, without=together | _PROGRESS)}
    plots: list[Plot] = []
    for file, (title, names) in (_TOGETHER | alone).items():
        series = [_series(rows, name) for name in names]
        if series := [s for s in series if np.isfinite(s.y).any()]:
            plots.append(Plot(file, title, png_of(draw_plot(title, series))))
    return plots


def _metrics(rows: list[Row]) -> list[Plot]:
    plots: list[Plot] = []
    for name in _names(rows, without=_PROGRESS):
        real = real_score(rows[-1], name)
        if real is None:
            continue
        level = Level("real images", real)
        for against, x, unit in (("images", "cur_nimg", "kimg"), ("seconds", "elapsed_sec", "s")):
            title = f"{name} against {against}"
            picture = draw_plot(title, [_series(rows, name, x)], unit, level)
            plots.append(Plot(f"{name}_by_{against}", title, png_of(picture)))
    return plots


def _series(rows: list[Row], name: str, x: str = "cur_nimg") -> Series:
    """`name` against thousands of images, or against `x`; NaN where a row has no such number."""
    rows = [row for row in rows if number(row.get(x)) is not None]
    scale = 1000 if x == "cur_nimg" else 1
    values = [number(row.get(name)) for row in rows]
    return Series(
        name.removesuffix("_per_sec") + "/s" if name.endswith("_per_sec") else name,
        np.array([row[x] / scale for row in rows], np.float64),
        np.array([np.nan if v is None else v for v in values], np.float64),
    )


def _names(rows: list[Row], without: Collection[str]) -> list[str]:
    """What the rows hold numbers for, in the order it came up; names that can name a file."""
    names = dict.fromkeys(
        name for row in rows for name, value in row.items() if number(value) is not None
    )
    return [n for n in names if n not in without and re.fullmatch(r"\w{1,40}", n, re.ASCII)]
