"""Owns the model card: what a version is, what it was made from and how good it is.

`make_card` gathers it for programs (card.json), `to_markdown` tells it to people (card.md). Both
tell what there is: the manifests and reports of older versions lack some of it.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from training.history import number, real_score
from training.metrics.meanings import LOWER_IS_BETTER, MEANINGS

Row = Mapping[str, Any]

CLASS_COLUMNS = {
    "class_accuracy_by_class": "read as asked",
    "class_accuracy_by_class_reals": "real ones read right",
    "class_share": "share of its images",
    "class_share_reals": "share of real ones",
}
_MEASURED_ON = ("num_samples", "num_reals", "first_seed", "evaluator", "evaluator_kind")

FEW_SAMPLES = 1000  # a share of one half has a standard error of 1.6 points then
FEW_OF_A_CLASS = 100  # fewer, and a conditional G repeats them: Karras et al. 2020
CLASS_BEHIND = 0.1  # of a class's accuracy, below that of the median class
NAMED_CLASSES = 5
MOST_ROWS = 100


@dataclass(frozen=True)
class Measured:
    """A number of the generator, its error, and what real images score; None: not measured."""

    value: float
    standard_error: float | None
    real_images: float | None


def make_card(manifest: Row, metrics: Row, files: Collection[str] = ()) -> dict[str, Any]:
    """The card as plain JSON values. files: the names of the version's files."""
    lineage: Row = manifest["lineage"]
    network: Row = manifest["network"]
    size, kind = network["img_resolution"], "grey" if network["img_channels"] == 1 else "colour"
    return {
        "format": 1,
        "title": f"A generator of {size}×{size} {kind} images",
        "data": {
            "dataset": lineage.get("dataset"),
            "hash": lineage.get("dataset_hash"),
            "licence": lineage.get("licence"),
            "num_images": lineage.get("num_images"),
            "num_heldout": lineage.get("num_heldout"),
            "class_names": manifest["class_names"],
            "class_counts": lineage.get("class_counts"),
        },
        "recipe": {
            "preset": lineage.get("preset"),
            "changed_settings": lineage.get("changed_settings"),
            "seed": lineage.get("seed"),
            "cur_nimg": lineage.get("cur_nimg"),
            "train_sec": lineage.get("train_sec"),
            "num_parameters": manifest["num_parameters"],
            "sha256": manifest["digest"],
        },
        "measured_on": {name: metrics[name] for name in _MEASURED_ON if name in metrics},
        "numbers": {name: asdict(m) for name in MEANINGS if (m := _measured(metrics, name))},
        "classes": _classes(metrics),
        "limits": list(_limits(manifest, metrics)),
        "lineage": {
            "parent": _parent(lineage),
            "job": lineage.get("job"),
            "code_version": lineage.get("code_version"),
            "promotion": manifest.get("promotion"),
        },
        "pictures": sorted(name for name in files if name.endswith(".png")),
    }


def _parent(lineage: Row) -> str | None:
    base = lineage.get("base")
    return None if base is None else f"{base['version']} ({base['digest'][:12]})"


def _measured(metrics: Row, name: str) -> Measured | None:
    value = number(metrics.get(name))
    if value is None:
        return None
    return Measured(value, number(metrics.get(f"{name}_se")), real_score(dict(metrics), name))


def _classes(metrics: Row) -> dict[str, dict[str, float]]:
    """Of each class, what the report's tables by class hold of it."""
    found: dict[str, dict[str, float]] = {}
    for column in CLASS_COLUMNS:
        for name, share in (metrics.get(column) or {}).items():
            found.setdefault(name, {})[column] = share
    return found


# The limits that follow from the numbers


def _limits(manifest: Row, metrics: Row) -> Iterator[str]:
    yield "It knows its training images and nothing else: what they lack or favour, so does it."
    yield from _distance(_measured(metrics, "fd_cnn"))
    yield from _coverage(_measured(metrics, "coverage"))
    if not manifest["class_names"]:
        yield "It has no classes: one cannot ask for a kind of image."
    yield from _class_accuracy(_measured(metrics, "class_accuracy"))
    yield from _weak_classes(metrics.get("class_accuracy_by_class") or {})
    yield from _rare_classes(manifest["lineage"].get("class_counts") or {})
    yield _copies(_measured(metrics, "memorised"))
    samples = number(metrics.get("num_samples"))
    if samples is not None and samples < FEW_SAMPLES:
        yield f"The numbers rest on {samples} images and are rough."


def _distance(fd: Measured | None) -> Iterator[str]:
    if fd and fd.real_images:
        yield (
            f"Its Fréchet distance to real images is {fd.value / fd.real_images:.1f} times that of "
            "other real images."
        )


def _coverage(coverage: Measured | None) -> Iterator[str]:
    if coverage and coverage.real_images and coverage.value < coverage.real_images:
        yield (
            f"It does not make all there is: its images come near to {coverage.value:.1%} of the "
            f"held-out ones, other real images to {coverage.real_images:.1%}."
        )


def _class_accuracy(accuracy: Measured | None) -> Iterator[str]:
    if accuracy:
        reals = accuracy.real_images
        beside = "" if reals is None else f", as are {1 - reals:.1%} of real images"
        yield f"{1 - accuracy.value:.1%} of its images are read as another class{beside}."


def _weak_classes(accuracy: Mapping[str, float]) -> Iterator[str]:
    middle = median(accuracy.values()) if accuracy else 0.0
    weak = [name for name, share in accuracy.items() if share < middle - CLASS_BEHIND]
    if weak:
        weak.sort(key=accuracy.__getitem__)
        named = _listed([f"{name} ({accuracy[name]:.0%})" for name in weak])
        yield f"Classes seldom read as asked: {named}; the median class is at {middle:.0%}."


def _rare_classes(counts: Mapping[str, int]) -> Iterator[str]:
    rare = [name for name, count in counts.items() if count < FEW_OF_A_CLASS]
    if rare:
        rare.sort(key=counts.__getitem__)
        named = _listed([f"{name} ({counts[name]})" for name in rare])
        yield f"Few images of some classes, which may come out poor or repeated: {named}."


def _copies(memorised: Measured | None) -> str:
    if memorised is None:
        return "Whether its images are too close to training images was not measured."
    reals = 0.01 if memorised.real_images is None else memorised.real_images
    return (
        f"{memorised.value:.1%} of its images are as close to a training image as {reals:.1%} of "
        "held-out ones are. A copy that was shifted or recoloured would not be noticed."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    return ", ".join(names[:NAMED_CLASSES]) + more


# Markdown


def to_markdown(card: Row) -> str:
    """The card as Markdown with a front matter in YAML; names from users are text in both."""
    return "\n".join(
        [
            *_front_matter(card),
            f"# {card['title']}",
            "",
            "It makes synthetic images; none of them is a photograph.",
            *_picture("samples.png", "Samples with fixed seeds", card),
            *_section("Data", _pairs(_data(card["data"]))),
            *_section("Recipe", _pairs(_recipe(card["recipe"]))),
            *_section("Measured", _measurements(card)),
            *_section("Limits", [f"- {_text(limit)}" for limit in card["limits"]]),
            *_picture("memorisation.png", "Its images closest to training images", card),
            *_section("Lineage", _lineage(card["lineage"])),
            "",
        ]
    )


def _front_matter(card: Row) -> Iterator[str]:
    yield "---"
    yield "library_name: noisewell"
    yield "pipeline_tag: unconditional-image-generation"
    yield "tags: [gan, image-generation]"
    yield f"dataset: {_quoted(str(card['data']['dataset']))}"
    yield f"licence: {_quoted(_licence(card['data']))}"
    yield "---"


def _quoted(text: str) -> str:
    """A double-quoted YAML scalar of one line."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'


def _text(value: Any) -> str:
    """`value` as Markdown text of one line, in a table too, that shows what it holds."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    return _SPECIAL.sub(r"\\\g<0>", "".join(shown))


# An underscore within a word, as in fd_cnn, means nothing.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")


def _licence(data: Row) -> str:
    return data["licence"] or "not stated"


def _section(title: str, lines: Collection[str] | Iterator[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _picture(name: str, alt: str, card: Row) -> list[str]:
    return ["", f"![{alt}]({name})"] if name in card["pictures"] else []


def _table(head: Collection[str], rows: Collection[Collection[Any]]) -> list[str]:
    cells = [[_text(cell) for cell in row] for row in rows]
    lines = [list(head), ["---"] * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def _pairs(pairs: Iterator[tuple[str, Any]]) -> list[str]:
    return _table(("", ""), [(name, value) for name, value in pairs if value is not None])


def _data(data: Row) -> Iterator[tuple[str, Any]]:
    names = data["class_names"]
    shown = ", ".join(names[:MOST_ROWS]) + (", …" if len(names) > MOST_ROWS else "")
    yield "dataset", data["dataset"]
    yield "SHA-256 of its images", data["hash"]
    yield "images", data["num_images"]
    yield "of them held out from training", data["num_heldout"]
    yield f"{len(names)} classes", shown or "none: unconditional"
    yield "licence of the data", _licence(data)


def _recipe(recipe: Row) -> Iterator[tuple[str, Any]]:
    changed = recipe["changed_settings"]
    yield "preset", recipe["preset"]
    if changed is not None:
        settings = (f"{name}={json.dumps(value)}" for name, value in changed.items())
        yield "settings that differ from the preset", ", ".join(settings) or "none"
    yield "seed", recipe["seed"]
    if recipe["cur_nimg"] is not None:
        yield "trained on", f"{recipe['cur_nimg'] / 1000:,.1f} kimg"
    if recipe["train_sec"] is not None:
        yield "trained for", f"{recipe['train_sec']:.0f} s"
    yield "parameters of G", f"{recipe['num_parameters']:,}"
    yield "SHA-256 of the weights", recipe["sha256"]


def _measurements(card: Row) -> Iterator[str]:
    on = card["measured_on"]
    yield (
        f"On {on.get('num_samples', 'some')} samples, by the features of a small CNN that was "
        f"trained on this dataset (evaluator {_text(on.get('evaluator', 'not known'))}). These "
        "numbers are not FID, and compare only with those of the same evaluator."
    )
    yield ""
    head = ("number", "what it says", "better if", "generator", "standard error", "real images")
    numbers: Mapping[str, Row] = card["numbers"]
    yield from _table(head, [(name, *_measurement(name, row)) for name, row in numbers.items()])
    if card["classes"]:
        yield ""
        yield from _class_table(card["classes"])


def _measurement(name: str, row: Row) -> Iterator[str]:
    yield MEANINGS[name]
    yield "lower" if name in LOWER_IS_BETTER else "higher"
    yield from (_figure(row[part]) for part in ("value", "standard_error", "real_images"))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _class_table(classes: Mapping[str, Row]) -> Iterator[str]:
    columns = [c for c in CLASS_COLUMNS if any(c in row for row in classes.values())]
    rows = [(name, *(_figure(row.get(c)) for c in columns)) for name, row in classes.items()]
    yield from _table(("class", *(CLASS_COLUMNS[c] for c in columns)), rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        yield ""
        yield f"{len(rows) - MOST_ROWS} more classes are in card.json."


def _lineage(lineage: Row) -> Iterator[str]:
    promotion = lineage["promotion"]
    yield from _pairs(_origin(lineage, promotion and promotion["champion"]))
    if promotion:
        yield from _decision(promotion["decision"])


def _origin(lineage: Row, champion: int | None) -> Iterator[tuple[str, Any]]:
    yield "parent", lineage["parent"] or "none: trained from noise"
    yield "job", lineage["job"]
    yield "version of noisewell", lineage["code_version"]
    yield "compared with", None if champion is None else f"version {champion}, the champion then"


def _decision(decision: Row) -> Iterator[str]:
    verdict = "promote it" if decision["promote"] else "keep the champion"
    yield ""
    yield f"Decision: {verdict}; {_text(decision['reason'])}."
    yield ""
    rows = [(c["name"], _VERDICTS[c["passed"]], c["sentence"]) for c in decision["checks"]]
    yield from _table(("check", "", "found"), rows)
    yield ""
    rules = ", ".join(f"{name}={value:g}" for name, value in decision["rules"].items())
    yield f"Rules: {_text(rules)}; promote is {decision['policy']}."


_VERDICTS = {True: "passed", False: "failed", None: "not measured"}
