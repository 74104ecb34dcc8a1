"""Owns the page that tells of an import: report.html, which asks for nothing outside itself."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import markup
from training.data.packing import IMAGES
from training.data.rows import Rows, open_rows
from training.data.sheet import MAX_CLASSES, Thumbnails, sheet, thumbnails
from training.data.verdicts import read_verdicts
from training.model.files import write_atomic
from training.pictures import png_bytes

PAGE, THUMBNAILS = "report.html", "thumbnails.png"
_TEMPLATE = Path(__file__).with_name("report.html.template")
_MOST_CLASSES = 60
_MOST_PAIRS = 18
_MOST_REASONS = 30
_EXAMPLES = 3
# When a person should be told.
_UNBALANCED, _FEW, _FEW_OF_A_CLASS, _BAD_SHARE, _COPIED_SHARE = 10, 1000, 50, 0.1, 0.05

Manifest = Mapping[str, Any]


def write_account(folder: Path, manifest: Manifest, labels: NDArray[np.int64] | None) -> None:
    """Write report.html and thumbnails.png of the packed dataset in `folder`."""
    with open_rows(folder / IMAGES) as rows:
        groups = thumbnails(rows, labels, len(manifest["class_names"]))
        write_atomic(folder / THUMBNAILS, png_bytes(sheet(groups)))
        page = page_of(manifest, groups, _alike(rows, folder, manifest))
    write_atomic(folder / PAGE, page.encode("utf-8", "replace"))


def page_of(manifest: Manifest, groups: Sequence[Thumbnails], alike: str) -> str:
    """The page as HTML; every text of the dataset is escaped. alike: HTML of what is twice."""
    return Template(_TEMPLATE.read_text("utf-8")).substitute(
        style=markup.style(),
        title=escape(manifest["name"]),
        facts="".join(f"<li>{escape(fact)}</li>" for fact in _facts(manifest)),
        warnings=markup.warnings(list(warnings_of(manifest))),
        images=_images(manifest, groups),
        classes=_classes(manifest["counts"]),
        files=_files(manifest),
        alike=alike,
        made=markup.pairs(_made(manifest), "settings long"),
    )


def warnings_of(manifest: Manifest) -> Iterator[str]:
    """What a person should look at before training, in plain words."""
    images, counts = manifest["num_images"], manifest["counts"]
    if images < _FEW:
        yield (
            f"{images:,} images are few. Below {_FEW:,} a generator begins to repeat them:"
            " augmentation (augment=ada with augment_p=0.3) and a look at `memorised` in the"
            " metrics are worth it."
        )
    if counts:
        least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        if counts[most] >= _UNBALANCED * counts[least]:
            yield (
                f"Class {most!r} has {counts[most]:,} images and {least!r} has {counts[least]:,}."
                " Train with class_balance=true to have all classes seen equally often."
            )
        if small := [name for name, count in counts.items() if count < _FEW_OF_A_CLASS]:
            yield (
                f"{len(small)} of {len(counts)} classes have fewer than {_FEW_OF_A_CLASS} images,"
                f" {', '.join(map(repr, small[:5]))}{', …' if len(small) > 5 else ''}: their"
                " samples will be copies or bad."
            )
    files = manifest["accepted"] + manifest["rejected"]
    if manifest["rejected"] > _BAD_SHARE * files:
        yield f"{manifest['rejected']:,} of {files:,} files were rejected; the reasons are below."
    if (copied := manifest["duplicates"] + manifest["near_duplicates"]) > _COPIED_SHARE * images:
        yield (
            f"{copied:,} of {images:,} images are, or nearly are, another one. They count twice in"
            " training, and near copies can stand on both sides of the held-out split."
        )


def _facts(manifest: Manifest) -> Iterator[str]:
    side, channels = manifest["resolution"], manifest["channels"]
    yield f"{manifest['num_images']:,} images"
    yield f"{side}×{side}, {'grey' if channels == 1 else 'RGB'}"
    yield f"{len(manifest['class_names']) or 'no'} classes"
    yield f"{manifest['num_heldout']:,} held out"
    if licence := manifest["licence"]:
        yield str(licence)


def _images(manifest: Manifest, groups: Sequence[Thumbnails]) -> str:
    names = manifest["class_names"]
    if not names:
        return f'<div class="strips all"><img src="{_uri(sheet(groups))}" alt="images"></div>'
    strips = "".join(
        markup.figure(_uri(sheet([group])), f"{name} · {manifest['counts'][name]:,}")
        for name, group in zip(names, groups, strict=False)
    )
    more = f"The first {MAX_CLASSES} of {len(names):,} classes." if len(names) > MAX_CLASSES else ""
    return f'<div class="strips">{strips}</div>{markup.quiet(more) if more else ""}'


def _classes(counts: Mapping[str, int]) -> str:
    if not counts:
        return markup.quiet("The images have no classes; folders or a label file would give them.")
    names = sorted(counts, key=lambda name: -counts[name])
    most, shown = max(counts.values()), names[:_MOST_CLASSES]
    bars = markup.bars((name, counts[name] / most, f"{counts[name]:,}") for name in shown)
    more = len(names) - len(shown)
    return bars + (markup.quiet(f"And {more:,} smaller ones.") if more else "")


def _files(manifest: Manifest) -> str:
    taken = manifest["accepted"] - manifest["converted"]
    rows = [
        ("accepted as they are", f"{taken:,}", ""),
        ("converted", f"{manifest['converted']:,}", escape(_conversions(manifest))),
        ("rejected", f"{manifest['rejected']:,}", ""),
    ]
    return markup.table(("files", "", ""), rows) + _rejections(manifest)


def _conversions(manifest: Manifest) -> str:
    found = manifest["conversions"].items()
    return ", ".join(f"{name} {n:,}" for name, n in sorted(found, key=lambda item: -item[1]))


def _rejections(manifest: Manifest) -> str:
    """Why files were rejected, each reason with its number and some names."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for rejection in manifest["rejections"]:
        by_reason[rejection["reason"]].append(rejection["file"])
    if not by_reason:
        return ""
    reasons = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    rows = [
        (escape(reason), f"{len(files):,}", escape(_some(files)))
        for reason, files in reasons[:_MOST_REASONS]
    ]
    of = f"Of the first {len(manifest['rejections']):,}. " if _is_cut(manifest) else ""
    more = f"And {len(reasons) - _MOST_REASONS:,} more reasons." if len(reasons) > len(rows) else ""
    note = markup.quiet(of + more) if of or more else ""
    return markup.table(("why rejected", "files", "which"), rows) + note


def _is_cut(manifest: Manifest) -> bool:
    return len(manifest["rejections"]) < manifest["rejected"]


def _some(files: Sequence[str]) -> str:
    more = f" and {len(files) - _EXAMPLES:,} more" if len(files) > _EXAMPLES else ""
    return ", ".join(files[:_EXAMPLES]) + more


def _alike(rows: Rows, folder: Path, manifest: Manifest) -> str:
    """How many images are twice, and the first near copies beside what they are near to."""
    copies, near = manifest["duplicates"], manifest["near_duplicates"]
    if not copies and not near:
        return markup.quiet("None was found.")
    said = f"<p>{copies:,} exact copies and {near:,} near copies. All stay in the dataset.</p>"
    found = (v for v in read_verdicts(folder) if "near_duplicate_of" in v)
    figures = "".join(
        markup.figure(
            _uri(sheet([rows.take(np.array([v["near_duplicate_of"], v["index"]]))])), v["file"]
        )
        for v in islice(found, _MOST_PAIRS)
    )
    return said + (f'<div class="alike">{figures}</div>' if figures else "")


def _made(manifest: Manifest) -> dict[str, Any]:
    base, statistics = manifest["appended_to"], manifest["statistics"]
    return {
        "source": manifest["source"],
        "added to": f"{base['name']}, {base['num_images']:,} images" if base else "nothing",
        "only the classes": ", ".join(manifest["classes"]) if manifest["classes"] else "all",
        "of each class": manifest["max_per_class"] or "all",
        "mean of each channel": statistics["mean"],
        "its standard deviation": statistics["std"],
        "SHA-256": manifest["hash"],
        "when": manifest["created_at"],
    }


def _uri(pixels: NDArray[np.uint8]) -> str:
    return markup.uri(png_bytes(pixels), "png")
