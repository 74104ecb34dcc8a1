"""Owns every choice of a training run: the frozen TrainConfig, its presets and its overrides."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from training.model.networks.config import Architecture, NetworkConfig
from training.model.presets import PRESETS as PRESET_INFO
from training.model.presets import fitting


class ConfigError(ValueError):
    """A setting is unknown, out of range, or does not fit the dataset."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run but its data and its length. Fractions are of the run's images."""

    # networks
    architecture: Architecture
    widths: tuple[int, ...]
    z_dim: int = 64
    embed_dim: int = 32
    feature_dim: int = 128

    # objective: loss + (γ/2)·(r1_weight·R1 + r2_weight·R2)
    loss: Literal["relativistic", "non_saturating", "hinge"] = "relativistic"
    penalty: Literal["finite_difference", "exact"] = "finite_difference"
    penalty_epsilon: float = 0.05
    r1_weight: float = 1.0
    r2_weight: float = 1.0
    gamma: float = 0.05
    gamma_final: float = 0.005

    # optimizer: Adam
    lr_g: float = 1e-3
    lr_d: float = 1e-3
    lr_final_ratio: float = 0.3
    beta1: float = 0.0
    beta2: float = 0.9
    beta2_final: float = 0.99
    adam_eps: float = 1e-8

    # strategy
    batch_size: int = 64
    burn_in_fraction: float = 1.0
    ema_fraction: float = 0.03
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        for field, hint in get_type_hints(TrainConfig).items():
            _check_type(field, getattr(self, field), hint)
        for field, (low, high) in _RANGES.items():
            if not low <= getattr(self, field) <= high:
                value = getattr(self, field)
                raise ConfigError(f"{field} is {value!r}; expected {low:g} to {high:g}")
        if not self.widths or not all(1 <= w <= 4096 for w in self.widths):
            raise ConfigError(f"widths is {self.widths!r}; expected numbers from 1 to 4096")

    def network(self, img_resolution: int, img_channels: int, num_classes: int) -> NetworkConfig:
        """The networks for a dataset; raises ConfigError if its resolution cannot be made.

        Strided networks repeat their lowest width until they start from 8 pixels a side or fewer.
        """
        widths = self.widths
        while self.architecture == "strided" and img_resolution >> (len(widths) - 1) > 8:
            widths = (widths[0], *widths)
        try:
            return NetworkConfig(
                architecture=self.architecture,
                img_resolution=img_resolution,
                img_channels=img_channels,
                num_classes=num_classes,
                z_dim=self.z_dim,
                widths=widths,
                embed_dim=self.embed_dim,
                feature_dim=self.feature_dim,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values."""
        return {**asdict(self), "widths": list(self.widths)}


_RANGES: dict[str, tuple[float, float]] = {
    "z_dim": (1, 4096),
    "embed_dim": (1, 4096),
    "feature_dim": (1, 4096),
    "penalty_epsilon": (1e-4, 1.0),
    "r1_weight": (0, 1000),
    "r2_weight": (0, 1000),
    "gamma": (0, 1e4),
    "gamma_final": (0, 1e4),
    "lr_g": (0, 1),
    "lr_d": (0, 1),
    "lr_final_ratio": (0, 1),
    "beta1": (0, 0.9999),
    "beta2": (0, 0.9999),
    "beta2_final": (0, 0.9999),
    "adam_eps": (0, 1),
    "batch_size": (2, 65536),
    "burn_in_fraction": (0, 1),
    "ema_fraction": (0, 1),
}


def _check_type(field: str, value: Any, hint: Any) -> None:
    if choices := get_args(hint) if get_args(hint) and Ellipsis not in get_args(hint) else ():
        if value not in choices:
            raise ConfigError(f"{field} is {value!r}; expected one of {', '.join(choices)}")
    elif hint is int and type(value) is not int:
        raise ConfigError(f"{field} is {value!r}; expected a whole number")
    elif hint is float and type(value) not in (int, float):
        raise ConfigError(f"{field} is {value!r}; expected a number")


PRESETS: dict[str, TrainConfig] = {
    "cpu28": TrainConfig(architecture="strided", widths=(64, 32, 16)),
    "cpu32": TrainConfig(
        architecture="strided",
        widths=(128, 64, 32),
        lr_g=5e-4,
        lr_d=5e-4,
        gamma=0.01,
        gamma_final=0.001,
    ),
    "tiny": TrainConfig(
        architecture="strided", widths=(16, 8), z_dim=16, embed_dim=8, feature_dim=16, batch_size=16
    ),
    # The article's sizes (z of 100 numbers, dense nets, batch 128) with an objective that works.
    "article": TrainConfig(
        architecture="dense",
        widths=(256, 512, 1024),
        z_dim=100,
        loss="non_saturating",
        penalty="exact",
        gamma=1.0,
        gamma_final=0.1,
        lr_g=2e-4,
        lr_d=2e-4,
        lr_final_ratio=1.0,
        beta1=0.5,
        beta2=0.99,
        batch_size=128,
    ),
}


def preset_for(name: str | None, resolution: int, channels: int) -> str:
    """`name` if it can make such images, the best one that can if None; else raises ConfigError."""
    able = fitting(resolution, channels)
    if name is None and able:
        return able[0]
    if name is not None and name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; presets: {', '.join(PRESETS)}")
    if name in able:
        return name
    instead = f"use {able[0]!r}" if able else "import the images at 28, 32, 64, 128 or 256 pixels"
    why = PRESET_INFO[name].misfit(resolution, channels) if name else "no preset makes such images"
    raise ConfigError(f"preset {name!r} {why}; {instead}")


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """["gamma=.1", …] → {"gamma": .1, …}; raises ConfigError for anything else."""
    overrides: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r}; expected key=value, such as gamma=0.1")
        overrides[key.strip()] = _parse_value(value.strip())
    return overrides


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return float(text) if text.startswith(".") and text[1:].isdigit() else text


def override(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """`config` with some fields replaced; raises ConfigError naming the field and what it takes."""
    known = [f.name for f in fields(TrainConfig)]
    for key in overrides:
        if key not in known:
            raise ConfigError(f"setting {key!r} does not exist; settings: {', '.join(known)}")
    return replace(config, **{key: _as_field(key, value) for key, value in overrides.items()})


def _as_field(key: str, value: Any) -> Any:
    if key != "widths":
        return value
    parts = value if isinstance(value, list) else str(value).split(",")
    try:
        return tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise ConfigError(f"widths is {value!r}; expected numbers, such as 64,32,16") from None
