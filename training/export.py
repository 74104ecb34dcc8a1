"""Owns the `export` command: a registered generator as an ONNX file that gives the same images."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from training.model.checkpoint import CheckpointError, load_generator
from training.model.files import write_atomic
from training.model.networks.config import NetworkConfig
from training.model.registry import Registry, UnknownModelError, UnknownVersionError
from training.model.sampling import classes_of, latents_of
from training.model.threads import half_the_cores
from training.parent import fail

TOLERANCE = 1e-4
_BATCHES = (1, 5, *[8] * 7, 2)  # of the 64 seeds that are compared; a large batch needs gigabytes

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class ExportError(Exception):
    """The ONNX extra is missing, or its model gives other images than torch."""


def to_onnx(generator: nn.Module, config: NetworkConfig) -> bytes:
    """z (N, z_dim) float32, c (N,) int64 → images (N, C, R, R) float32, for any N ≥ 1.

    Inputs and output have these names; a generator without classes takes c and ignores it.
    """
    example = (torch.zeros(2, config.z_dim), torch.zeros(2, dtype=torch.int64))
    with torch.no_grad(), _without_noise():
        program = torch.onnx.export(
            generator,
            example,
            input_names=["z", "c"],
            output_names=["images"],
            dynamic_shapes=({0: "N"}, {0: "N"}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only where a file to write is named
    return program.model_proto.SerializeToString()


def check_parity(model: bytes, generator: nn.Module, config: NetworkConfig) -> float:
    """The largest difference of a pixel over 64 seeds; raises ExportError above TOLERANCE."""
    session = _module("onnxruntime").InferenceSession(model, providers=["CPUExecutionProvider"])
    differences = list[float]()
    for seeds in np.split(np.arange(sum(_BATCHES)), np.cumsum(_BATCHES)[:-1]):
        z = latents_of(seeds.tolist(), config.z_dim)
        c = classes_of(seeds.tolist(), config.num_classes)
        with torch.inference_mode():
            expected = generator(torch.from_numpy(z), torch.from_numpy(c)).numpy()
        (images,) = session.run(["images"], {"z": z, "c": c})
        differences.append(np.abs(images - expected).max())
    largest = float(np.max(differences))
    if not largest <= TOLERANCE:  # nor is NaN
        raise ExportError(
            f"the ONNX model's pixels differ from torch's by {largest:.2g}, more than {TOLERANCE:g}"
        )
    return largest


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(
            f"export needs a package that is not there ({error.name}); "
            "pip install 'noisewell[onnx]'"
        ) from error


@contextmanager
def _without_noise() -> Generator[None]:
    """Without what torch's exporter says of its own insides, and of torchvision, never here."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name: N will not be used", UserWarning)
        registration.setLevel(logging.ERROR)
        try:
            yield
        finally:
            registration.setLevel(level)


@cli.command(name="export")
def main(
    model: Annotated[str, typer.Option(help="NAME or NAME@VERSION; default the champion.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    data_dir: Annotated[Path, typer.Option(help="Where the registry is.")] = Path("data"),
) -> None:
    """Write a generator as ONNX, if it gives the images that torch gives."""
    torch.set_num_threads(half_the_cores())
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            _module(name)
        if not out.parent.is_dir():
            raise ExportError(f"--out {str(out)!r}: {str(out.parent)!r} is not a folder")
        registry = Registry(data_dir / "models")
        generator, config = load_generator(registry.path(*registry.resolve(model)))
        exported = to_onnx(generator, config)
        difference = check_parity(exported, generator, config)
        write_atomic(out, exported)
    except (UnknownModelError, UnknownVersionError, CheckpointError, ExportError) as error:
        fail(str(error))
    except OSError as error:
        fail(str(error), code=1)
    side = config.img_resolution
    typer.echo(
        f"{out}: z (N, {config.z_dim}) float32, c (N,) int64 → images "
        f"(N, {config.img_channels}, {side}, {side}), -1 black to 1 white; "
        f"within {difference:.1g} of torch's over {sum(_BATCHES)} seeds"
    )


if __name__ == "__main__":
    cli(prog_name="noisewell export")
