import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.errors import BadRequestError, ConflictError, TooLargeError
from app.transfer import export_version, import_version
from training.model.checkpoint import serialize
from training.model.files import sha256_bytes
from training.model.manifest import sealed
from training.model.registry import Registry

LIMIT = 10_000_000


@pytest.fixture
def exported(registry: Registry, make_version: Callable[..., int], tmp_path: Path) -> Path:
    """toy@2 as one file; toy 1 is the champion."""
    for weights in range(2):
        make_version(registry, weights=weights)
    path = tmp_path / "toy.zip"
    export_version(registry, "toy", 2, path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    """An empty registry, elsewhere."""
    return Registry(tmp_path / "other" / "models")


def take(registry: Registry, path: Path, name: str | None = None) -> tuple[str, int]:
    return import_version(registry, path, name, LIMIT)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def resealed(contents: dict[str, bytes], /, **changes: Any) -> dict[str, bytes]:
    """The same with another manifest, sealed by whoever changed it."""
    manifest = sealed({**json.loads(contents["manifest.json"]), **changes})
    return {**contents, "manifest.json": json.dumps(manifest).encode()}


def with_weights(files: dict[str, bytes], weights: bytes) -> dict[str, bytes]:
    """Other weights, for which the manifest vouches."""
    digest = sha256_bytes(weights)
    known = {**json.loads(files["manifest.json"])["files"], "generator.safetensors": digest}
    return resealed({**files, "generator.safetensors": weights}, digest=digest, files=known)


def everything(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*")) if root.exists() else []


# What comes through


def test_a_version_comes_back_as_it_was(
    registry: Registry, other: Registry, exported: Path
) -> None:
    assert take(other, exported) == ("toy", 1)
    assert other.champion("toy") == 1
    assert other.damage("toy", 1) is None
    before, after = registry.manifest("toy", 2), other.manifest("toy", 1)
    same = ("run_id", "digest", "files", "network", "class_names", "lineage")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["imported_from"]["version"] == 2
    assert after["imported_from"]["seal"] == before["seal"]


def test_the_same_version_is_the_same_file(registry: Registry, exported: Path) -> None:
    again = exported.with_name("again.zip")
    export_version(registry, "toy", 2, again)
    assert again.read_bytes() == exported.read_bytes()
    with zipfile.ZipFile(exported) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_importing_again_gives_the_same_version(other: Registry, exported: Path) -> None:
    assert [take(other, exported) for _ in range(2)] == [("toy", 1)] * 2
    assert take(other, exported, "pets") == ("pets", 1)
    assert other.list_models() == ["pets", "toy"]


def test_an_import_moves_no_champion_unless_told(
    other: Registry, exported: Path, make_version: Callable[..., int]
) -> None:
    make_version(other, weights=7)
    assert take(other, exported) == ("toy", 2)
    assert other.champion("toy") == 1


def test_the_command_exports_and_imports(
    registry: Registry, other: Registry, exported: Path
) -> None:
    def run(*args: object) -> str:
        return CliRunner().invoke(cli, ["models", *(str(arg) for arg in args)]).output

    file = exported.with_name("new.zip")
    told = run("export", "toy@2", file, "--data-dir", registry.root.parent)
    assert told == f"toy@2 is in {file}\n"
    told = run("import", file, "--name", "pets", "--data-dir", other.root.parent)
    assert told == f"{file} is pets@1 and the champion\n"
    told = run("import", file, "--name", "../x", "--data-dir", other.root.parent)
    assert told.startswith("Error: model name '../x' is not allowed")
    assert other.list_models() == ["pets"]


# What does not


def test_a_damaged_version_is_not_exported(registry: Registry, exported: Path) -> None:
    before = exported.read_bytes()
    (registry.path("toy", 2) / "card.md").write_bytes(b"")
    with pytest.raises(BadRequestError, match=r"card\.md changed since it was registered"):
        export_version(registry, "toy", 2, exported)
    assert exported.read_bytes() == before


def test_any_flipped_byte_is_refused_or_changes_nothing(other: Registry, exported: Path) -> None:
    good = exported.read_bytes()
    step = max(1, len(good) // 500)
    for i in range(0, len(good), step):
        flipped = bytearray(good)
        flipped[i] ^= 1 << i % 8
        exported.write_bytes(flipped)
        try:
            take(other, exported, f"m{i}")
        except BadRequestError:
            continue
        assert other.damage(f"m{i}", 1) is None  # a date or an attribute of the zip


HOSTILE: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "a file too many": lambda f: {**f, "more.txt": b""},
    "a path": lambda f: {**f, "../evil.txt": b""},
    "an absolute path": lambda f: {**f, "/etc/evil.txt": b""},
    "a backslash": lambda f: {**f, "..\\evil.txt": b""},
    "a folder": lambda f: {**f, "folder/": b""},
    "a hidden file": lambda f: {**f, ".lock": b""},
    "many files": lambda f: {**f, **{f"a{i}.txt": b"" for i in range(40)}},
    "no manifest": lambda f: {n: d for n, d in f.items() if n != "manifest.json"},
    "no weights": lambda f: {n: d for n, d in f.items() if n != "generator.safetensors"},
    "another card": lambda f: {**f, "card.md": b"# Evil"},
    "a manifest of a megabyte": lambda f: resealed(f, junk="x" * 1_000_001),
    "a deep manifest": lambda f: {**f, "manifest.json": b"[" * 100_000},
    "a name that leads away": lambda f: resealed(f, model="../evil"),
    "no run": lambda f: resealed(f, run_id=None),
    "a run of another kind": lambda f: resealed(f, run_id=["x"]),
    "files of another kind": lambda f: resealed(f, files=[]),
    "class names of another kind": lambda f: resealed(f, class_names=[1, 2, 3]),
    "too few class names": lambda f: resealed(f, class_names=["a"]),
    "a huge network": lambda f: resealed(
        f, network={**json.loads(f["manifest.json"])["network"], "z_dim": 10**12}
    ),
    "weights that are none": lambda f: with_weights(f, b"x" * 100),
    "weights of another network": lambda f: with_weights(f, serialize({})),
    "metrics that are none": lambda f: {**f, "metrics.json": b"["},
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_file_of_an_enemy_is_refused_and_leaves_nothing(
    other: Registry, exported: Path, trick: str
) -> None:
    pack(exported, HOSTILE[trick](contents(exported)))
    outside = everything(exported.parent)
    with pytest.raises((BadRequestError, ValueError)):
        take(other, exported)
    assert everything(exported.parent) == outside


def test_a_zip_that_is_not_plain_is_refused(other: Registry, exported: Path) -> None:
    files = contents(exported)

    def entry(name: str, **attributes: Any) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name)
        for attribute, value in attributes.items():
            setattr(info, attribute, value)
        return info

    link = entry("card.md", external_attr=(stat.S_IFLNK | 0o777) << 16)
    bomb = entry("card.md", compress_type=zipfile.ZIP_DEFLATED)
    for odd in (link, bomb):
        with zipfile.ZipFile(exported, "w") as archive:
            for name, data in files.items():
                archive.writestr(odd if name == "card.md" else name, data)
        with pytest.raises(BadRequestError):
            take(other, exported)
    pack(exported, files)
    with zipfile.ZipFile(exported, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("card.md", b"another")
    with pytest.raises(BadRequestError, match="each once"):
        take(other, exported)
    assert other.list_models() == []


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_zip_is_refused(other: Registry, exported: Path, data: bytes) -> None:
    exported.write_bytes(data)
    with pytest.raises(BadRequestError, match="is no exported version"):
        take(other, exported)


def test_a_file_over_the_limit_is_not_read(other: Registry, exported: Path) -> None:
    with pytest.raises(TooLargeError, match="max_upload_bytes"):
        import_version(other, exported, None, 1000)


def test_the_name_of_a_run_with_other_weights_is_refused(
    registry: Registry, other: Registry, exported: Path, make_files: Callable[..., Any]
) -> None:
    other.register("toy", *make_files(5), registry.manifest("toy", 2)["run_id"])
    with pytest.raises(ConflictError, match="has other weights; give --name"):
        take(other, exported)
    assert other.versions("toy") == [1]
