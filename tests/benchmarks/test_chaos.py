"""What `make chaos` would say if something were broken: it is broken here on purpose."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos.companions import Companion, run
from benchmarks.chaos.imports import IMPORTS, NAME, DatasetImport, Pack, Upload
from benchmarks.chaos.injection import KILL, Driver, strike
from benchmarks.chaos.operations import MODEL, OPERATIONS, Enqueue, Finish, Operation, Register
from benchmarks.chaos.outcomes import Journal, Outcome, rows
from benchmarks.chaos.report import page
from benchmarks.chaos.sabotage import SABOTAGES
from benchmarks.chaos.soundness import DATABASE, unsound
from training.model.files import write_json

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
GOOD = Outcome(KILL, "promote", "rename 1", recovery_sec=0.5)
BAD = replace(GOOD, point="rename 2", half=1, wrong=["models/toy/4 is half a version"])


def prepared(operation: Operation, data: Path) -> Path:
    operation.prepare(data)
    operation.begin(data)()
    return data


@pytest.mark.parametrize("operation", [*OPERATIONS, *IMPORTS], ids=lambda operation: operation.name)
def test_an_operation_has_its_effect_once_and_leaves_all_sound(
    operation: Operation, tmp_path: Path
) -> None:
    with closing(operation):
        operation.prepare(tmp_path)
        assert operation.effects(tmp_path) == 0
        operation.begin(tmp_path)()
        assert operation.effects(tmp_path) == 1
        assert unsound(tmp_path) == []
    assert list(operation.left(tmp_path)) == []


def test_half_a_dataset_is_told_and_so_is_what_lies_about(tmp_path: Path) -> None:
    pack = prepared(Pack(), tmp_path) / "datasets" / NAME
    images = bytearray((pack / "images.npy").read_bytes())
    images[-1] ^= 1
    (pack / "images.npy").write_bytes(images)
    assert "not those that its manifest says" in " ".join(unsound(tmp_path))
    (pack / "manifest.json").unlink()
    assert "half a dataset" in " ".join(unsound(tmp_path))
    (tmp_path / "datasets" / "other").mkdir()
    assert list(Pack().left(tmp_path)) == ["datasets/other is left lying about"]


@pytest.mark.parametrize(
    ("operation", "status"), [(DatasetImport(), "ready"), (Upload(), "importing")]
)
def test_a_row_without_its_files_is_half_a_dataset(
    operation: Operation, status: str, tmp_path: Path
) -> None:
    with closing(operation):
        prepared(operation, tmp_path)
    for folder in ("datasets", "uploads"):
        shutil.rmtree(tmp_path / folder)
    assert f"half a dataset: it is {status}" in unsound(tmp_path)[0]


def cut(path: Path) -> None:
    """The newline at its end and one more byte."""
    path.write_bytes(path.read_bytes()[:-2])


HALVES: dict[str, Callable[[Path], None]] = {
    "a file of it is gone": lambda model: (model / "4" / "card.md").unlink(),
    "a file of it is cut": lambda model: cut(model / "4" / "generator.safetensors"),
    "its manifest is cut": lambda model: cut(model / "4" / "manifest.json"),
    "its manifest is gone": lambda model: (model / "4" / "manifest.json").unlink(),
    "a folder stands empty": lambda model: (model / "5").mkdir(),
}


@pytest.mark.parametrize("plant", HALVES.values(), ids=HALVES)
def test_half_a_version_is_told(plant: Callable[[Path], None], tmp_path: Path) -> None:
    model = prepared(Register(), tmp_path) / "models" / MODEL
    plant(model)
    assert any("half a version" in told for told in unsound(tmp_path))


def test_a_visible_leftover_is_told_and_a_hidden_one_is_not(tmp_path: Path) -> None:
    model = prepared(Register(), tmp_path) / "models" / MODEL
    (model / ".aliases.json.7.tmp").write_bytes(b"{")
    assert unsound(tmp_path) == []
    (model / "aliases.json.new").write_bytes(b"{")
    assert "neither a version nor an alias" in unsound(tmp_path)[0]


def test_a_champion_that_is_not_registered_is_told(tmp_path: Path) -> None:
    model = prepared(Register(), tmp_path) / "models" / MODEL
    write_json(model / "aliases.json", {"champion": 9, "previous": 1})
    assert "champion is 9" in unsound(tmp_path)[0]
    cut(model / "aliases.json")
    assert "half a file" in unsound(tmp_path)[0]


def test_a_state_that_is_not_there_whole_is_told(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job_1"
    run_dir.mkdir(parents=True)
    (run_dir / "state-1.safetensors").write_bytes(b"half of it")
    write_json(run_dir / "state.json", {"file": "state-1.safetensors", "sha256": "0" * 64})
    assert "not there whole" in unsound(tmp_path)[0]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM job_events WHERE type = 'succeeded'", "0 events of an end"),
        ("UPDATE job_events SET seq = 9 WHERE seq = 2", "its events are numbered"),
        ("UPDATE jobs SET attempt = 5", "at attempt 5 and was started 1 times"),
        ("UPDATE jobs SET status = 'running'", "held by None"),
    ],
)
def test_a_job_whose_events_tell_another_story_is_told(
    damage: str, told: str, tmp_path: Path
) -> None:
    prepared(Finish(), tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as conn:
        conn.execute(damage)
    conn.close()
    assert told in " ".join(unsound(tmp_path))


@needs_strace
def test_a_kill_at_a_system_call_harms_nothing_and_the_broken_code_is_found() -> None:
    with Driver("promote") as driver:
        assert strike(driver, KILL, "write", 1).good
    with Driver("promote", SABOTAGES[0]) as driver:
        assert strike(driver, KILL, "write", 1).half == 1


@needs_strace
def test_a_full_disk_is_told_to_the_caller_and_the_process_goes_on() -> None:
    with Driver(Enqueue().name) as driver:
        assert strike(driver, "ENOSPC once", "pwrite64", 2).good


def test_a_stopped_campaign_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path, fresh=False)
    journal.add(GOOD)
    journal.add(BAD)
    cut(path)
    again = Journal.open(path, fresh=False)
    assert again.outcomes == [GOOD]
    again.add(BAD)
    assert Journal.open(path, fresh=False).outcomes == [GOOD, BAD]
    assert Journal.open(path, fresh=True).outcomes == []


def test_a_companion_that_fails_says_why_and_one_that_does_not_says_nothing() -> None:
    script = "import sys; print('broken by seed 7'); sys.exit(int(sys.argv[1]))"
    companion = Companion("a fault", "a thing", ("-c", script), full=2, sample=1)
    assert run(companion, 0).good
    assert run(companion, 1).wrong == ["exit code 1", "broken by seed 7"]


def test_the_page_sums_up_and_tells_failures_in_full() -> None:
    (row,) = rows([GOOD, BAD])
    assert (row.total("cases"), row.total("half"), row.total("wrong")) == (2, 1, 1)
    text = page([GOOD, BAD], "make chaos", 1.0, "abc1234")
    assert "| kill -9 | promote | 2 | 0 | 0 | 1 | 1 | 0.50 s | 0.50 s |" in text
    assert "kill -9 in promote at rename 2: lost 0, twice 0, half 1" in text
    assert "models/toy/4 is half a version" in text
