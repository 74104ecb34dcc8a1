"""Owns what each setting of a training takes, so that a service can refuse what it does not."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class ConfigError(ValueError):
    """A setting is unknown, out of range, contradicts another or does not fit the dataset."""


@dataclass(frozen=True)
class Setting:
    """What one setting takes.

    kind: of the value, or of each of its numbers. low, high: a number's bounds, both allowed.
    choices: of a text. like: an example, which makes it a setting of one number or more.
    """

    kind: type[bool | int | float | str]
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    like: str = ""

    def parse(self, value: Any) -> Any:
        """A list, or text such as "64,32", as a tuple of numbers; anything else as it is."""
        if not self.like or isinstance(value, tuple):
            return value
        if isinstance(value, list):
            return tuple(value)
        try:
            return tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            return value

    def refusal(self, value: Any) -> str | None:
        """What was expected instead of `value`, None if the setting takes it."""
        if not self._is_kind(value):
            return self._expected_kind()
        numbers = value if self.like else () if self.kind in (bool, str) else (value,)
        if not all(self.low <= number <= self.high for number in numbers):
            return f"{self.low:g} to {self.high:g}"
        return None

    def _is_kind(self, value: Any) -> bool:
        if self.like:
            return isinstance(value, tuple) and bool(value) and all(map(self._is_number, value))
        if self.kind is str:
            return type(value) is str and value in self.choices
        return type(value) is bool if self.kind is bool else self._is_number(value)

    def _is_number(self, value: Any) -> bool:
        return type(value) is int or type(value) is self.kind

    def _expected_kind(self) -> str:
        if self.like:
            return f"numbers, such as {self.like}"
        if self.kind is str:
            return f"one of {', '.join(self.choices)}"
        return _KINDS[self.kind]


_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
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


def check_setting(name: str, value: Any) -> None:
    """Raises ConfigError naming setting, value and what is expected; `name` has to exist."""
    if (expected := SETTINGS[name].refusal(value)) is not None:
        raise ConfigError(f"{name} is {value!r}; expected {expected}")


def parse_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come from JSON or a command line, checked one by one, as they are used.

    Raises ConfigError. What contradicts what is not looked at.
    """
    for name in settings:
        if name not in SETTINGS:
            raise ConfigError(f"setting {name!r} does not exist; settings: {', '.join(SETTINGS)}")
    parsed = {name: SETTINGS[name].parse(value) for name, value in settings.items()}
    for name, value in parsed.items():
        check_setting(name, value)
    return parsed


def _one_of(*choices: str) -> Setting:
    return Setting(str, choices=choices)


_SWITCH = Setting(bool)
_SIZE = Setting(int, 1, 4096)
_WEIGHT, _STRENGTH = Setting(float, 0, 1000), Setting(float, 0, 1e4)
_SHARE, _DECAY = Setting(float, 0, 1), Setting(float, 0, 0.9999)
_OPTIMIZER = _one_of("adam", "adamw", "rmsprop", "sgd")

SETTINGS: dict[str, Setting] = {
    "architecture": _one_of("dense", "dcgan", "strided", "r3gan"),
    "widths": Setting(int, 1, 4096, like="64,32,16"),
    "z_dim": _SIZE,
    "embed_dim": _SIZE,
    "feature_dim": _SIZE,
    "blocks": Setting(int, 1, 16),
    "group_size": Setting(int, 0, 4096),
    "output": _one_of("native", "clamp", "tanh", "linear"),
    "spectral_norm": _SWITCH,
    "modulation": _SWITCH,
    "init": _one_of("native", "he", "xavier", "orthogonal", "normal"),
    "objective": _one_of("gan", "vae"),
    "loss": _one_of(
        "relativistic", "non_saturating", "minimax", "hinge", "least_squares", "wasserstein"
    ),
    "adversarial_weight": _WEIGHT,
    "label_smoothing": Setting(float, 0, 0.5),
    "penalty": _one_of("finite_difference", "exact"),
    "penalty_epsilon": Setting(float, 1e-4, 1),
    "r1_weight": _WEIGHT,
    "r2_weight": _WEIGHT,
    "gamma": _STRENGTH,
    "gamma_final": _STRENGTH,
    "gp_weight": _STRENGTH,
    "kl_weight": _STRENGTH,
    "class_weight_d": _WEIGHT,
    "class_weight_g": _WEIGHT,
    "optimizer_g": _OPTIMIZER,
    "optimizer_d": _OPTIMIZER,
    "lr_g": _SHARE,
    "lr_d": _SHARE,
    "lr_final_ratio": _SHARE,
    "beta1_g": _DECAY,
    "beta1_d": _DECAY,
    "beta2_g": _DECAY,
    "beta2_d": _DECAY,
    "beta2_final_g": _DECAY,
    "beta2_final_d": _DECAY,
    "weight_decay_g": _SHARE,
    "weight_decay_d": _SHARE,
    "eps": _SHARE,
    "batch_size": Setting(int, 2, 65536),
    "accumulation": Setting(int, 1, 4096),
    "d_steps": Setting(int, 1, 100),
    "burn_in_fraction": _SHARE,
    "ema_fractions": Setting(float, 0, 1, like="0.01,0.03"),
    "mirror": _SWITCH,
    "class_balance": _SWITCH,
    "instance_noise": Setting(float, 0, 2),
    "augment": _one_of("none", "ada", "ada_full", "diffaugment"),
    "augment_p": _SHARE,
    "augment_schedule": _one_of("constant", "burn_in", "adaptive"),
    "augment_target": Setting(float, -1, 1),
    "augment_same_draw": _SWITCH,
    "collapse_watch": _SWITCH,
    "precision": _one_of("auto", "fp32", "bf16"),
    "compile": _one_of("off", "default", "reduce-overhead"),
}

# What G and D are made of: a training that starts from a version has its.
NETWORK = (
    "architecture", "widths", "z_dim", "embed_dim", "feature_dim", "blocks", "group_size", "output",
    "spectral_norm", "modulation",
)  # fmt: skip
