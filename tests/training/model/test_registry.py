import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from training.model.files import sha256_bytes
from training.model.registry import (
    FILES,
    AliasedError,
    DamagedError,
    Registry,
    UnknownModelError,
    UnknownVersionError,
)

CONTENT = {name: name.encode() for name in FILES}
MANIFEST = {"class_names": ["a"], "num_parameters": 1}


def register(registry: Registry, run_id: str, model: str = "toy") -> int:
    return registry.register(model, CONTENT, MANIFEST, run_id)


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# Registering


def test_a_version_holds_what_was_given_and_what_was_computed(registry: Registry) -> None:
    assert register(registry, "r1") == 1
    folder = registry.path("toy", 1)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name in FILES} == CONTENT
    manifest = registry.manifest("toy", 1)
    assert (manifest["model"], manifest["version"], manifest["run_id"]) == ("toy", 1, "r1")
    assert manifest["class_names"] == ["a"]
    assert manifest["digest"] == sha256_bytes(CONTENT["generator.safetensors"])
    assert manifest["files"] == {name: sha256_bytes(data) for name, data in CONTENT.items()}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["created_at"])


def test_a_version_may_hold_more_files(registry: Registry) -> None:
    registry.register("toy", {**CONTENT, "card.json": b"{}"}, MANIFEST, "r1")
    assert (registry.path("toy", 1) / "card.json").read_bytes() == b"{}"
    assert registry.manifest("toy", 1)["files"]["card.json"] == sha256_bytes(b"{}")


@pytest.mark.parametrize("name", ["../x.png", "a/b.png", ".x", "manifest.json", "A.PNG", ""])
def test_a_file_of_an_odd_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="files of other names"):
        registry.register("toy", {**CONTENT, name: b""}, MANIFEST, "r1")
    assert registry.list_models() == []


def test_a_manifest_cannot_talk_over_what_is_computed(registry: Registry) -> None:
    old = {"model": "other", "version": 9, "digest": "0", "files": {}, "run_id": "other"}
    registry.register("toy", CONTENT, old, "r1")
    manifest = registry.manifest("toy", 1)
    assert (manifest["model"], manifest["version"], manifest["run_id"]) == ("toy", 1, "r1")
    assert manifest["digest"] == sha256_bytes(CONTENT["generator.safetensors"])
    assert manifest["files"].keys() == set(FILES)


def test_registering_a_run_again_gives_its_version_back(registry: Registry) -> None:
    assert [register(registry, run) for run in ("r1", "r2", "r1", "r2", "r3")] == [1, 2, 1, 2, 3]
    assert registry.versions("toy") == [1, 2, 3]
    assert registry.find_run("toy", "r2") == 2
    assert registry.find_run("toy", "r9") is None


def test_runs_are_told_apart_within_their_model(registry: Registry) -> None:
    assert register(registry, "r1", "cats") == register(registry, "r1", "dogs") == 1
    assert registry.list_models() == ["cats", "dogs"]


def test_the_first_version_of_a_model_becomes_champion(registry: Registry) -> None:
    register(registry, "r1")
    register(registry, "r2")
    assert registry.champion("toy") == 1
    assert registry.aliases("toy") == {"champion": 1}


@pytest.mark.parametrize("point", range(1, 11))
def test_a_model_never_has_versions_and_no_champion(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    def die(fd: int) -> None:
        nonlocal point
        point -= 1
        if point == 0:
            raise SystemExit

    monkeypatch.setattr("os.fsync", die)
    with suppress(SystemExit):
        register(registry, "r1")
    assert registry.champion("toy") == (1 if "toy" in registry.list_models() else None)
    assert register(registry, "r1") == registry.champion("toy") == 1


def test_lost_aliases_are_mended_by_who_registers_next(registry: Registry) -> None:
    register(registry, "r1")
    (registry.root / "toy" / "aliases.json").unlink()
    assert registry.champion("toy") is None
    assert register(registry, "r1") == 1
    assert registry.champion("toy") == 1


def test_a_crash_while_publishing_leaves_nothing_to_be_seen(registry: Registry) -> None:
    (registry.root / "toy" / ".version.123.abc.tmp").mkdir(parents=True)
    assert registry.list_models() == []
    with pytest.raises(UnknownModelError):
        registry.versions("toy")
    assert register(registry, "r1") == 1


def test_a_failed_write_leaves_no_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, "r1")
    before = everything(registry.root)

    def fail(staged: Path, final: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.model.registry.publish_dir", fail)
    with pytest.raises(OSError, match="No space"):
        register(registry, "r2")
    assert everything(registry.root) == before


@pytest.mark.parametrize("files", [{}, {"card.md": b""}, {**CONTENT, "../../evil": b""}])
def test_a_version_is_made_of_its_four_files(registry: Registry, files: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="a version is made of"):
        registry.register("toy", files, MANIFEST, "r1")
    assert not registry.root.exists()


def test_a_damaged_manifest_stops_no_other_version(registry: Registry) -> None:
    register(registry, "r1")
    register(registry, "r2")
    (registry.path("toy", 1) / "manifest.json").write_bytes(b"\xff{")
    assert registry.find_run("toy", "r2") == 2
    assert register(registry, "r3") == 3


# Names


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "/etc", "A", "ünder", "-a", ".a", "_a", "a b"),
        *("a\n", "a\0", "a" * 64, "\ud800", "a@1", "٣"),
    ],
)
def test_a_hostile_name_is_refused_and_touches_nothing(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="is not allowed; use 1 to 63"):
        register(registry, "r1", name)
    attempts: list[Callable[[], object]] = [
        lambda: registry.versions(name),
        lambda: registry.path(name, 1),
        lambda: registry.manifest(name, 1),
        lambda: registry.aliases(name),
        lambda: registry.promote(name, 1, ""),
        lambda: registry.rollback(name),
    ]
    for attempt in attempts:
        with pytest.raises(UnknownModelError, match="is not registered"):
            attempt()
    assert not registry.root.exists()


@pytest.mark.parametrize("name", ["a", "0", "mnist", "a.b_c-d", "a" * 63])
def test_an_ordinary_name_is_taken(registry: Registry, name: str) -> None:
    register(registry, "r1", name)
    assert registry.list_models() == [name]


def test_other_folders_are_no_models_and_no_versions(registry: Registry) -> None:
    register(registry, "r1")
    for folder in ("Toy/1", ".hidden/1", "empty", "toy/01", "toy/0", "toy/-1", "toy/x", "toy/1.0"):
        (registry.root / folder).mkdir(parents=True)
    assert registry.list_models() == ["toy"]
    assert registry.versions("toy") == [1]


def test_what_is_not_registered_is_named_with_what_is(registry: Registry) -> None:
    with pytest.raises(UnknownModelError, match="'toy' is not registered; registered: none yet"):
        registry.versions("toy")
    register(registry, "r1")
    register(registry, "r2")
    with pytest.raises(UnknownModelError, match="'cat' is not registered; registered: toy"):
        registry.path("cat", 1)
    with pytest.raises(UnknownVersionError, match=r"version 9 of 'toy'.*registered: 1, 2"):
        registry.path("toy", 9)
    with pytest.raises(UnknownVersionError):
        registry.promote("toy", 3, "")


def test_versions_are_in_numeric_order(registry: Registry) -> None:
    for i in range(11):
        register(registry, f"r{i}")
    assert registry.versions("toy") == list(range(1, 12))


# Aliases


@pytest.fixture
def three(registry: Registry) -> Registry:
    for run in ("r1", "r2", "r3"):
        register(registry, run)
    return registry


def test_promotion_remembers_the_one_before(three: Registry) -> None:
    three.promote("toy", 3, "better")
    assert three.aliases("toy") == {"champion": 3, "previous": 1}
    stored = json.loads((three.root / "toy" / "aliases.json").read_text())
    assert stored["reason"] == "better"


def test_who_was_compared_with_another_champion_does_not_replace_the_one_there_is(
    three: Registry,
) -> None:
    assert three.promote_over("toy", 1, 2, "better than 1")
    assert not three.promote_over("toy", 1, 3, "better than 1")
    assert three.promote_over("toy", 1, 2, "once more, after a crash")
    assert three.aliases("toy") == {"champion": 2, "previous": 1}


def test_promoting_the_champion_changes_nothing(three: Registry) -> None:
    three.promote("toy", 2, "better")
    three.promote("toy", 2, "again")
    assert three.aliases("toy") == {"champion": 2, "previous": 1}


def test_rollback_goes_back_and_forth(three: Registry) -> None:
    three.promote("toy", 2, "better")
    assert [three.rollback("toy") for _ in range(3)] == [1, 2, 1]
    assert three.aliases("toy") == {"champion": 1, "previous": 2}


def test_there_is_no_rollback_before_a_promotion(three: Registry) -> None:
    with pytest.raises(UnknownVersionError, match="no previous version"):
        three.rollback("toy")
    assert three.aliases("toy") == {"champion": 1}


def test_an_alias_never_names_what_was_deleted(three: Registry) -> None:
    three.promote("toy", 2, "better")
    (three.path("toy", 1)).rename(three.root / "gone")
    assert three.aliases("toy") == {"champion": 2}
    with pytest.raises(UnknownVersionError):
        three.rollback("toy")


def test_a_reader_always_finds_one_champion(three: Registry) -> None:
    done = threading.Event()
    seen: list[dict[str, int]] = []

    def read() -> None:
        while not done.is_set():
            seen.append(three.aliases("toy"))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        three.promote("toy", 1 + i % 3, "turn")
        if i % 5 == 4:
            three.rollback("toy")
    done.set()
    reader.join()
    assert {aliases.get("champion") for aliases in seen} <= {1, 2, 3}
    assert all(aliases["champion"] != aliases.get("previous") for aliases in seen)


# Deletion


def test_a_deleted_version_is_gone_and_its_number_is_never_used_again(three: Registry) -> None:
    three.delete("toy", 3)
    three.delete("toy", 2)
    assert three.versions("toy") == [1]
    assert register(three, "r9") == 4
    assert register(three, "r3") == 5  # its version was deleted: it registers anew


@pytest.mark.parametrize("alias", ["champion", "previous"])
def test_a_version_that_an_alias_names_is_not_deleted(three: Registry, alias: str) -> None:
    three.promote("toy", 2, "better")
    with pytest.raises(AliasedError, match=f"is its {alias} and stays"):
        three.delete("toy", three.aliases("toy")[alias])
    assert three.versions("toy") == [1, 2, 3]


def test_what_is_not_registered_cannot_be_deleted(three: Registry) -> None:
    three.delete("toy", 3)
    for version in (3, 9):
        with pytest.raises(UnknownVersionError):
            three.delete("toy", version)
    with pytest.raises(UnknownModelError):
        three.delete("../toy", 1)


def test_a_kill_while_deleting_leaves_the_whole_version_or_none(
    three: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("training.model.registry.rename", die)
    with pytest.raises(SystemExit):
        three.delete("toy", 3)
    assert three.damage("toy", 3) is None
    monkeypatch.undo()
    monkeypatch.setattr("training.model.registry.empty", die)
    with pytest.raises(SystemExit):
        three.delete("toy", 3)
    assert three.versions("toy") == [1, 2]


# Damage


def test_every_flipped_bit_of_a_manifest_or_the_aliases_is_refused_or_says_nothing(
    three: Registry,
) -> None:
    three.promote("toy", 2, "better")
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "2/manifest.json": lambda: three.manifest("toy", 2),
        "aliases.json": lambda: three.aliases("toy"),
    }
    for name, read in readers.items():
        path = three.root / "toy" / name
        good, said = path.read_bytes(), read()
        for bit in range(8 * len(good)):
            flipped = bytearray(good)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with suppress(DamagedError):
                # Only a space between two tokens says nothing.
                assert read() == said, bytes(flipped)
        path.write_bytes(good)


def test_damage_is_named(three: Registry) -> None:
    (three.path("toy", 2) / "card.md").write_bytes(b"other")
    assert three.damage("toy", 1) is None
    assert three.damage("toy", 2) == "card.md changed since it was registered"
    (three.path("toy", 2) / "metrics.json").unlink()
    assert "metrics.json" in (three.damage("toy", 2) or "")
    (three.path("toy", 3) / "manifest.json").write_bytes(b"{}")
    assert three.damage("toy", 3) is not None


def test_lost_aliases_are_derived_from_what_the_versions_were_found_to_be(
    registry: Registry,
) -> None:
    for run, better in (("r1", True), ("r2", True), ("r3", True), ("r4", False)):
        promotion = {"decision": {"promote": better}}
        registry.register("toy", CONTENT, {**MANIFEST, "promotion": promotion}, run)
    assert registry.derived_aliases("toy") == {"champion": 3, "previous": 2}
    (registry.path("toy", 3) / "card.md").unlink()
    (registry.root / "toy" / "aliases.json").unlink()
    assert registry.restore_aliases("toy") == {"champion": 2, "previous": 1}
    assert registry.aliases("toy") == {"champion": 2, "previous": 1}


def test_a_quarantined_version_is_out_of_sight_and_keeps_its_number(three: Registry) -> None:
    hidden = three.quarantine("toy", 3)
    assert (hidden / "manifest.json").is_file()
    assert three.versions("toy") == [1, 2]
    assert register(three, "r9") == 4


def test_files_from_before_the_seal_are_read(three: Registry) -> None:
    aliases = three.root / "toy" / "aliases.json"
    for path, format_1 in {
        aliases: {},
        three.path("toy", 1) / "manifest.json": {"format": 1},
    }.items():
        stored = json.loads(path.read_text())
        kept = {name: stored[name] for name in stored if name not in ("seal", "format")}
        path.write_text(json.dumps({**format_1, **kept}))
    assert three.aliases("toy") == {"champion": 1}
    assert three.manifest("toy", 1)["version"] == 1


@pytest.mark.parametrize("kept", [("champion",), ("champion", "previous", "reason")])
def test_aliases_that_lost_their_end_are_not_taken_for_older_ones(
    three: Registry, kept: tuple[str, ...]
) -> None:
    three.promote("toy", 2, "better")
    path = three.root / "toy" / "aliases.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({name: stored[name] for name in kept}))
    with pytest.raises(DamagedError, match="no file of aliases"):
        three.aliases("toy")


# Several at once


def test_threads_that_register_at_once_get_versions_of_their_own(registry: Registry) -> None:
    with ThreadPoolExecutor(16) as pool:
        versions = list(pool.map(lambda i: register(registry, f"r{i}"), range(32)))
    assert sorted(versions) == registry.versions("toy") == list(range(1, 33))
    assert registry.champion("toy") == 1


def test_processes_that_register_at_once_get_versions_of_their_own(registry: Registry) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from training.model.registry import FILES, Registry\n"
        "registry, me = Registry(Path(sys.argv[1])), sys.argv[2]\n"
        "content = {name: name.encode() for name in FILES}\n"
        "for i in range(5): print(registry.register('toy', content, {}, f'{me}-{i % 4}'))"
    )
    command = [sys.executable, "-c", code, str(registry.root)]
    started = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(4)
    ]
    given = [[int(line) for line in process.communicate()[0].split()] for process in started]
    assert all(versions[0] == versions[4] for versions in given)  # the same run
    assert sorted(v for versions in given for v in versions[:4]) == list(range(1, 17))
    assert registry.versions("toy") == list(range(1, 17))


def test_the_registry_needs_no_torch() -> None:
    code = "import sys, training.model.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.call([sys.executable, "-c", code]) == 0


def test_a_reference_names_a_version_or_the_champion(registry: Registry) -> None:
    register(registry, "r1")
    register(registry, "r2")
    registry.promote("toy", 2, "test")
    assert registry.resolve("toy") == registry.resolve("toy@champion") == ("toy", 2)
    assert registry.resolve("toy@1") == ("toy", 1)
    for unknown in ("toy@3", "toy@x", "toy@²", "toy@-1"):
        with pytest.raises(UnknownVersionError):
            registry.resolve(unknown)
    with pytest.raises(UnknownModelError):
        registry.resolve("cat@1")
