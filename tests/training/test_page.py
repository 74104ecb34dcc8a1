import shlex
from dataclasses import replace
from html import unescape

from training.config import override
from training.history import History
from training.model.settings import parse_overrides
from training.page import page_of
from training.presets import PRESETS


def told(preset: str = "tiny", **config: object) -> History:
    asked = {
        "preset": preset,
        "seed": 3,
        "config": {**PRESETS["tiny"].to_json(), **config},
        "length": {"minutes": 0.5, "kimg": None},
        "dataset_hash": "cb3d25fb",
    }
    run = {"dataset": "digits", "asked": asked, "use_bf16": True, "total_nimg": 10_240}
    return History(run, {}, {}, {}, [], [], [], [])


def page(history: History) -> str:
    return page_of(history, plots=[], animation=None, written="2026-01-01")


def measured(**metrics: object) -> str:
    return page(History({}, {}, metrics, {}, [], [], [], []))


def command(history: History) -> list[str]:
    return shlex.split(unescape(page(history).split("<pre>")[1].split("</pre>")[0]))


def test_the_command_asks_for_the_settings_that_the_run_had():
    words = command(told(gamma=0.7, widths=[32, 16], loss="hinge", mirror=True, precision="fp32"))
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    again = override(PRESETS["tiny"], parse_overrides(settings))
    wanted = {"gamma": 0.7, "widths": (32, 16), "loss": "hinge", "mirror": True}
    assert again == replace(PRESETS["tiny"], **wanted, precision="fp32")
    assert " ".join(words).startswith("noisewell train --data IMAGES --run-dir FOLDER")
    assert "--preset tiny --seed 3 --kimg 10.24" in " ".join(words)


def test_minutes_and_precision_are_given_as_they_were_decided():
    words = command(told(precision="auto"))
    assert "--minutes" not in words
    assert words[-2:] == ["--set", "precision=bf16"]


def test_what_differs_from_the_preset_comes_before_all_settings():
    html = page(told(gamma=0.7))
    changed, every = html.split("<h2>Settings</h2>")[1].split("All settings")
    assert "<code>gamma</code></td><td>0.7</td><td>0.05</td>" in changed
    assert "lr_g" not in changed
    assert "lr_g" in every


def test_a_run_of_plain_settings_says_so():
    assert "All as in the preset <code>tiny</code>" in page(told())


def test_a_preset_that_is_no_more_is_said_and_breaks_nothing():
    assert "There is no preset &#x27;gone&#x27; here" in page(told(preset="gone"))


def test_a_metric_nobody_described_is_shown_with_what_reals_score():
    html = measured(kid=0.0123456, kid_floor=0.001, num_samples=400)
    assert "<code>kid</code></td><td>0.01235</td><td>0.001</td>" in html
    assert "<code>num_samples</code>" not in html


def test_a_metric_without_a_floor_shows_none():
    assert "<code>kid</code></td><td>0.5</td><td>–</td>" in measured(kid=0.5)


def test_of_many_classes_the_worst_are_shown():
    html = measured(fd_cnn=1.0, class_accuracy_by_class={f"c{i}": i / 100 for i in range(100)})
    assert "The 30 worst classes" in html
    assert html.count('class="bars"') == 1
    assert html.count("<li><span") == 30
    assert ">c0<" in html
    assert ">c30<" not in html


def test_a_sound_run_says_that_it_has_no_warnings():
    history = told()
    sound = History(history.run, {}, {}, {}, [{"cur_nimg": 64, "elapsed_sec": 1}], [], [], [])
    assert "<li>no warnings</li>" in page(sound)
    assert "no warnings" not in page(history)


def test_times_are_told_in_the_unit_a_person_would_use():
    for sec, said in ((59, "59 s of"), (600, "10 min of"), (36_000, "10.0 h of"), (None, "? of")):
        stats = [{"cur_nimg": 64, "elapsed_sec": sec}]
        assert said in page(History({}, {}, {}, {}, stats, [], [], []))
