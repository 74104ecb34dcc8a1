"""Model cards: what they tell, and that no name can break them."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from training.cards import MOST_ROWS, make_card, to_markdown
from training.metrics.meanings import MEANINGS
from training.promotion import should_promote

BUNDLED = Path(__file__).parents[2] / "training" / "model" / "bundled" / "mnist"
NASTY = [
    "a|b",
    "two\nlines",
    "`code`",
    "<script>alert(1)</script>",
    "[link](http://x)",
    "![picture](x.png)",
    "__bold__ *em* ~~gone~~",
    "&lt; \\ $x$",
    "---",
    "# title",
    'quote " and \\',
    "猫 \U0001f408",
    "back\u202ewards",
]


def metrics(names, **changes):
    told = {
        "num_samples": 5000,
        "num_reals": 5000,
        "first_seed": 0,
        "evaluator": "0123456789ab",
        "evaluator_kind": "labels",
        "fd_cnn": 3.0,
        "fd_cnn_floor": 1.5,
        "fd_cnn_se": 0.1,
        "coverage": 0.81,
        "coverage_reals": 0.97,
        "coverage_se": 0.01,
        "class_accuracy": 0.9,
        "class_accuracy_reals": 0.99,
        "class_accuracy_se": 0.003,
        "class_accuracy_by_class": dict.fromkeys(names, 0.9),
        "class_share": dict.fromkeys(names, 1 / max(1, len(names))),
        "memorised": 0.02,
        "memorised_reals": 0.01,
        "memorised_se": 0.002,
    }
    return {name: value for name, value in {**told, **changes}.items() if value is not None}


def manifest(names, **lineage):
    return {
        "network": {"img_resolution": 32, "img_channels": 3},
        "class_names": list(names),
        "num_parameters": 1234567,
        "digest": "d" * 64,
        "lineage": {
            "dataset": "pets",
            "dataset_hash": "a" * 64,
            "num_images": 4000,
            "num_heldout": 400,
            "class_counts": dict.fromkeys(names, 500),
            "licence": "CC BY 4.0",
            "job": "job_1",
            "preset": "cpu32",
            "changed_settings": {"gamma": 0.1, "widths": [8, 4]},
            "seed": 3,
            "cur_nimg": 250_000,
            "train_sec": 600.4,
            "code_version": "0.1.0",
            **lineage,
        },
    }


def parsed(markdown: str) -> tuple[str, list[Token]]:
    """Front matter, and the tokens of the rest as CommonMark with tables reads it."""
    _, front, body = markdown.split("---\n", 2)
    return front, MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)


def cells(tokens: list[Token]) -> list[list[str]]:
    """The text of every table cell, row by row."""
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("td_open", "th_open"):
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def test_a_card_tells_data_recipe_and_each_number_beside_that_of_real_images():
    card = make_card(manifest(["cat", "dog"]), metrics(["cat", "dog"]), ["samples.png", "x.json"])
    assert card["data"]["licence"] == "CC BY 4.0"
    assert card["recipe"]["changed_settings"] == {"gamma": 0.1, "widths": [8, 4]}
    assert card["numbers"]["fd_cnn"] == {
        "value": 3.0,
        "standard_error": 0.1,
        "real_images": 1.5,
    }
    assert card["classes"]["dog"] == {"class_accuracy_by_class": 0.9, "class_share": 0.5}
    _, tokens = parsed(to_markdown(card))
    rows = cells(tokens)
    assert ["fd_cnn", MEANINGS["fd_cnn"], "lower", "3", "0.1", "1.5"] in rows
    assert ["coverage", MEANINGS["coverage"], "higher", "0.81", "0.01", "0.97"] in rows
    assert ["settings that differ from the preset", "gamma=0.1, widths=[8, 4]"] in rows
    assert ["licence of the data", "CC BY 4.0"] in rows
    assert ["dog", "0.9", "0.5"] in rows
    (copies,) = [row for row in rows if row[0] == "memorised"]
    assert copies[2:] == ["lower", "0.02", "0.002", "0.01"]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_breaks_a_card(name):
    names = [name, "plain"]
    told = metrics(names, class_accuracy_by_class={name: 0.1, "plain": 0.9})
    card = make_card(manifest(names, dataset=name, licence=name), told)
    assert json.loads(json.dumps(card))["classes"][name]["class_accuracy_by_class"] == 0.1
    markdown = to_markdown(card)
    front, tokens = parsed(markdown)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    rows = cells(tokens)
    assert ["dataset", shown] in rows
    assert ["2 classes", f"{shown}, plain"] in rows
    assert [shown, "0.1", "0.5"] in rows
    assert len(front.splitlines()) == 5
    inline = [child.type for token in tokens for child in token.children or []]
    assert set(inline) <= {"text", "text_special", "softbreak", "image"}
    assert not any(token.type.startswith("html") for token in tokens)
    headings = [b.content for a, b in pairwise(tokens) if a.tag == "h2"]
    assert [h for h in headings if h] == ["Data", "Recipe", "Measured", "Limits", "Lineage"]


@pytest.mark.parametrize("name", NASTY)
def test_the_front_matter_holds_names_as_quoted_scalars(name):
    front, _ = parsed(to_markdown(make_card(manifest([], licence=name), metrics([]))))
    (line,) = [line for line in front.splitlines() if line.startswith("licence: ")]
    scalar = line.removeprefix("licence: ")
    assert (scalar[0], scalar[-1]) == ('"', '"')
    inner = scalar[1:-1]
    assert '"' not in inner
    assert inner.isprintable()
    # YAML's \UXXXXXXXX is Python's.
    assert inner.encode("raw_unicode_escape").decode("unicode_escape") == name


def limits(names=(), counts=None, **changes):
    about = manifest(names) if counts is None else manifest(names, class_counts=counts)
    return make_card(about, metrics(names, **changes))["limits"]


NO_CLASSES = dict.fromkeys(
    ("class_accuracy", "class_accuracy_by_class", "class_share", "class_accuracy_reals")
)


def test_limits_follow_from_the_numbers():
    told = limits(["cat", "dog"])
    assert "Its Fréchet distance to real images is 2.0 times that of other real images." in told
    assert any("come near to 81.0% of the held-out ones, other real images to 97.0%" in t
               for t in told)  # fmt: skip
    assert "10.0% of its images are read as another class, as are 1.0% of real images." in told
    assert any(
        t.startswith("2.0% of its images are as close to a training image as 1.0%") for t in told
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_accuracy_by_class": {"cat": 0.3, "dog": 0.9, "cow": 0.8}},
         "Classes seldom read as asked: cat (30%); the median class is at 80%."),
        ({"counts": {"cat": 12, "dog": 500, "cow": 9}},
         "Few images of some classes, which may come out poor or repeated: cow (9), cat (12)."),
        ({"num_samples": 120}, "The numbers rest on 120 images and are rough."),
        ({"memorised": None},
         "Whether its images are too close to training images was not measured."),
    ],
)  # fmt: skip
def test_a_limit_is_told_where_it_is_one_and_only_there(changes, said):
    names = ["cat", "dog", "cow"]
    assert said in limits(names, **changes)
    assert said not in limits(names)


def test_classes_that_are_nearly_as_good_as_the_others_are_not_named():
    told = limits(["a", "b", "c"], class_accuracy_by_class={"a": 0.85, "b": 0.9, "c": 0.95})
    assert not any("seldom" in t for t in told)


def test_an_unlabelled_generator_says_that_it_has_no_classes():
    told = limits([], **NO_CLASSES)
    assert "It has no classes: one cannot ask for a kind of image." in told
    _, tokens = parsed(to_markdown(make_card(manifest([]), metrics([], **NO_CLASSES))))
    assert ["0 classes", "none: unconditional"] in cells(tokens)


def test_a_card_shows_the_pictures_that_are_there():
    files = ["samples.png", "memorisation.png", "metrics.json"]
    with_both = to_markdown(make_card(manifest([]), metrics([]), files))
    assert "![Its images closest to training images](memorisation.png)" in with_both
    assert ".png" not in to_markdown(make_card(manifest([]), metrics([])))


@pytest.mark.parametrize("champion", [None, 1])
def test_a_card_tells_the_decision_and_its_checks(champion):
    names = ["cat", "dog"]
    old = None if champion is None else metrics(names, fd_cnn=2.0)
    decision = should_promote(metrics(names), old)
    promotion = {"decision": asdict(decision), "champion": champion, "champion_metrics": old}
    about = {**manifest(names), "promotion": promotion}
    markdown = to_markdown(make_card(about, metrics(names)))
    rows = cells(parsed(markdown)[1])
    assert ["finite", "passed", "all its numbers are finite"] in rows
    if champion is None:
        assert "Decision: promote it; the first version of the model." in markdown
    else:
        assert ["fd_cnn", "failed", decision.reason] in rows
        assert f"Decision: keep the champion; {decision.reason}." in markdown
        assert ["compared with", "version 1, the champion then"] in rows
    assert "fd_errors=1, loss_errors=3" in markdown


def test_a_thousand_classes_do_not_flood_the_card():
    names = [f"kind {i}" for i in range(1000)]
    card = make_card(manifest(names), metrics(names))
    assert len(card["classes"]) == 1000
    markdown = to_markdown(card)
    assert markdown.count("\n| kind ") == MOST_ROWS
    assert "900 more classes are in card.json." in markdown


def test_versions_from_before_cards_of_this_kind_get_one_too():
    about = json.loads((BUNDLED / "manifest.json").read_text("utf-8"))
    measured = json.loads((BUNDLED / "metrics.json").read_text("utf-8"))
    for told_later in ("licence", "class_counts", "changed_settings", "average"):
        about["lineage"].pop(told_later, None)
    rows = cells(parsed(to_markdown(make_card(about, measured)))[1])
    assert ["licence of the data", "not stated"] in rows
    assert any(row[0] == "fd_cnn" for row in rows)


def test_a_version_of_which_little_is_known_gets_a_card(make_files):
    files, about = make_files()
    card = make_card({**about, "digest": "d" * 64}, {"fd_cnn": 1.5}, files)
    rows = cells(parsed(to_markdown(card))[1])
    assert ["dataset", "toys"] in rows
    assert [
        "fd_cnn",
        "Fréchet distance of the evaluator's features",
        "lower",
        "1.5",
        "",
        "",
    ] in rows
