"""Owns generator weights on disk: safetensors out, and nothing unchecked back in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from training.model import manifest as manifest_file
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


def narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """fp32 tensors in fp16, for weights that are shipped: half the bytes, 11 bits of each number.

    Raises ValueError if a number is beyond what fp16 holds.
    """
    half = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    beyond = [name for name, t in half.items() if not torch.isfinite(t).all()]
    if beyond:
        raise ValueError(f"{beyond[:5]} hold numbers beyond fp16's 65504; store them in fp32")
    return half


def load_into(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Fill `module`, from fp16 where that was stored for fp32; raises CheckpointError if a name, a
    shape or a type differs otherwise."""
    _check_fit(module, tensors, what)
    module.load_state_dict(tensors)  # which widens


def _check_fit(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    expected = {name: (t.shape, t.dtype) for name, t in module.state_dict().items()}
    found = {name: (t.shape, _widened(t.dtype)) for name, t in tensors.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{what} does not fit its network: {wrong[:5]} differ in shape or type"
        )


def _widened(stored: torch.dtype) -> torch.dtype:
    return torch.float32 if stored == torch.float16 else stored


def trained_generator(weights: bytes, config: NetworkConfig, what: str) -> nn.Module:
    """The generator of weights that a run has just written, on the CPU; raises CheckpointError."""
    generator = build_generator(config)
    load_into(generator, parse(weights, sha256_bytes(weights), what), what)
    return generator.requires_grad_(False)


def read_manifest(version_dir: Path) -> dict[str, Any]:
    """manifest.json of a version directory; raises CheckpointError if it is unreadable."""
    try:
        manifest = manifest_file.read_manifest(version_dir)
    except (OSError, manifest_file.DamagedError) as error:
        raise CheckpointError(str(error)) from error
    if not {"digest", "network"} <= manifest.keys():
        raise CheckpointError(
            f"{version_dir / 'manifest.json'} names no digest and network; restore the file"
        )
    return manifest


def load_generator(version_dir: Path) -> tuple[nn.Module, NetworkConfig]:
    """The generator of a version directory, on the CPU, in eval mode.

    Checks SHA-256, names, shapes, types and finiteness: a flipped payload byte passes safetensors
    alone.
    """
    manifest = read_manifest(version_dir)
    path = version_dir / "generator.safetensors"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{version_dir} cannot be loaded: {error}") from error
    return checked_generator(data, manifest, str(version_dir))


def checked_generator(
    weights: bytes, manifest: Mapping[str, Any], what: str
) -> tuple[nn.Module, NetworkConfig]:
    """Like `load_generator`, of a version that is in memory; raises CheckpointError naming `what`.

    A manifest of anybody's may name a network of any size: only one whose every tensor is in the
    file is given memory.
    """
    tensors = parse(weights, str(manifest["digest"]), f"{what}'s generator.safetensors")
    try:
        config = NetworkConfig.from_json(manifest["network"])
        if max(len(config.widths), config.blocks) > len(tensors):
            raise CheckpointError(f"{what} names more layers than its file has tensors")
        with torch.device("meta"):
            _check_fit(build_generator(config), tensors, what)
        generator = build_generator(config)
    except (ValueError, AttributeError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{what} cannot be loaded: {error}") from error
    load_into(generator, tensors, what)
    return generator.eval().requires_grad_(False), config
