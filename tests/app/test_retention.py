import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.caretaker import Caretaker
from app.retention import collect, leftovers
from app.settings import Settings
from app.store.jobs import NewJob
from app.store.store import Store
from training.model.files import locked
from training.model.registry import Registry

NEW = NewJob("toy", "ds_1", "shapes", "tiny", None, 1.0, None, {}, "never", 0)
STATE = 1000


class House:
    """A data directory with a store, and run folders of jobs that ended."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = Store.open(data_dir / "noisewell.sqlite3")
        self.registry = Registry(data_dir / "models")
        self.store.create_dataset("ds_1", "shapes", None)
        self.store.finish_dataset("ds_1", "ready", summary={})
        self._age = 0

    def settings(self, **limits: int) -> Settings:
        return Settings.model_validate({"data_dir": self.data_dir, **limits})

    def collect(self, *, dry_run: bool = False, **limits: int) -> list[tuple[str, str]]:
        items = collect(self.settings(**limits), self.store, self.registry, dry_run=dry_run)
        return [(item.kind, str(item.path.relative_to(self.data_dir))) for item in items]

    def add_run(self, name: str) -> Path:
        """Newer than all before: a state of 1000 bytes, a report and samples of 100."""
        run = self.data_dir / "runs" / name
        (run / "samples").mkdir(parents=True)
        (run / "state-000000001000-0.safetensors").write_bytes(bytes(STATE))
        for small in ("state.json", "lock", "progress.json"):
            (run / small).write_bytes(b"")
        for kept in ("report.html", "samples/1.png"):
            (run / kept).write_bytes(bytes(50))
        self._age += 1
        os.utime(run / "progress.json", (self._age, self._age))
        return run

    def runs(self) -> list[str]:
        return sorted(p.name for p in (self.data_dir / "runs").glob("[!.]*"))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "data")
    yield house
    house.store.close()


def everything(root: Path) -> list[str]:
    kept = (p for p in root.rglob("*") if p.name not in ("gc.lock", ".lock"))
    return sorted(str(p.relative_to(root)) for p in kept)


# Runs


def test_the_oldest_runs_go_beyond_their_number(house: House) -> None:
    for name in ("a", "b", "c"):
        house.add_run(name)
    assert house.collect(max_run_folders=2) == [("run", "runs/a")]
    assert house.runs() == ["b", "c"]
    assert house.collect(max_run_folders=2) == []


def test_runs_lose_their_states_before_they_go(house: House) -> None:
    a, _, c = (house.add_run(name) for name in ("a", "b", "c"))
    assert house.collect(max_runs_bytes=2200) == [("states", "runs/a"), ("states", "runs/b")]
    assert sorted(p.name for p in a.iterdir()) == [
        "lock",
        "progress.json",
        "report.html",
        "samples",
    ]
    assert (c / "state.json").exists()
    assert house.collect(max_runs_bytes=200) == [("states", "runs/c"), ("run", "runs/a")]
    assert house.collect(max_runs_bytes=0) == [("run", "runs/b")]
    assert (c / "report.html").exists()  # of the newest


def test_a_dry_run_says_the_same_and_changes_nothing(house: House) -> None:
    for name in ("a", "b", "c"):
        house.add_run(name)
    before = everything(house.data_dir)
    said = house.collect(dry_run=True, max_runs_bytes=500, max_run_folders=2)
    assert everything(house.data_dir) == before
    assert house.collect(max_runs_bytes=500, max_run_folders=2) == said


@pytest.mark.parametrize("status", ["queued", "running", "paused"])
def test_the_run_of_a_job_that_has_not_ended_is_left(house: House, status: str) -> None:
    job = house.store.create_job(NEW, 10)
    if status == "running":
        house.store.claim_job("w", 60)
    if status == "paused":
        house.store.request_pause(job.id)
    house.add_run(job.run)
    house.add_run("newer")
    assert house.collect(max_run_folders=1, max_runs_bytes=0) == [("states", "runs/newer")]


def test_the_run_of_a_job_that_was_retried_is_left(house: House) -> None:
    house.store.create_job(NEW, 10)
    job = house.store.claim_job("w", 60)
    assert job is not None
    house.store.finish_job(job, "failed", error="x")
    house.add_run(job.run)
    house.add_run("newer")
    retry = house.store.retry_job(job.id, 10)
    assert retry.run == job.id
    assert house.collect(max_run_folders=1) == []
    house.store.request_cancel(retry.id)
    assert house.collect(max_run_folders=1) == [("run", f"runs/{job.id}")]


def test_a_run_that_is_retried_in_the_last_moment_is_left(house: House) -> None:
    house.store.create_job(NEW, 10)
    job = house.store.claim_job("w", 60)
    assert job is not None
    house.store.finish_job(job, "failed", error="x")
    house.add_run(job.run)
    house.add_run("newer")
    settings = house.settings(max_run_folders=1)
    (item,) = collect(settings, house.store, house.registry, dry_run=True)
    house.store.retry_job(job.id, 10)
    assert not item.remove()
    assert (house.data_dir / "runs" / job.run / "state.json").exists()


def test_a_run_that_a_trainer_holds_is_left(house: House) -> None:
    run = house.add_run("by-hand")
    house.add_run("newer")
    with locked(run / "lock"):
        assert house.collect(max_run_folders=1) == []
    assert house.collect(max_run_folders=1) == [("run", "runs/by-hand")]


def test_a_kill_while_a_run_goes_leaves_it_whole_or_hidden(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Path) -> None:
        raise SystemExit

    house.add_run("a")
    house.add_run("b")
    monkeypatch.setattr("app.retention.remove", die)
    with pytest.raises(SystemExit):
        house.collect(max_run_folders=1)
    assert house.runs() == ["b"]


# Leftovers


def test_a_leftover_that_somebody_else_removes_meanwhile_ends_no_round(house: House) -> None:
    path = house.data_dir / "uploads" / f".ds_1.json.{ended_pid()}.tmp"
    path.parent.mkdir()
    path.write_bytes(b"{")
    (item,) = leftovers(house.settings())
    path.unlink()
    assert not item.remove()


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_process_that_is_gone_was_writing_goes(
    house: House, make_version: Callable[..., int]
) -> None:
    make_version(house.registry)
    run, gone, models = house.add_run("a"), ended_pid(), house.data_dir / "models"
    (models / "toy" / f".version.{gone}.0123abcd.tmp").mkdir()
    (models / "toy" / f".aliases.json.{gone}.tmp").write_bytes(b"{")
    (run / f".state.json.{gone}.tmp").write_bytes(b"{")
    staged = house.data_dir / "datasets" / f".import-x.{gone}.0123abcd.tmp"
    staged.mkdir(parents=True)
    (staged / f".manifest.json.{gone}.tmp").write_bytes(b"{")  # goes with it, not by itself
    (house.data_dir / "uploads").mkdir()
    (house.data_dir / "uploads" / f".ds_1.json.{gone}.tmp").write_bytes(b"{")
    ours = [run / f".state.json.{os.getpid()}.tmp", run / ".other.tmp"]
    for path in ours:
        path.write_bytes(b"")
    assert [kind for kind, _ in house.collect()] == ["leftover"] * 5
    assert all(path.exists() for path in ours)
    assert not list(models.rglob(".*.tmp"))


def test_what_a_kill_left_of_a_deleted_version_goes_and_its_number_stays(
    house: House, make_version: Callable[..., int]
) -> None:
    for weights in range(2):
        make_version(house.registry, weights=weights)
    house.registry.path("toy", 2).rename(house.registry.root / "toy" / ".2.deleted")
    assert house.collect() == [("leftover", "models/toy/.2.deleted")]
    assert house.collect() == []
    assert make_version(house.registry, weights=3) == 3


# Evaluators and versions


def test_the_oldest_evaluators_go_beyond_their_size(house: House) -> None:
    folder = house.data_dir / "evaluators"
    folder.mkdir()
    for age, name in enumerate(("a", "b", "c")):
        (folder / f"{name}.safetensors").write_bytes(bytes(100))
        (folder / f"{name}.json").write_bytes(b"{}")
        os.utime(folder / f"{name}.safetensors", (age, age))
    with locked(folder / "a.lock"):  # somebody loads it
        assert house.collect(max_evaluators_bytes=150) == [
            ("evaluator", "evaluators/b.safetensors")
        ]
    assert not (folder / "b.json").exists()
    assert house.collect(max_evaluators_bytes=0) == [("evaluator", "evaluators/a.safetensors")]
    assert (folder / "c.safetensors").exists()


def test_only_versions_without_an_alias_go_and_the_newest_stays(
    house: House, make_version: Callable[..., int]
) -> None:
    for weights in range(6):
        make_version(house.registry, weights=weights)
    house.registry.promote("toy", 3, "")
    assert house.collect() == []
    gone = [("version", f"models/toy/{v}") for v in (2, 4)]
    assert house.collect(max_versions_per_model=4) == gone
    assert house.registry.versions("toy") == [1, 3, 5, 6]
    house.collect(max_versions_per_model=1)
    assert house.registry.versions("toy") == [1, 3, 6]


def test_a_version_that_a_job_goes_on_from_stays(
    house: House, make_version: Callable[..., int]
) -> None:
    for weights in range(4):
        make_version(house.registry, weights=weights)
    house.store.create_job(NewJob(**{**vars(NEW), "base": "toy@2"}), 10)
    assert house.collect(max_versions_per_model=1) == [("version", "models/toy/3")]


# Beside a worker


def test_one_tidies_at_a_time(house: House) -> None:
    with locked(house.data_dir / "gc.lock"), pytest.raises(BlockingIOError):
        house.collect()


def test_a_caretaker_tidies_and_survives_what_goes_wrong(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        house.add_run(name)
    with Caretaker(house.settings(max_run_folders=1), house.store, house.registry) as caretaker:
        caretaker.tidy()
    assert house.runs() == ["b"]

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("app.caretaker.collect", fail)
    with Caretaker(house.settings(), house.store, house.registry) as caretaker:
        caretaker.tidy()
