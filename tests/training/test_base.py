"""Fine-tuning, with the command as people run it: a run goes on from a registered version."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.crew import Crew
from training.data.dataset import Dataset, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.loop import Hooks, training_loop
from training.model.checkpoint import serialize
from training.model.networks.build import build_generator
from training.model.registry import FILES, Registry
from training.presets import PRESETS
from training.reals import Reals
from training.run import served_sampler
from training.state import TrainingState

CPU = torch.device("cpu")
TINY = PRESETS["tiny"]
FAST = ("--preset", "tiny", "--set", "precision=fp32", "--threads", "1")
ONE_STEP = ("--kimg", 0.016, "--set", "lr_g=0", "--set", "lr_d=0", "--model", "tuned")


def pack(folder: Path, classes: int = 3, side: int = 28) -> Path:
    """Import 300 images of a bright bar whose place tells the class; the packed folder."""
    images = np.random.default_rng(0).integers(0, 40, (300, side, side), np.uint8)
    labels = np.arange(300) % classes
    for image, label in zip(images, labels, strict=True):
        image[4 + 8 * label : 10 + 8 * label, 6:22] = 220
    np.savez(folder / "bars.npz", images=images, labels=labels)
    import_dataset(folder / "bars.npz", folder / "packed", ImportOptions("bars"))
    return folder / "packed"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset, and `bars@1`: the generator of `tiny` as it starts."""
    folder = tmp_path_factory.mktemp("data")
    network = TINY.network(28, 1, 3)
    weights = serialize(build_generator(network).state_dict())
    manifest = {"network": network.to_json(), "class_names": ["0", "1", "2"]}
    files = {**dict.fromkeys(FILES, b"{}"), "generator.safetensors": weights}
    pack(folder)
    Registry(folder / "models").register("bars", files, manifest, "run-1")
    return folder


@pytest.fixture(scope="module")
def tuned(data_dir: Path) -> Path:
    """The run folder of `tuned@1`: one step at no rate, from `bars`."""
    done = tune(data_dir, data_dir / "run", *ONE_STEP, "--base", "bars")
    assert done.returncode == 0, done.stderr
    return data_dir / "run"


def train(data_dir: Path, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "training.train", "--data-dir", data_dir, *args]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)


def tune(data_dir: Path, run_dir: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return train(data_dir, "--data", data_dir / "packed", "--run-dir", run_dir, *FAST, *args)


def trained(nimg: int, dataset: Dataset, weights: Mapping[str, Tensor] | None) -> TrainingState:
    """What so many images make of G and D, from noise or from a version's weights."""
    state = TrainingState(TINY, TINY.network(28, 1, 3), 0, CPU)
    if weights is not None:
        state.start_from(weights)
    images, labels = dataset.split(heldout=False)
    reals = Reals(images, labels, 0, CPU)
    hooks = Hooks(lambda _: None, lambda: False, lambda: None, lambda: False)
    assert training_loop(TINY, state, reals, nimg, nimg, float("inf"), False, hooks, Crew())
    return state


def distance(state: TrainingState, dataset: Dataset) -> float:
    """How far the mean image of a class is from that of its reals, in [0, 1]."""
    c = np.arange(96) % 3
    made = served_sampler(state.G_ema, TINY.network(28, 1, 3), CPU).from_seeds(range(96), c)
    labels = dataset.labels
    assert labels is not None
    errors = [np.abs(made[c == k].mean(0) - dataset.images[labels == k].mean(0)) for k in range(3)]
    return float(np.mean(errors)) / 255


def test_a_run_from_a_version_is_better_than_one_from_noise_after_as_many_images(
    data_dir: Path,
) -> None:
    dataset = load_dataset(data_dir / "packed")
    version = trained(2400, dataset, None).G_ema.state_dict()
    tuned = distance(trained(240, dataset, version), dataset)
    fresh = distance(trained(240, dataset, None), dataset)
    assert tuned < fresh / 2


def test_a_run_starts_as_its_base_and_its_lineage_names_it(data_dir: Path, tuned: Path) -> None:
    registry = Registry(data_dir / "models")
    folders = registry.path("bars", 1), registry.path("tuned", 1)
    before, after = (load_file(folder / "generator.safetensors") for folder in folders)
    assert all(before[name].equal(after[name]) for name in before)
    digest = registry.manifest("bars", 1)["digest"]
    lineage = registry.manifest("tuned", 1)["lineage"]
    assert lineage["base"] == {"version": "bars@1", "digest": digest}
    assert f"bars@1 ({digest[:12]})" in (tuned / "card.md").read_text()


@pytest.mark.parametrize(
    ("base", "args", "told"),
    [
        ("bars@9", [], "Model version 9 of 'bars' is not registered; registered: 1."),
        ("nope", [], "--base 'nope': Model 'nope' is not registered; registered: bars"),
        ("bars@1", ["--set", "widths=8,8", "--set", "z_dim=4"],
         "(z_dim=4, widths=8,8,8); use --set z_dim=16 --set widths=16,16,8"),
    ],
)  # fmt: skip
def test_a_base_that_is_not_there_or_has_other_networks_is_refused(
    data_dir: Path, tmp_path: Path, base: str, args: list[str], told: str
) -> None:
    done = tune(data_dir, tmp_path / "run", "--kimg", 1, "--base", base, *args)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ({"classes": 2}, "has 28×28×1 images of classes 0, 1; bring a dataset"),
        ({"side": 32}, "has 32×32×1 images of classes 0, 1, 2; bring a dataset"),
    ],
)
def test_a_dataset_of_another_kind_than_the_base_is_refused(
    data_dir: Path, tmp_path: Path, kind: dict[str, int], told: str
) -> None:
    done = train(data_dir, "--data", pack(tmp_path, **kind), "--run-dir", tmp_path / "run",
                 "--kimg", 1, *FAST, "--base", "bars@1")  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]


def test_a_damaged_base_is_refused(data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    weights = copy / "models" / "bars" / "1" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x77")
    done = tune(copy, tmp_path / "run", "--kimg", 1, "--base", "bars@1")
    assert done.returncode == 2
    assert "has SHA-256" in done.stderr


def test_a_run_that_began_goes_on_without_its_base_and_refuses_another(
    data_dir: Path, tuned: Path, tmp_path: Path
) -> None:
    copy, run_dir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data_dir, copy)
    shutil.copytree(tuned, run_dir)
    shutil.rmtree(copy / "models" / "bars" / "1")
    again = tune(copy, run_dir, *ONE_STEP, "--base", "bars@1")
    assert again.returncode == 0, again.stderr
    other = tune(copy, run_dir, *ONE_STEP)
    assert other.returncode == 2
    assert "base was 'bars@1', is now None" in other.stderr
