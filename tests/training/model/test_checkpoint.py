import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.model.checkpoint import (
    CheckpointError,
    load_generator,
    load_into,
    narrowed,
    parse,
    read_manifest,
    serialize,
)
from training.model.files import sha256_bytes
from training.model.networks.build import build_generator
from training.model.networks.config import NetworkConfig
from training.model.registry import Registry

TINY = NetworkConfig("dense", 2, 1, 2, 2, (2,), embed_dim=1)


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    state = {name: t.clone() for name, t in build_generator(TINY).state_dict().items()}
    return {**state, **changes}


def store(folder: Path, weights: bytes, **manifest: Any) -> Path:
    """A version directory whose manifest vouches for `weights`."""
    folder.mkdir(exist_ok=True)
    (folder / "generator.safetensors").write_bytes(weights)
    about = {"digest": sha256_bytes(weights), "network": TINY.to_json(), **manifest}
    (folder / "manifest.json").write_text(json.dumps(about))
    return folder


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    state = tensors()
    generator, network = load_generator(store(tmp_path / "1", serialize(state)))
    loaded = generator.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], t) for name, t in state.items())
    assert network == TINY
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_weights_stored_in_half_of_the_bytes_come_back_in_full_precision(tmp_path: Path) -> None:
    state = tensors()
    generator, _ = load_generator(store(tmp_path / "1", serialize(narrowed(state))))
    for name, loaded in generator.state_dict().items():
        assert loaded.dtype == state[name].dtype
        assert torch.allclose(loaded, state[name], rtol=2**-11, atol=2**-24)


def test_weights_that_half_of_the_bytes_cannot_hold_are_not_narrowed() -> None:
    name = next(iter(tensors()))
    with pytest.raises(ValueError, match=f"'{name}'.*store them in fp32"):
        narrowed(tensors(**{name: torch.full_like(tensors()[name], 1e5)}))


def test_equal_weights_are_stored_as_equal_bytes() -> None:
    state = tensors()
    assert serialize(state) == serialize({name: t.clone() for name, t in state.items()})


def test_channels_last_weights_are_stored_like_any_others() -> None:
    weight = torch.arange(120.0).reshape(2, 3, 4, 5)
    strided = weight.to(memory_format=torch.channels_last)
    assert serialize({"w": strided}) == serialize({"w": weight})


def test_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    folder = store(tmp_path / "1", serialize(tensors()))
    path = folder / "generator.safetensors"
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        with pytest.raises(CheckpointError, match="SHA-256"):
            load_generator(folder)
    path.write_bytes(good)
    load_generator(folder)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused_even_with_its_digest(tmp_path: Path, length: int) -> None:
    folder = store(tmp_path / "1", serialize(tensors())[:length])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_generator(folder)


def test_a_forged_header_never_gets_past_the_checks(tmp_path: Path) -> None:
    good = serialize(tensors())
    for i in range(8 + int.from_bytes(good[:8], "little")):
        forged = good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :]
        try:
            load_generator(store(tmp_path / "1", forged))
        except CheckpointError:
            continue
        assert good[i : i + 1] in b" ,"  # only the padding of the header says nothing


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    weights = tensors()
    name, tensor = next(iter(weights.items()))
    tensor.view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=f"NaN or infinity in '{name}'"):
        load_generator(store(tmp_path / "1", serialize(weights)))


@pytest.mark.parametrize(
    "change",
    [
        {"to_pixels.bias": torch.zeros(5)},
        {"to_pixels.weight": torch.zeros(2, 4)},
        {"surprise": torch.zeros(1)},
        {"to_pixels.bias": torch.zeros(4, dtype=torch.int64)},
    ],
)
def test_tensors_of_another_network_are_refused(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(change))):
        load_into(build_generator(TINY), tensors(**change), "the file")


def test_a_missing_tensor_is_refused() -> None:
    state = tensors()
    del state["to_pixels.bias"]
    with pytest.raises(CheckpointError, match=r"to_pixels\.bias"):
        load_into(build_generator(TINY), state, "the file")


def test_a_refused_file_leaves_the_module_as_it_was() -> None:
    module = build_generator(TINY)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_into(module, tensors(surprise=torch.zeros(1)), "the file")
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"digest": "0"}', '"digest network"'])
def test_a_manifest_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "generator.safetensors"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = store(tmp_path / "1", serialize(tensors()))
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_generator(folder)


@pytest.mark.parametrize("network", [None, [], "strided", {}, {**TINY.to_json(), "z_dim": "2"}])
def test_a_manifest_that_describes_no_network_is_refused(tmp_path: Path, network: Any) -> None:
    folder = store(tmp_path / "1", serialize(tensors()), network=network)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_generator(folder)


def test_a_network_too_large_for_any_machine_is_refused(tmp_path: Path) -> None:
    for large in ({"widths": [10**13]}, {"widths": [1] * 10**5}, {"blocks": 10**9}):
        network = {**TINY.to_json(), **large}
        folder = store(tmp_path / "1", serialize(tensors()), network=network)
        with pytest.raises(CheckpointError, match=r"does not fit|more layers than"):
            load_generator(folder)


def test_the_digest_of_another_version_is_refused(
    registry: Registry, make_version: Callable[..., int]
) -> None:
    first, second = (registry.path("toy", make_version(registry, weights=w)) for w in (0, 1))
    weights = (second / "generator.safetensors").read_bytes()
    (first / "generator.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="restore the file"):
        load_generator(first)


def test_parse_names_the_file_it_refuses() -> None:
    with pytest.raises(CheckpointError, match=r"^upload has SHA-256"):
        parse(b"", "0" * 64, "upload")
