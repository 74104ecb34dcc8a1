import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.bundled import install_bundled
from app.engine import Engine
from training.model.registry import Registry

MakeFiles = Callable[..., tuple[dict[str, bytes], dict]]


@pytest.fixture
def pack(tmp_path: Path, make_files: MakeFiles) -> Callable[..., Path]:
    """`pack(weights)` puts that generator into the box, in place of the one before."""

    def put(weights: int, model: str = "toy") -> Path:
        folder = tmp_path / "box" / model
        folder.mkdir(parents=True, exist_ok=True)
        files, manifest = make_files(weights)
        source = Registry(tmp_path / f"trained-{model}-{weights}")
        source.register("source", files, manifest, "the run that made it")
        for path in source.path("source", 1).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return tmp_path / "box"

    return put


def train(registry: Registry, make_files: MakeFiles, weights: int) -> int:
    return registry.register("toy", *make_files(weights), f"job-{weights}")


def test_the_digits_in_the_box_can_be_served(registry: Registry) -> None:
    install_bundled(registry)
    loaded = Engine(registry, torch.device("cpu"), 4, 1).get("mnist", None)
    assert loaded.class_names == tuple("0123456789")
    assert loaded.sampler.from_seeds([7]).shape == (1, 28, 28, 1)
    sizes = [path.stat().st_size for path in registry.path("mnist", 1).iterdir()]
    assert sum(sizes) < 4e6


def test_the_small_photographs_in_the_box_can_be_served(registry: Registry) -> None:
    install_bundled(registry)
    loaded = Engine(registry, torch.device("cpu"), 4, 1).get("cifar10", None)
    assert loaded.class_names[:3] == ("airplane", "automobile", "bird")
    assert loaded.sampler.from_seeds([7]).shape == (1, 32, 32, 3)
    sizes = [path.stat().st_size for path in registry.path("cifar10", 1).iterdir()]
    assert sum(sizes) < 12e6


def test_an_empty_box_installs_nothing(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "box" / "no model").mkdir(parents=True)
    install_bundled(registry, tmp_path / "box")
    assert registry.list_models() == []


def test_what_is_in_the_box_is_installed_and_serves(registry: Registry, pack) -> None:
    box = pack(1)
    pack(2, "other")
    install_bundled(registry, box)
    assert registry.list_models() == ["other", "toy"]
    assert registry.champion("toy") == registry.champion("other") == 1
    manifest = registry.manifest("toy", 1)
    assert (manifest["model"], manifest["version"], manifest["bundled"]) == ("toy", 1, True)
    assert manifest["run_id"].startswith("bundled-")


def test_what_is_in_the_box_is_installed_once(registry: Registry, pack) -> None:
    box = pack(1)
    for _ in range(3):
        install_bundled(registry, box)
    assert registry.versions("toy") == [1]


def test_a_newer_one_replaces_a_bundled_champion(registry: Registry, pack) -> None:
    install_bundled(registry, pack(1))
    install_bundled(registry, pack(2))
    assert registry.aliases("toy") == {"champion": 2, "previous": 1}


def test_a_newer_one_leaves_a_trained_champion(registry: Registry, pack, make_files) -> None:
    install_bundled(registry, pack(1))
    registry.promote("toy", train(registry, make_files, 9), "better")
    install_bundled(registry, pack(2))
    assert registry.versions("toy") == [1, 2, 3]
    assert registry.aliases("toy") == {"champion": 2, "previous": 1}


def test_a_model_somebody_trained_before_keeps_its_champion(
    registry: Registry, pack, make_files
) -> None:
    train(registry, make_files, 9)
    install_bundled(registry, pack(1))
    assert registry.versions("toy") == [1, 2]
    assert registry.champion("toy") == 1


def test_a_rollback_to_an_older_bundled_one_outlives_a_restart(registry: Registry, pack) -> None:
    install_bundled(registry, pack(1))
    box = pack(2)
    install_bundled(registry, box)
    registry.rollback("toy")
    install_bundled(registry, box)
    assert registry.champion("toy") == 1


def test_an_installation_that_was_killed_is_mended(registry: Registry, pack) -> None:
    box = pack(1)
    install_bundled(registry, box)
    (registry.root / "toy" / "aliases.json").unlink()
    install_bundled(registry, box)
    assert registry.versions("toy") == [1]
    assert registry.champion("toy") == 1


def test_a_damaged_model_does_not_keep_the_others_from_being_installed(
    registry: Registry, pack
) -> None:
    box = pack(1)
    install_bundled(registry, box)
    (registry.root / "toy" / "aliases.json").write_bytes(b"{")
    pack(2, "other")
    install_bundled(registry, box)
    assert "other" in registry.list_models()


def test_a_damaged_bundled_version_is_installed_anew(registry: Registry, pack) -> None:
    box = pack(1)
    install_bundled(registry, box)
    (registry.path("toy", 1) / "manifest.json").write_bytes(b"{")
    for _ in range(2):
        install_bundled(registry, box)
    assert registry.versions("toy") == [1, 2]
    assert json.loads((registry.path("toy", 2) / "manifest.json").read_text())["bundled"]
