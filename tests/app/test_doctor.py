import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from click.testing import Result
from typer.testing import CliRunner

from app.checkup import CODES
from app.cli import cli
from app.store.store import Store
from training.model.registry import Registry


@pytest.fixture(autouse=True)
def _logs(monkeypatch) -> Iterator[None]:
    """Verbs say how it is logged, for the rest of the process."""
    before = structlog.get_config()
    monkeypatch.setenv("NOISEWELL_PORT", "0")  # whatever listens on this machine
    yield
    structlog.configure(**before)


@pytest.fixture
def data_dir(registry: Registry, make_version: Callable[..., int]) -> Path:
    """toy 1, 2 (champion; 1 before it), 3; and a dataset."""
    for weights in range(3):
        make_version(registry, weights=weights)
    registry.promote("toy", 2, "better")
    data_dir = registry.root.parent
    store = Store.open(data_dir / "noisewell.sqlite3")
    store.create_dataset("ds_1", "shapes", None)
    store.finish_dataset("ds_1", "ready", summary={})
    store.close()
    (data_dir / "datasets" / "ds_1").mkdir(parents=True)
    (data_dir / "datasets" / "ds_1" / "manifest.json").write_bytes(b"{}")
    return data_dir


def run(data_dir: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--data-dir", str(data_dir)])


def doctor(data_dir: Path, *args: str) -> tuple[int, list[dict[str, Any]]]:
    result = run(data_dir, "doctor", "--json", *args)
    return result.exit_code, json.loads(result.stdout)["findings"]


def everything(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and not p.name.endswith("lock"))
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def test_a_sound_data_directory_is_found_sound(data_dir: Path) -> None:
    assert doctor(data_dir) == (0, [])
    assert doctor(data_dir, "--repair") == (0, [])


def lose_aliases(data_dir: Path) -> None:
    (data_dir / "models" / "toy" / "aliases.json").unlink()


def tear_aliases(data_dir: Path) -> None:
    (data_dir / "models" / "toy" / "aliases.json").write_bytes(b"{")


def damage_champion(data_dir: Path) -> None:
    (data_dir / "models" / "toy" / "2" / "generator.safetensors").write_bytes(b"")


def damage_other(data_dir: Path) -> None:
    (data_dir / "models" / "toy" / "3" / "card.md").write_bytes(b"")


def lose_dataset(data_dir: Path) -> None:
    (data_dir / "datasets" / "ds_1").rename(data_dir / "elsewhere")


def leave_upload(data_dir: Path) -> None:
    (data_dir / "uploads").mkdir()
    (data_dir / "uploads" / "ds_9.zip").write_bytes(b"x")


def leave_version(data_dir: Path) -> None:
    (data_dir / "models" / "toy" / ".version.999999999.0123abcd.tmp").mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], None], list[str], dict[str, int]]] = {
    "no aliases": (lose_aliases, ["toy/aliases.json"], {"champion": 1}),
    "torn aliases": (tear_aliases, ["toy/aliases.json"], {"champion": 1}),
    "a damaged champion": (damage_champion, ["toy@2", "toy/aliases.json"], {"champion": 1}),
    "a damaged version": (damage_other, ["toy@3"], {"champion": 2, "previous": 1}),
    "a lost dataset": (lose_dataset, ["dataset shapes"], {"champion": 2, "previous": 1}),
    "an upload": (leave_upload, ["ds_9.zip"], {"champion": 2, "previous": 1}),
    "half a version": (leave_version, [".0123abcd.tmp"], {"champion": 2, "previous": 1}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_and_put_right_when_asked(
    data_dir: Path, registry: Registry, name: str
) -> None:
    damage, found, aliases = DAMAGE[name]
    damage(data_dir)
    before = everything(data_dir)
    code, findings = doctor(data_dir)
    assert code == 1
    assert [f["what"][-len(what) :] for f, what in zip(findings, found, strict=True)] == found
    assert everything(data_dir) == before
    code, repaired = doctor(data_dir, "--repair")
    assert code == 0
    assert all(finding["repaired"] for finding in repaired)
    assert registry.aliases("toy") == aliases
    assert doctor(data_dir) == (0, [])


def test_a_damaged_version_is_put_out_of_sight_and_can_be_looked_at(
    data_dir: Path, registry: Registry
) -> None:
    damage_other(data_dir)
    (_, (repaired,)) = doctor(data_dir, "--repair")
    assert repaired["problem"] == "card.md changed since it was registered"
    assert registry.versions("toy") == [1, 2]
    assert (registry.root / "toy" / ".3.quarantined" / "manifest.json").is_file()


def test_a_lost_dataset_frees_its_name(data_dir: Path) -> None:
    lose_dataset(data_dir)
    doctor(data_dir, "--repair")
    store = Store.open(data_dir / "noisewell.sqlite3")
    assert store.get_dataset("ds_1").status == "failed"
    assert store.create_dataset("ds_2", "shapes", None).status == "importing"
    store.close()


def test_a_model_of_which_nothing_is_left_is_told(data_dir: Path) -> None:
    for version in (1, 2, 3):
        (data_dir / "models" / "toy" / str(version) / "card.md").unlink()
    (_, findings) = doctor(data_dir, "--repair")
    assert [f["what"] for f in findings] == ["toy@1", "toy@2", "toy@3", "toy/aliases.json"]
    assert "no version is left" in findings[-1]["repaired"]


def test_nothing_is_repaired_under_a_running_service(data_dir: Path, start: Any) -> None:
    leave_version(data_dir)
    with start():
        result = run(data_dir, "doctor", "--repair")
        assert result.exit_code == 2
        assert f"a service or a worker uses {data_dir}; stop it first" in result.stderr
        assert run(data_dir, "doctor", "--json").exit_code == 1


def test_people_get_a_table(data_dir: Path) -> None:
    damage_other(data_dir)
    told = run(data_dir, "doctor").stdout
    assert "toy@3" in told
    assert "noisewell doctor --repair" in told


# The machine


def test_every_check_is_a_line(data_dir: Path) -> None:
    lines = run(data_dir, "doctor").stdout.splitlines()[: len(CODES)]
    assert [line.split()[:2] for line in lines] == [["✓", name] for name in CODES]


def no_device(data_dir: Path, monkeypatch) -> None:
    def none(name: str) -> None:
        raise ValueError("no such device")

    monkeypatch.setattr("app.checkup.pick_device", none)


def no_writing(data_dir: Path, monkeypatch) -> None:
    modes = {"R_OK": os.R_OK, "W_OK": os.W_OK, "X_OK": os.X_OK, "geteuid": os.geteuid}
    closed = SimpleNamespace(access=lambda path, mode: False, **modes)
    monkeypatch.setattr("app.checkup.os", closed)


def no_room(data_dir: Path, monkeypatch) -> None:
    monkeypatch.setattr("app.checkup.free_bytes", lambda path: 1000)


def no_port(data_dir: Path, monkeypatch) -> None:
    def taken(*args: object, **options: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("app.checkup.socket.create_server", taken)


def no_database(data_dir: Path, monkeypatch) -> None:
    (data_dir / "noisewell.sqlite3").write_bytes(b"this is no database, however long it goes on")


def no_torch(data_dir: Path, monkeypatch) -> None:
    monkeypatch.setattr("app.checkup.requires", lambda name: ["torch==9.9.9"])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("versions", no_torch),
        ("device", no_device),
        ("permissions", no_writing),
        ("disk", no_room),
        ("port", no_port),
        ("database", no_database),
    ],
)
def test_a_check_that_fails_has_a_code_of_its_own_and_names_the_fix(
    data_dir: Path, monkeypatch, name: str, harm: Callable[[Path, Any], None]
) -> None:
    harm(data_dir, monkeypatch)
    result = run(data_dir, "doctor", "--json")
    assert result.exit_code == CODES[name]
    failed = [check for check in json.loads(result.stdout)["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == [name]
    assert failed[0]["fix"]
    assert any(line.startswith("✗ " + name) for line in run(data_dir, "doctor").stdout.splitlines())


def test_the_port_of_a_service_that_runs_here_is_well(data_dir: Path, start: Any) -> None:
    with start():
        told = run(data_dir, "doctor").stdout
    assert "✓ port         a service runs here: " in told


# gc


def test_gc_says_what_it_freed_and_why(data_dir: Path) -> None:
    leave_version(data_dir)
    dry = json.loads(run(data_dir, "gc", "--dry-run", "--json").stdout)
    assert [(row["kind"], row["why"]) for row in dry["items"]] == [
        ("leftover", "its process is gone")
    ]
    assert "1 items, 0 bytes freed" in run(data_dir, "gc").stdout
    assert run(data_dir, "gc").stdout == "0 items, 0 bytes freed\n"


@pytest.mark.parametrize("verb", ["gc", "doctor"])
def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path, verb: str) -> None:
    result = run(tmp_path / "typo", verb)
    assert result.exit_code == 2
    assert "is not there" in result.stderr
    assert not (tmp_path / "typo").exists()
