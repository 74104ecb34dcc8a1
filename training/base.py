"""Owns where a fine-tuning starts: a registered version that fits the plan and the dataset."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from training.config import ConfigError
from training.data.dataset import Dataset
from training.model.checkpoint import CheckpointError, load_generator, read_manifest
from training.model.networks.config import NetworkConfig
from training.model.registry import Registry, UnknownModelError, UnknownVersionError


@dataclass(frozen=True)
class Base:
    """A version to go on from: `ref` such as `mnist@2`, and its G's weights, checked."""

    ref: str
    digest: str
    network: NetworkConfig
    class_names: tuple[str, ...]
    weights: Mapping[str, Tensor]

    def about(self) -> dict[str, str]:
        """What lineage says of it."""
        return {"version": self.ref, "digest": self.digest}


def base_ref(registry: Registry, text: str) -> str:
    """`mnist` → `mnist@2`, its champion now; a version named by number stays what it is.

    A resumed run needs no more than the name, so that its base may be gone by then.
    """
    if re.fullmatch(r".+@[1-9][0-9]*", text):
        return text
    try:
        model, version = registry.resolve(text)
    except (UnknownModelError, UnknownVersionError) as error:
        raise ConfigError(f"--base {text!r}: {error}") from error
    return f"{model}@{version}"


def load_base(registry: Registry, ref: str) -> Base:
    """Raises ConfigError if the version is not registered or damaged."""
    try:
        folder = registry.path(*registry.resolve(ref))
        generator, network = load_generator(folder)
        manifest = read_manifest(folder)
    except (UnknownModelError, UnknownVersionError, CheckpointError) as error:
        raise ConfigError(f"--base {ref!r}: {error}") from error
    names = tuple(manifest.get("class_names", ()))
    return Base(ref, str(manifest["digest"]), network, names, generator.state_dict())


def check_base(base: Base, network: NetworkConfig, dataset: Dataset) -> None:
    """Raises ConfigError, saying what would fit, unless the run makes images just as its base."""
    of_data = list(_differing(base.network, network, _OF_DATA))
    if of_data or base.class_names != dataset.class_names:
        raise ConfigError(
            f"--base {base.ref!r} makes {_shape(base.network, base.class_names)}, dataset "
            f"{dataset.name!r} has {_shape(network, dataset.class_names)}; bring a dataset of the "
            "same shape and classes, or train without --base"
        )
    if differing := list(_differing(base.network, network, _OF_CONFIG)):
        had = ", ".join(f"{name}={_as_set(getattr(network, name))}" for name in differing)
        needed = " ".join(f"--set {n}={_as_set(getattr(base.network, n))}" for n in differing)
        raise ConfigError(
            f"--base {base.ref!r} has other networks than these settings make ({had}); use {needed}"
        )


_OF_DATA = ("img_resolution", "img_channels", "num_classes")
_OF_CONFIG = tuple(f.name for f in fields(NetworkConfig) if f.name not in _OF_DATA)


def _differing(a: NetworkConfig, b: NetworkConfig, names: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if getattr(a, name) != getattr(b, name))


def _shape(network: NetworkConfig, class_names: tuple[str, ...]) -> str:
    side, channels = network.img_resolution, network.img_channels
    classes = f"classes {', '.join(class_names)}" if class_names else "no class"
    return f"{side}×{side}×{channels} images of {classes}"


def _as_set(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
