"""`noisewell train SOURCE`, its trainer mostly played: only what stands around it is looked at."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from app.cli import cli
from app.settings import Settings
from app.store.store import Store
from training.model.registry import Registry


class House:
    """A data folder, images, and a trainer that only notes what it was told."""

    def __init__(self, tmp_path: Path) -> None:
        self.data = tmp_path / "data"
        self.images = tmp_path / "My Parts"
        self.told: dict[str, str] = {}
        self.code = 0
        self.draw(0)

    def draw(self, seed: int, count: int = 12) -> None:
        """Other images in the folder."""
        rng = np.random.default_rng(seed)
        for number in range(count):
            (self.images / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 40), np.uint8)
            Image.fromarray(pixels).save(self.images / "ab"[number % 2] / f"{number}.png")

    def trainer(self, module: str, args: Sequence[str], *, tied: bool = False) -> int:
        """Leaves what a run leaves: run.json once it began, result.json if it ended."""
        assert module == "training.train"
        self.told = dict(arg.partition("=")[::2] for arg in args)
        if "--data" in self.told:
            run = Path(self.told["--run-dir"])
            run.mkdir(parents=True, exist_ok=True)
            manifest = json.loads((Path(self.told["--data"]) / "manifest.json").read_bytes())
            (run / "run.json").write_text(json.dumps({"asked": {"dataset_hash": manifest["hash"]}}))
            if self.code == 0:
                (run / "result.json").write_text("{}")
        return self.code

    def train(self, *args: object, code: int = 0) -> Result:
        self.code = code
        given = ["train", *map(str, args), "--data-dir", str(self.data)]
        result = CliRunner().invoke(cli, given)
        assert result.exit_code in (code, 2), result.output
        return result


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(tmp_path)
    monkeypatch.setattr("app.train_cli.run_child", house.trainer)
    return house


def test_a_folder_becomes_a_dataset_and_a_run_of_its_name(house: House) -> None:
    result = house.train(house.images, "--minutes=3")
    assert house.told["--run-dir"] == str(house.data / "runs" / "my-parts-1")
    assert house.told["--model"] == "my-parts"
    assert house.told["--data-dir"] == str(house.data)
    assert house.told["--minutes"] == "3"
    manifest = json.loads((Path(house.told["--data"]) / "manifest.json").read_bytes())
    assert manifest["class_names"] == ["a", "b"]
    assert manifest["resolution"] == 32
    assert "as dataset my-parts, at most 32 pixels a side" in result.stderr
    assert "registers as model my-parts" in result.stderr
    assert f"noisewell serve --data-dir {house.data} serves it" in result.stderr


def test_an_interrupted_run_goes_on_with_the_images_that_it_began_with(house: House) -> None:
    house.train(house.images, code=75)
    began = house.told
    house.draw(1)
    result = house.train(house.images)
    assert house.told == began
    assert "goes on with" in result.stderr
    assert "my-parts@1 as it was imported; remove that folder to begin anew" in result.stderr
    assert "imports" not in result.stderr


def test_after_a_run_that_ended_the_folder_is_read_again(house: House) -> None:
    house.train(house.images)
    first = house.told
    result = house.train(house.images)
    assert house.told["--data"] == first["--data"]
    assert "on my-parts@1, known already" in result.stderr
    house.draw(1)
    assert "on my-parts@2;" in house.train(house.images).stderr
    assert house.told["--run-dir"].endswith("my-parts-3")
    assert house.told["--data"] != first["--data"]


def test_a_run_whose_images_are_gone_is_left_alone(house: House) -> None:
    house.train(house.images, code=75)
    store = Store.open(Settings(data_dir=house.data).database_path)
    store.delete_dataset("my-parts")
    store.close()
    house.train(house.images)
    assert house.told["--run-dir"].endswith("my-parts-2")


def test_a_dataset_of_the_data_folder_is_trained_on_by_its_name(house: House) -> None:
    house.train(house.images, code=75)
    began = house.told
    assert "goes on with" in house.train("my-parts@1", code=75).stderr
    assert house.told == began
    house.train("my-parts", "--run-dir", house.data / "own", "--model", "other")
    assert house.told == began | {"--run-dir": str(house.data / "own"), "--model": "other"}


def test_the_resolution_can_be_asked_for(house: House) -> None:
    result = house.train(house.images, "--resolution", 16)
    assert (
        json.loads((Path(house.told["--data"]) / "manifest.json").read_bytes())["resolution"] == 16
    )
    assert "at most" not in result.stderr


def test_without_a_source_the_trainer_hears_all_of_it(house: House) -> None:
    house.train("--minutes=3", "--model", "x", "--run-dir=y")
    assert house.told == {
        "--minutes": "3", "--model": "x", "--run-dir": "y", "--data-dir": str(house.data)
    }  # fmt: skip


def test_two_places_for_the_images_or_none_are_refused_in_one_line(house: House) -> None:
    for args, told in (
        ((house.images, "--data", "x"), "both say where the images are"),
        (("nowhere",), "'nowhere' is no folder or file"),
    ):
        result = house.train(*args)
        assert result.exit_code == 2
        assert told in result.stderr
        assert result.stderr.count("\n") == 1
    assert not house.data.exists()


def test_a_folder_is_served_with_its_class_names_after_one_command(
    tmp_path: Path, start: Callable
) -> None:
    house = House(tmp_path)
    house.draw(1, count=120)
    command = [sys.executable, "-m", "app.cli", "train", house.images, "--data-dir", house.data]
    fast = ("--kimg", 0.1, "--preset", "tiny", "--threads", 1, "--set", "batch_size=8")
    done = subprocess.run(
        [*map(str, command), *map(str, fast)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "preset tiny for 32×32×1 on cpu, 0.1 kimg" in done.stderr
    assert Registry(tmp_path / "data" / "models").champion("my-parts") == 1
    with start() as service:
        assert service.get("/v1/datasets/my-parts").json()["status"] == "ready"
        answer = service.get("/v1/models/my-parts/images/1.png", params={"class": "b"})
        assert answer.status_code == 200


def test_a_command_ends_its_trainer_when_it_is_ended(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.draw(1, count=120)
    command = [sys.executable, "-m", "app.cli", "train", house.images, "--data-dir", house.data]
    fast = ("--kimg", 1000, "--preset", "tiny", "--threads", 1, "--set", "batch_size=8")
    with subprocess.Popen([*map(str, command), *map(str, fast)], stderr=subprocess.PIPE,
                          text=True) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "training" in line and "%" in line:
                process.terminate()
                break
        rest = process.stderr.read()
    assert process.returncode == 75, rest
    assert "run the same command again" in rest
