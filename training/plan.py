"""Owns the plan of a run: everything decided before the first step, kept by every resume."""

import json
import time
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from training.config import ConfigError, TrainConfig
from training.model.files import write_json
from training.model.networks.config import NetworkConfig

DEFAULT_MINUTES = 10.0
HARD_STOP_FACTOR = 1.5  # a run may take so many times its minutes, on a machine that got slower


@dataclass(frozen=True)
class Length:
    """How long to train: exactly one of minutes and kimg (thousands of images)."""

    minutes: float | None = None
    kimg: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.minutes, self.kimg) if v is not None]
        if len(given) != 1:
            raise ConfigError("give either --minutes or --kimg, and not both")
        if not 0 < given[0] < 1e9:
            raise ConfigError(f"the length of a run is {given[0]!r}; expected a number above 0")

    @classmethod
    def asked(cls, minutes: float | None, kimg: float | None) -> "Length":
        """What was asked for, DEFAULT_MINUTES if nothing was; raises ConfigError."""
        return cls(DEFAULT_MINUTES if minutes is None and kimg is None else minutes, kimg)

    def __str__(self) -> str:
        return f"{self.minutes:g} minutes" if self.kimg is None else f"{self.kimg:g} kimg"


@dataclass(frozen=True)
class Plan:
    """What a run will do. `asked` is what the command said, compared when it is run again.

    base: the version it starts from and its digest; None if it starts from noise.
    """

    config: TrainConfig
    network: NetworkConfig
    use_bf16: bool
    seed: int
    total_nimg: int
    hard_stop_sec: float | None
    asked: dict[str, Any]
    base: dict[str, str] | None = None


def asked_for(
    config: TrainConfig,
    preset: str,
    length: Length,
    seed: int,
    dataset_hash: str,
    base: str | None = None,
) -> dict[str, Any]:
    """What makes two commands the same run; base: the version it starts from, such as mnist@2."""
    return {
        "preset": preset,
        "config": config.to_json(),
        "length": asdict(length),
        "seed": seed,
        "dataset_hash": dataset_hash,
        "base": base,
    }


def stored_plan(run_dir: Path, config: TrainConfig, asked: dict[str, Any]) -> Plan | None:
    """The plan of a run that began earlier, or None.

    Raises ConfigError naming each difference if that run was asked for something else.
    """
    path = run_dir / "run.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text("utf-8"))
    if differences := list(_differences(_with_new_settings(stored["asked"]), asked)):
        raise ConfigError(
            f"{run_dir} holds a run with other settings: {'; '.join(differences)}; "
            "give the same ones to resume it, or another --run-dir"
        )
    return Plan(
        config=config,
        network=NetworkConfig.from_json(stored["network"]),
        use_bf16=stored["use_bf16"],
        seed=asked["seed"],
        total_nimg=stored["total_nimg"],
        hard_stop_sec=stored["hard_stop_sec"],
        asked=asked,
        base=stored.get("base"),
    )


def _with_new_settings(asked: dict[str, Any]) -> dict[str, Any]:
    """A setting that did not exist when a run began was, in effect, what is its default now."""
    defaults = {f.name: f.default for f in fields(TrainConfig) if f.default is not MISSING}
    return {**asked, "config": {**defaults, **asked["config"]}}


def _differences(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(stored.keys() | asked.keys()):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old!r}, is now {new!r}")
    return found


def fix_length(plan: Plan, length: Length, images_per_sec: Callable[[Plan], float]) -> Plan:
    """Turn minutes into images once, by the measured speed, in whole batches."""
    if length.minutes is None:
        total, hard_stop_sec = (length.kimg or 0) * 1000, None
    else:
        total = images_per_sec(plan) * length.minutes * 60
        hard_stop_sec = length.minutes * 60 * HARD_STOP_FACTOR
    batch = plan.config.batch_size
    total_nimg = max(1, round(total / batch)) * batch
    return replace(plan, total_nimg=total_nimg, hard_stop_sec=hard_stop_sec)


def store_plan(plan: Plan, run_dir: Path, about: dict[str, Any]) -> None:
    """Write run.json; `about` adds what a reader may want to know."""
    value = {
        "format": 1,
        **about,
        "asked": plan.asked,
        "base": plan.base,
        "network": plan.network.to_json(),
        "use_bf16": plan.use_bf16,
        "total_nimg": plan.total_nimg,
        "hard_stop_sec": plan.hard_stop_sec,
    }
    write_json(run_dir / "run.json", value)


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether to run the networks' bodies in bf16; `auto` does where it is the faster."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A CPU without bf16 instructions emulates them, many times slower: no flag tells, a clock does.
    return device.type == "cpu" and _conv_sec(torch.bfloat16) < _conv_sec(torch.float32)


def _conv_sec(dtype: torch.dtype) -> float:
    conv = torch.nn.Conv2d(32, 32, 3, padding=1)
    x = torch.zeros(64, 32, 14, 14).to(memory_format=torch.channels_last)
    times: list[float] = []
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for _ in range(8):
            began = time.perf_counter()
            conv(x)
            times.append(time.perf_counter() - began)
    return min(times)
