import json
from pathlib import Path

import pytest

from training.history import History, number, read_history, real_score


def write_lines(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def nimgs(run_dir: Path) -> list[int]:
    return [row["cur_nimg"] for row in read_history(run_dir).stats]


def test_a_folder_without_files_is_an_empty_history(tmp_path):
    assert read_history(tmp_path) == History({}, {}, {}, {}, [], [], [], [])
    assert read_history(tmp_path / "nowhere").config == {}


def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path):
    write_lines(tmp_path / "stats.jsonl", {"cur_nimg": 64}, {"cur_nimg": 128})
    with (tmp_path / "stats.jsonl").open("a") as f:
        f.write('{"cur_nimg": 192, "loss_')
    assert nimgs(tmp_path) == [64, 128]


def test_a_cut_line_takes_only_the_one_that_was_appended_to_it(tmp_path):
    write_lines(tmp_path / "stats.jsonl", {"cur_nimg": 64})
    with (tmp_path / "stats.jsonl").open("a") as f:
        f.write('{"cur_nimg": 128, "lo{"cur_nimg": 128}\n{"cur_nimg": 192}\n')
    assert nimgs(tmp_path) == [64, 192]


def test_what_a_resume_trained_anew_is_told_once_and_as_it_was_last(tmp_path):
    before = [{"cur_nimg": n, "loss_D": 1.0} for n in (64, 128, 192, 256)]
    after = [{"cur_nimg": n, "loss_D": 2.0} for n in (192, 320)]
    write_lines(tmp_path / "stats.jsonl", *before, *after)
    write_lines(tmp_path / "metrics.jsonl", *before, *after)
    told = read_history(tmp_path)
    assert told.stats == [*before[:2], *after]
    assert told.evaluations == told.stats


def test_events_for_people_are_all_told_in_the_order_they_happened(tmp_path):
    events = [{"cur_nimg": n, "event": "rolled_back", "text": "NaN"} for n in (512, 512, 256)]
    for_programs = {"cur_nimg": 300, "event": "samples", "file": "samples/300.png"}
    write_lines(tmp_path / "events.jsonl", *events[:2], for_programs, events[2])
    assert read_history(tmp_path).events == events


@pytest.mark.parametrize("line", ["[]", "7", "null", '{"loss_D": 1}', '{"cur_nimg": "64"}', "\x00"])
def test_a_line_that_tells_no_moment_is_left_out(tmp_path, line):
    (tmp_path / "stats.jsonl").write_text(f'{line}\n{{"cur_nimg": 64}}\n')
    assert nimgs(tmp_path) == [64]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_torn_json_file_is_as_good_as_none(tmp_path, content):
    for name in ("run.json", "progress.json", "metrics.json"):
        (tmp_path / name).write_bytes(content)
    told = read_history(tmp_path)
    assert (told.run, told.progress, told.metrics) == ({}, {}, {})


def test_class_counts_come_from_the_plan_or_from_what_the_run_imported(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "manifest.json").write_text('{"counts": {"cat": 3}}')
    assert read_history(tmp_path).class_counts == {"cat": 3}
    (tmp_path / "run.json").write_text('{"class_counts": {"dog": 4}}')
    assert read_history(tmp_path).class_counts == {"dog": 4}


def test_a_number_is_finite_and_no_truth_value():
    assert [number(v) for v in (1, 0.5)] == [1, 0.5]
    assert [number(v) for v in (float("nan"), float("inf"), True, "1", None)] == [None] * 5


def test_what_real_images_score_stands_beside_a_metric():
    metrics = {"fd_cnn": 2.0, "fd_cnn_floor": 0.3, "accuracy": 0.9, "accuracy_reals": 0.99}
    assert real_score(metrics, "fd_cnn") == 0.3
    assert real_score(metrics, "accuracy") == 0.99
    assert real_score(metrics, "fd_cnn_floor") is None
