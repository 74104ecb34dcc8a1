import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from training.presets import PRESETS
from training.report import write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page is made of; fails on a tag that is not closed in its turn."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed((run_dir / "report.html").read_text("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def begin(run_dir: Path, dataset: str = "digits") -> None:
    """What a run leaves before its first step."""
    write_json(
        run_dir / "run.json",
        {
            "dataset": dataset,
            "device": "cpu",
            "run_id": "run-1",
            "asked": {
                "preset": "tiny",
                "config": {**PRESETS["tiny"].to_json(), "gamma": 0.7},
                "length": {"minutes": 0.5, "kimg": None},
                "seed": 3,
                "dataset_hash": "cb3d25fb",
            },
            "network": {"img_resolution": 28, "img_channels": 1, "num_classes": 2},
            "use_bf16": False,
            "total_nimg": 10_240,
        },
    )
    write_json(run_dir / "progress.json", {"phase": "training"})


def train(run_dir: Path, ticks: int = 40) -> None:
    """What it leaves half way."""
    names = ("loss_D", "loss_G", "r1", "r2", "logit_gap", "augment_p")
    rows = [
        {
            **dict.fromkeys(names, 1.0 + i % 3),
            "cur_nimg": 128 * (i + 1),
            "total_nimg": 10_240,
            "images_per_sec": 400.0,
            "eta_sec": 9.0,
            "elapsed_sec": i * 1.0,
        }
        for i in range(ticks)
    ]
    write_lines(run_dir / "stats.jsonl", rows)
    (run_dir / "samples").mkdir()
    for i in range(3):
        path = run_dir / "samples" / f"{1024 * (i + 1):012d}.png"
        Image.new("L", (56, 224), 100 + 50 * i).save(path)


def finish(run_dir: Path) -> None:
    """What it leaves in the end."""
    write_json(
        run_dir / "metrics.json",
        {
            "num_samples": 400,
            "evaluator": "751c1d6b09b6",
            "fd_cnn": 3.0,
            "fd_cnn_floor": 1.5,
            "fd_cnn_se": 0.25,
            "class_accuracy": 0.91,
            "class_accuracy_reals": 0.98,
            "class_accuracy_by_class": {"cat": 0.9, "dog": 0.92},
        },
    )
    evaluations = [
        {"cur_nimg": 1024 * i, "elapsed_sec": i, "fd_cnn": 9 / i, "fd_cnn_floor": 1.5, "note": "x"}
        for i in range(1, 4)
    ]
    write_lines(run_dir / "metrics.jsonl", evaluations)
    events = [{"cur_nimg": 2048, "elapsed_sec": 5, "event": "resumed", "text": "from 2.0 kimg"}]
    write_lines(run_dir / "events.jsonl", events)
    write_json(run_dir / "progress.json", {"phase": "done"})


def plots(run_dir: Path) -> set[str]:
    return {path.stem for path in (run_dir / "plots").iterdir()}


def test_an_empty_folder_gets_a_page_that_says_what_is_not_there_yet(tmp_path):
    write_report(tmp_path, final=False)
    page = Page(tmp_path)
    for missing in (
        "run.json is not there yet",
        "No curves yet",
        "No pictures yet",
        "Not measured",
    ):
        assert missing in page.text
    assert plots(tmp_path) == set()


def test_a_run_on_its_way_shows_how_far_it_is(tmp_path):
    begin(tmp_path)
    train(tmp_path)
    write_report(tmp_path, final=False)
    page = Page(tmp_path)
    assert "not finished: training" in page.text
    assert "5.1 of 10.2 kimg" in page.text
    assert "Not measured yet" in page.text
    assert plots(tmp_path) == {"losses", "penalties", "logit_gap", "speed", "augment_p"}
    assert not (tmp_path / "samples.webp").exists()
    assert page.tags.count("img") == 2 + 5


def test_a_finished_run_shows_its_metrics_beside_their_floors_and_what_happened(tmp_path):
    begin(tmp_path)
    train(tmp_path)
    finish(tmp_path)
    write_report(tmp_path, final=True)
    page = Page(tmp_path)
    for told in ("finished", "3 ± 0.25", "2.0 times the floor", "91.0%", "98.0%", "from 2.0 kimg"):
        assert told in page.text
    assert {"fd_cnn_by_images", "fd_cnn_by_seconds"} <= plots(tmp_path)
    assert (tmp_path / "samples.webp").is_file()
    assert page.tags.count("img") == 3 + 7


def test_the_page_asks_for_nothing_outside_itself(tmp_path):
    begin(tmp_path)
    train(tmp_path)
    finish(tmp_path)
    write_report(tmp_path, final=True)
    page, source = Page(tmp_path), (tmp_path / "report.html").read_text("utf-8")
    assert all(re.match(r"data:image/(png|webp);base64,", s) for s in page.sources)
    assert not re.search(r"https?:|url\(|@import", source)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "default-src 'none'" in source


HOSTILE = """</title><script>alert(1)</script><img src=x onerror=alert(1)>"'&$seed ${x} \ud800
" onmouseover="alert(1)"""


def test_names_and_texts_are_shown_and_never_obeyed(tmp_path):
    begin(tmp_path, dataset=HOSTILE)
    train(tmp_path)
    finish(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    by_class = {HOSTILE: 0.1, "b": 0.9, "c": 0.9}
    write_json(tmp_path / "metrics.json", {**metrics, "class_accuracy_by_class": by_class})
    events = [{"cur_nimg": 0, "event": kind, "text": HOSTILE} for kind in ("warning", HOSTILE)]
    write_lines(tmp_path / "events.jsonl", events)
    write_report(tmp_path, final=False)
    page = Page(tmp_path)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert all(source.startswith("data:") for source in page.sources)


def test_what_the_run_is_doing_is_shown_and_never_obeyed(tmp_path):
    write_json(tmp_path / "progress.json", {"phase": HOSTILE})
    write_report(tmp_path, final=False)
    assert "script" not in Page(tmp_path).tags


def test_a_number_with_the_name_of_a_path_makes_no_file(tmp_path):
    rows = [{"cur_nimg": 64, "../evil": 1.0, "a/b": 1.0, "": 1.0, "fine": 1.0}]
    write_lines(tmp_path / "stats.jsonl", rows)
    write_report(tmp_path, final=False)
    assert plots(tmp_path) == {"fine"}
    assert not (tmp_path / "evil.png").exists()


def test_torn_files_cost_only_what_they_held(tmp_path):
    begin(tmp_path)
    train(tmp_path)
    finish(tmp_path)
    for name in ("stats.jsonl", "metrics.jsonl", "events.jsonl"):
        with (tmp_path / name).open("ab") as f:
            f.write(b'{"cur_nimg": 99999, "loss_D": 1.\xff')
    (tmp_path / "samples" / f"{9999:012d}.png").write_bytes(b"\x89PNG")
    (tmp_path / "metrics.json").write_bytes(b'{"fd_cnn": ')
    write_report(tmp_path, final=True)
    page = Page(tmp_path)
    assert "Not measured yet" in page.text
    assert "5.1 of 10.2 kimg" in page.text
    assert "losses" in plots(tmp_path)


def test_a_loss_that_was_never_a_number_has_no_curve(tmp_path):
    (tmp_path / "stats.jsonl").write_text(
        '{"cur_nimg": 64, "loss_D": NaN, "loss_G": 1.0}\n{"cur_nimg": 128, "loss_D": Infinity}\n'
    )
    write_report(tmp_path, final=False)
    assert plots(tmp_path) == {"losses"}


def test_a_second_report_replaces_the_first_and_leaves_nothing_half_written(tmp_path):
    begin(tmp_path)
    write_report(tmp_path, final=False)
    train(tmp_path)
    finish(tmp_path)
    write_report(tmp_path, final=True)
    assert "not finished" not in Page(tmp_path).text
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_a_report_is_quick(tmp_path):
    begin(tmp_path)
    train(tmp_path, ticks=2000)
    finish(tmp_path)
    write_report(tmp_path, final=False)
    began = time.perf_counter()
    write_report(tmp_path, final=False)
    assert time.perf_counter() - began < 2.0  # .3 s alone; tests share their cores


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "plots").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        write_report(tmp_path, final=False)
