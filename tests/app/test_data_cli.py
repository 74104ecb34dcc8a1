import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import cli
from app.intake import name_from
from app.store.store import Store


def run(*args: object, **env: str) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], env=env)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def array(tmp_path: Path) -> Callable[..., Path]:
    """Images of noise, 20 of them in 2 classes, as an array file."""

    def make(name: str = "Parts.npz", seed: int = 0, side: int = 28) -> Path:
        images = np.random.default_rng(seed).integers(0, 256, (20, side, side), np.uint8)
        np.savez(tmp_path / name, images=images, labels=np.arange(20) % 2)
        return tmp_path / name

    return make


def listed(data: Path) -> list[dict[str, Any]]:
    return json.loads(run("data", "list", "--json", "--data-dir", data).stdout)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Steel Defects (2024)", "steel-defects-2024"),
        ("parts.zip", "parts"),
        ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"),
        ("v1.2 data", "v1.2-data"),
        ("_.hidden", "hidden"),
        ("Ünïcode", "n-code"),
        ("日本", "images"),
        ("x" * 100, "x" * 63),
    ],
)
def test_a_dataset_is_named_after_its_source(tmp_path: Path, source: str, name: str) -> None:
    path = tmp_path / source
    if path.suffix in (".zip", ".gz"):
        path.touch()
    else:
        path.mkdir()
    assert name_from(path) == name


def test_an_import_without_out_is_a_dataset_of_the_service(data: Path, array) -> None:
    result = run("data", "import", array(), "--data-dir", data)
    assert result.exit_code == 0, result.output
    store = Store.open(data / "noisewell.sqlite3")
    dataset = store.get_dataset("parts")
    store.close()
    assert dataset.status == "ready"
    assert dataset.summary is not None
    assert dataset.summary["counts"] == {"0": 10, "1": 10}
    assert f"parts@1 is in {data / 'datasets' / dataset.id}" in result.stderr
    assert (data / "datasets" / dataset.id / "manifest.json").is_file()
    assert [p.name for p in (data / "datasets").iterdir()] == [dataset.id]


def test_other_images_under_a_name_are_its_next_version_and_the_same_ones_are_not(
    data: Path, array
) -> None:
    for seed in (0, 1, 0):
        result = run("data", "import", array(seed=seed), "--name", "x", "--data-dir", data)
        assert result.exit_code == 0, result.output
    assert "nothing new: x@1 has just these images" in result.stderr
    assert [row["dataset"] for row in listed(data)] == ["x@2", "x@1"]
    assert len(list((data / "datasets").iterdir())) == 2


def test_images_are_added_to_a_dataset_by_its_name(data: Path, array) -> None:
    run("data", "import", array(), "--data-dir", data)
    more = array("more.npz", seed=1)
    result = run("data", "import", more, "--append-to", "parts", "--data-dir", data)
    assert result.exit_code == 0, result.output
    assert [(row["dataset"], row["images"]) for row in listed(data)] == [
        ("parts@2", 40),
        ("parts@1", 20),
    ]
    result = run("data", "import", more, "--append-to", "no", "--data-dir", data)
    assert "'no' is no folder or file" in result.stderr


def test_options_of_an_import_are_passed_on(data: Path, array) -> None:
    options = ("--resolution", 16, "--max-per-class", "5", "--data-dir", data)
    assert run("data", "import", array(), *options).exit_code == 0
    (row,) = listed(data)
    assert (row["images"], row["classes"], row["resolution"]) == (10, 2, 16)


def test_datasets_are_listed_for_programs_and_for_people(data: Path, array) -> None:
    assert listed(data) == []
    assert not data.exists()
    run("data", "import", array(), "--data-dir", data)
    (row,) = listed(data)
    assert row["dataset"] == "parts@1"
    assert row["bytes"] > 20 * 28 * 28
    assert row["duplicates"] == 0
    shown = run("data", "list", NOISEWELL_DATA_DIR=str(data)).stdout
    for told in ("parts@1", "28×28×1", row["hash"][:8], "held out", "copies"):
        assert told in shown


def test_a_dataset_of_the_data_folder_is_inspected_by_its_name(data: Path, array, capfd) -> None:
    run("data", "import", array(), "--data-dir", data)
    for ref in ("parts", "parts@1", listed(data)[0]["id"]):
        capfd.readouterr()
        assert run("data", "inspect", ref, "--data-dir", data).exit_code == 0
        assert "parts: 20 images of 28×28×1" in capfd.readouterr().out


def test_what_is_neither_a_file_nor_a_dataset_is_named(data: Path, array) -> None:
    result = run("data", "inspect", "parts", "--data-dir", data)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: 'parts' is no folder or file, and ")
    assert result.stderr.count("\n") == 1
    run("data", "import", array(), "--data-dir", data)
    for ref in ("other", "parts@2", "parts@"):
        result = run("data", "inspect", ref, "--data-dir", data)
        assert result.exit_code == 2
        assert result.stderr.endswith("no such dataset that is ready; there is parts\n")


def test_an_import_that_is_refused_leaves_no_dataset(data: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "none.zip").write_bytes(b"no zip")
    result = run("data", "import", tmp_path / "none.zip", "--data-dir", data)
    assert result.exit_code == 2
    assert capfd.readouterr().err.startswith("Error: ")
    assert listed(data) == []
    assert list((data / "datasets").iterdir()) == []
    result = run("data", "import", tmp_path / "missing", "--data-dir", data)
    assert "missing' does not exist; expected a folder or a file of images" in result.stderr


def test_the_quota_of_datasets_holds_for_commands_too(data: Path, array) -> None:
    options = ("--data-dir", data)
    assert run("data", "import", array(), *options).exit_code == 0
    result = run("data", "import", array(seed=1), *options, NOISEWELL_MAX_DATASETS="1")
    assert "There are 1 datasets, as many as max_datasets allows" in result.stderr
    result = run("data", "import", array(seed=1), *options, NOISEWELL_MAX_DATASETS_BYTES="20000")
    assert "max_datasets_bytes allows 20,000" in result.stderr
    assert len(listed(data)) == len(list((data / "datasets").iterdir())) == 1
