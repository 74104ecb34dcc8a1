"""Owns the page that tells of a run: report.html, one file that asks for nothing outside itself."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from training import markup
from training.animation import MAX_SIDE, fit
from training.diagnosis import warnings_of
from training.history import History, Row, number, real_score
from training.metrics.meanings import LOWER_IS_BETTER, MEANINGS
from training.pictures import png_of
from training.presets import PRESETS

_TEMPLATE = Path(__file__).with_name("report.html.template")
_MOST_CLASSES = 30
_SHARES = ("class_accuracy", "cas", "memorised")


@dataclass(frozen=True)
class Plot:
    """A curve: the name of its file without ending, its title, and its PNG."""

    name: str
    title: str
    png: bytes


def page_of(told: History, plots: list[Plot], animation: bytes | None, written: str) -> str:
    """The report as HTML; every text of the run is escaped. `written`: the time now."""
    warnings = warnings_of(told)
    return Template(_TEMPLATE.read_text("utf-8")).substitute(
        style=markup.style(),
        title=escape(str(told.run.get("dataset", "A run without run.json"))),
        facts="".join(_facts(told, len(warnings))),
        warnings=markup.warnings(warnings),
        metrics=_metrics(told.metrics),
        pictures=_pictures(told.grids, animation),
        curves=_curves(plots),
        settings=_settings(told),
        events=_events(told.events),
        reproduce=_reproduce(told),
        written=escape(written),
    )


def _facts(told: History, num_warnings: int) -> Iterator[str]:
    phase = told.progress.get("phase", "not begun")
    status = "finished" if told.metrics else f"not finished: {phase}"
    yield f'<li class="status">{escape(status)}</li>'
    facts = [f"{key} {told.asked[key]}" for key in ("preset", "seed") if key in told.asked]
    if told.stats:
        last, total = told.stats[-1], number(told.run.get("total_nimg"))
        of = f" of {_kimg(total)}" if total and last["cur_nimg"] < total else ""
        facts += [f"{_kimg(last['cur_nimg'])}{of} kimg"]
        facts += [f"{_duration(last.get('elapsed_sec'))} of training"]
    if network := told.run.get("network"):
        side, channels = network.get("img_resolution"), network.get("img_channels")
        facts += [f"{side}×{side}, {'grey' if channels == 1 else 'RGB'}"]
        facts += [f"{network.get('num_classes') or 'no'} classes"]
    facts += [str(told.run["device"])] if "device" in told.run else []
    facts += ["no warnings"] if told.stats and not num_warnings else []
    yield from (f"<li>{escape(fact)}</li>" for fact in facts)


def _metrics(metrics: Row) -> str:
    names = [name for name in MEANINGS if number(metrics.get(name)) is not None]
    if not names:
        return markup.quiet("Not measured yet: the metrics come when training is over.")
    rows = [
        (f"<code>{escape(name)}</code>", *map(escape, _measured(metrics, name))) for name in names
    ]
    head = ("metric", "generator", "real images", "meaning")
    return (
        markup.table(head, rows)
        + _class_bars(metrics.get("class_accuracy_by_class", {}))
        + markup.quiet(
            f"On {metrics.get('num_samples', '?')} fakes against {metrics.get('num_reals', '?')} "
            f"held-out images; evaluator {metrics.get('evaluator', '?')}. Such numbers compare "
            "only with others of the same evaluator and the same count; none of them is FID."
        )
    )


def _measured(metrics: Row, name: str) -> tuple[str, str, str]:
    """Value with its standard error, what real images score, and both in words."""
    value, real, se = metrics[name], real_score(metrics, name), number(metrics.get(f"{name}_se"))
    show = "{:.1%}".format if name in _SHARES else "{:.4g}".format
    meaning = MEANINGS[name] + (" (lower is better)" if name in LOWER_IS_BETTER else "")
    if name.startswith("fd_") and real:
        meaning = f"{value / real:.1f} times the floor; {meaning}"
    error = "" if se is None else " ± " + (f"{se:.2%}" if name in _SHARES else f"{se:.2g}")
    shown = show(value) + error
    return shown, "–" if real is None else show(real), meaning


def _class_bars(by_class: dict[str, float]) -> str:
    """The classes and how often each is read as asked; the worst ones where there are many."""
    names = list(by_class)
    if len(names) > _MOST_CLASSES:
        names = sorted(names, key=by_class.__getitem__)[:_MOST_CLASSES]
    bars = markup.bars((name, by_class[name], f"{by_class[name]:.0%}") for name in names)
    which = "Each class" if len(names) == len(by_class) else f"The {len(names)} worst classes"
    return f"<p>{which}, read as asked:</p>{bars}" if bars else ""


def _pictures(grids: list[tuple[int, Path]], animation: bytes | None) -> str:
    if not grids:
        return markup.quiet("No pictures yet: the first ones come with the first snapshot.")
    ends = {"First": grids[0], "Newest": grids[-1]} if len(grids) > 1 else {"First": grids[0]}
    figures = [
        markup.figure(markup.uri(png, "png"), f"{which}, at {_kimg(nimg)} kimg")
        for which, (nimg, path) in ends.items()
        if (png := _fitted(path)) is not None
    ]
    if animation is not None:
        figures.append(markup.figure(markup.uri(animation, "webp"), "The way there", "moves"))
    same = markup.quiet("The same seeds each time; one class a column where there are 2 to 16.")
    return f'<div class="pictures">{"".join(figures)}</div>{same}'


def _fitted(path: Path) -> bytes | None:
    """A grid as PNG, of a size for a page; None if it cannot be read."""
    try:
        with Image.open(path) as grid:
            return png_of(fit(grid, MAX_SIDE, MAX_SIDE))
    except OSError:
        return None


def _curves(plots: list[Plot]) -> str:
    if not plots:
        return markup.quiet("No curves yet: stats.jsonl has no line so far.")
    images = "".join(
        f'<img class="plot" src="{markup.uri(plot.png, "png")}" alt="{escape(plot.title)}">'
        for plot in plots
    )
    return f'<div class="plots">{images}</div>'


def _settings(told: History) -> str:
    if not told.config:
        return markup.quiet("run.json is not there yet.")
    preset = told.asked.get("preset")
    if preset not in PRESETS:
        said = f"<p>There is no preset {escape(repr(preset))} here to compare with.</p>"
    elif changed := _changed(told):
        own = PRESETS[preset].to_json()
        rows = [
            (
                f"<code>{escape(k)}</code>",
                escape(markup.shown(v)),
                escape(markup.shown(own.get(k, "–"))),
            )
            for k, v in changed.items()
        ]
        said = markup.table(("setting", "this run", f"preset {preset}"), rows)
    else:
        said = f"<p>All as in the preset <code>{preset}</code>.</p>"
    every = markup.pairs(told.config)
    return f"{said}<details><summary>All settings</summary>{every}</details>"


def _events(events: list[Row]) -> str:
    if not events:
        return markup.quiet("Nothing out of the ordinary is on record.")
    rows = [
        (
            escape(_kimg(event["cur_nimg"])),
            escape(_duration(event.get("elapsed_sec"))),
            escape(str(event.get("event", "")).replace("_", " ")),
            escape(str(event.get("text", ""))),
        )
        for event in events
    ]
    return markup.table(("kimg", "after", "what", ""), rows)


def _reproduce(told: History) -> str:
    if not told.config:
        return markup.quiet("run.json is not there yet.")
    facts = {
        "dataset": told.run.get("dataset"),
        "dataset SHA-256": told.asked.get("dataset_hash"),
        "images to train on": told.run.get("total_nimg"),
        "length asked for": ", ".join(
            f"{v:g} {k}" for k, v in told.asked.get("length", {}).items() if v is not None
        ),
        "bf16": told.run.get("use_bf16"),
        "device": told.run.get("device"),
        "run": told.run.get("run_id"),
        "begun": told.run.get("created_at"),
    }
    return f"<pre>{escape(_command(told))}</pre>{markup.pairs(facts, 'settings long')}"


def _command(told: History) -> str:
    """The command that takes the same steps: minutes and precision as they were decided."""
    changed = _changed(told)
    if told.config.get("precision") == "auto":
        changed["precision"] = "bf16" if told.run.get("use_bf16") else "fp32"
    words = ["noisewell", "train", "--data", "IMAGES", "--run-dir", "FOLDER"]
    words += ["--preset", str(told.asked.get("preset")), "--seed", str(told.asked.get("seed"))]
    words += ["--kimg", f"{told.run.get('total_nimg', 0) / 1000:.10g}"]
    for key, value in changed.items():
        words += ["--set", f"{key}={markup.shown(value)}"]
    return shlex.join(words)


def _changed(told: History) -> Row:
    """The settings that are not the preset's."""
    preset = PRESETS.get(told.asked.get("preset", ""))
    own = preset.to_json() if preset else told.config
    return {k: v for k, v in told.config.items() if own.get(k) != v}


def _kimg(nimg: float) -> str:
    return f"{nimg / 1000:,.1f}"


def _duration(seconds: Any) -> str:
    sec = number(seconds)
    if sec is None:
        return "?"
    if sec < 120:
        return f"{sec:.0f} s"
    return f"{sec / 60:.0f} min" if sec < 7200 else f"{sec / 3600:.1f} h"
