"""The export command: the same images from ONNX, or no file."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

from training import export
from training.export import ExportError, check_parity, cli, to_onnx
from training.model.networks.build import build_generator
from training.model.networks.config import NetworkConfig

STRIDED = NetworkConfig("strided", 8, 1, 3, 8, (8, 4), embed_dim=4)
OTHERS = [
    replace(STRIDED, architecture="dense", num_classes=0),
    replace(STRIDED, architecture="dcgan"),
    replace(STRIDED, architecture="r3gan", num_classes=0, group_size=4, blocks=1),
]


def generator_of(config: NetworkConfig, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_generator(config).eval().requires_grad_(False)


def run(data_dir: Path, out: Path, model: str = "toy") -> Result:
    arguments = ["--model", model, "--out", str(out), "--data-dir", str(data_dir)]
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(scope="module")
def extra() -> None:
    """Skips where the packages of the `onnx` extra are missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def other(extra) -> bytes:
    """The ONNX model of a generator that no test registers."""
    return to_onnx(generator_of(STRIDED, seed=1), STRIDED)


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("config", OTHERS, ids=lambda c: c.architecture)
def test_onnx_gives_the_images_of_torch(config):
    generator = generator_of(config)
    assert check_parity(to_onnx(generator, config), generator, config) <= 1e-4


def test_a_model_that_gives_other_images_is_refused(extra, other):
    with pytest.raises(ExportError, match=r"differ from torch's by .*, more than 0.0001"):
        check_parity(other, generator_of(STRIDED), STRIDED)
    broken = generator_of(STRIDED)
    broken.to_pixels.weight.fill_(torch.nan)
    with pytest.raises(ExportError, match="differ from torch's by nan"):
        check_parity(other, broken, STRIDED)


@pytest.mark.usefixtures("extra")
def test_the_command_writes_a_file_that_another_runtime_serves(registry, make_version, tmp_path):
    import onnxruntime

    make_version(registry)
    done = run(tmp_path / "data", tmp_path / "toy.onnx", "toy@1")
    assert done.exit_code == 0, done.output
    assert "c (N,) int64 → images (N, 1, 8, 8), -1 black to 1 white" in done.output
    session = onnxruntime.InferenceSession(tmp_path / "toy.onnx")
    inputs = {"z": np.zeros((3, 8), np.float32), "c": np.arange(3)}
    (images,) = session.run(["images"], inputs)
    assert (images.shape, images.dtype) == ((3, 1, 8, 8), np.float32)
    assert np.abs(images).max() <= 1


def test_a_refused_export_leaves_nothing(
    extra, other, registry, make_version, tmp_path, monkeypatch
):
    make_version(registry)
    out = tmp_path / "exports"
    out.mkdir()
    monkeypatch.setattr(export, "to_onnx", lambda generator, config: other)
    done = run(tmp_path / "data", out / "toy.onnx")
    assert done.exit_code == 2
    assert "Error: the ONNX model's pixels differ" in done.output
    assert not list(out.iterdir())


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("model", "out", "told"),
    [
        ("other", "toy.onnx", "Error: Model 'other' is not registered; registered: toy."),
        ("toy@9", "toy.onnx", "Error: Model version 9 of 'toy' is not registered"),
        ("toy", "missing/toy.onnx", "missing' is not a folder"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(
    registry, make_version, tmp_path, model, out, told
):
    make_version(registry)
    done = run(tmp_path / "data", tmp_path / out, model)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert told in done.output


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_command_says_how_to_get_it(tmp_path, monkeypatch, missing):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    done = run(tmp_path, tmp_path / "toy.onnx")
    assert done.exit_code == 2
    assert done.output == (
        f"Error: export needs a package that is not there ({missing}); "
        "pip install 'noisewell[onnx]'\n"
    )
