"""Owns generator weights on disk: safetensors out, and nothing unchecked back in."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from training.model.files import sha256_bytes
from training.model.networks.build import build_generator
from training.model.networks.config import NetworkConfig


class CheckpointError(Exception):
    """Stored weights are damaged, altered or not what their manifest says."""


def serialize(tensors: dict[str, Tensor]) -> bytes:
    """Tensors → safetensors bytes; the same values give the same bytes."""
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def parse(data: bytes, digest: str, what: str) -> dict[str, Tensor]:
    """safetensors bytes → CPU tensors, all finite. Raises CheckpointError naming `what`."""
    if (found := sha256_bytes(data)) != digest:
        raise CheckpointError(
            f"{what} has SHA-256 {found[:12]}…, its manifest says {digest[:12]}…; restore the file"
        )
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{what} is not a safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{what} holds NaN or infinity in {name!r}; restore the file")
    return tensors


def load_into(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Fill `module`; raises CheckpointError if a name, a shape or a type differs."""
    expected = {name: (t.shape, t.dtype) for name, t in module.state_dict().items()}
    found = {name: (t.shape, t.dtype) for name, t in tensors.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{what} does not fit its network: {wrong[:5]} differ in shape or type"
        )
    module.load_state_dict(tensors)


def trained_generator(weights: bytes, config: NetworkConfig, what: str) -> nn.Module:
    """The generator of weights that a run has just written, on the CPU; raises CheckpointError."""
    generator = build_generator(config)
    load_into(generator, parse(weights, sha256_bytes(weights), what), what)
    return generator.requires_grad_(False)


def read_manifest(version_dir: Path) -> dict[str, Any]:
    """manifest.json of a version directory; raises CheckpointError if it is unreadable."""
    path = version_dir / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not {"digest", "network"} <= manifest.keys():
        raise CheckpointError(f"{path} names no digest and network; restore the file")
    return cast(dict[str, Any], manifest)


def load_generator(version_dir: Path) -> tuple[nn.Module, NetworkConfig]:
    """The generator of a version directory, on the CPU, in eval mode.

    Checks SHA-256, names, shapes, types and finiteness: a flipped payload byte passes safetensors
    alone.
    """
    manifest = read_manifest(version_dir)
    path = version_dir / "generator.safetensors"
    try:
        data = path.read_bytes()
        config = NetworkConfig.from_json(manifest["network"])
        generator = build_generator(config)  # RuntimeError: no memory for a size it names
    except (OSError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{version_dir} cannot be loaded: {error}") from error
    tensors = parse(data, str(manifest["digest"]), str(path))
    load_into(generator, tensors, str(path))
    return generator.eval().requires_grad_(False), config
