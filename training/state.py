"""Owns what a run resumes from: networks, averages, optimizers, random state and counters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.config import TrainConfig
from training.ema import update_ema
from training.health import RATE_CUT, check_weights
from training.initialisation import initialise
from training.model.checkpoint import load_into, parse, serialize
from training.model.files import sha256_bytes, write_atomic, write_json
from training.model.networks.build import (
    build_discriminator,
    build_encoder,
    build_generator,
    place,
)
from training.model.networks.config import NetworkConfig
from training.optimizers import make_optimizer
from training.pins import LATEST, Pointer, pinned_files, read_pointer

_COUNTERS = (
    "cur_nimg", "reals_position", "elapsed_sec", "parts", "rate", "gamma_factor", "rollbacks",
    "augment_p",
)  # fmt: skip


class TrainingState:
    """Everything a step changes. Two equal states, given equal data, take equal steps."""

    def __init__(
        self, config: TrainConfig, network: NetworkConfig, seed: int, device: torch.device
    ) -> None:
        self._seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            g, d = build_generator(network), _build_d(config, network)
            initialise(g, config.init)
            initialise(d, config.init)
            emas = [build_generator(network).requires_grad_(False) for _ in config.ema_fractions]
        self.G, self.D = place(g, device), place(d, device)
        self.emas = [place(ema, device) for ema in emas]
        for ema in self.emas:
            update_ema(ema, self.G, batch_size=1, half_life_nimg=0)
        self.opt_G = make_optimizer(self.G, config.g)
        self.opt_D = make_optimizer(self.D, config.d)
        self.rng = torch.Generator(device).manual_seed(seed)
        self.cur_nimg = 0
        self.reals_position = 0
        self.elapsed_sec = 0.0
        self.parts = config.accumulation  # of a batch, as many as the memory needs
        self.rate = 1.0  # what is left of the learning rates
        self.gamma_factor = 1.0  # what γ was raised by
        self.rollbacks = 0
        self.augment_p = 0.0  # where it is adaptive
        self.signs = torch.zeros((), device=device)

    @property
    def G_ema(self) -> nn.Module:
        """The average that is looked at while the run goes on: the first."""
        return self.emas[0]

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Give G and its averages a trained G's weights; D learns anew what is real."""
        for net in (self.G, *self.emas):
            net.load_state_dict(weights)

    def save(self, run_dir: Path) -> None:
        """Write state-<nimg>.safetensors, point state.json at it, drop older ones not pinned.

        Keeps the one before, and raises DivergedError if a weight or a moment is not finite,
        OSError with the bytes that are needed if they cannot be written.
        """
        self.check()
        data = serialize(self._tensors())
        # A pinned state must not be overwritten by the one that a rollback makes of it.
        name = f"state-{self.cur_nimg:012d}-{self.rollbacks}.safetensors"
        _write(run_dir / name, data)
        pointer = {
            "file": name,
            "sha256": sha256_bytes(data),
            **{name: getattr(self, name) for name in _COUNTERS},
        }
        write_json(run_dir / LATEST, pointer)
        for path in run_dir.glob("state-*.safetensors"):
            if path.name not in {name, *pinned_files(run_dir)}:
                path.unlink()

    def check(self) -> None:
        """Raises DivergedError if a weight or a moment is not finite."""
        check_weights(self._tensors(), self.cur_nimg)

    def load(self, run_dir: Path) -> bool:
        """Go on from `run_dir`; False if nothing was saved there. Raises CheckpointError."""
        pointer = read_pointer(run_dir)
        if pointer is not None:
            self._load(run_dir, pointer)
        return pointer is not None

    def _load(self, run_dir: Path, pointer: Pointer) -> None:
        path = run_dir / pointer["file"]
        tensors = parse(path.read_bytes(), pointer["sha256"], str(path))
        for name, net in self._networks():
            load_into(net, _under(tensors, name), f"{name} in {path}")
        _load_optimizer(self.opt_G, _under(tensors, "opt_G"))
        _load_optimizer(self.opt_D, _under(tensors, "opt_D"))
        self.rng.set_state(tensors["rng"])
        self.signs.copy_(tensors["signs"])
        for name in _COUNTERS:
            setattr(self, name, pointer[name])

    def roll_back(self, run_dir: Path, pointer: Pointer, gamma_raise: float = 1.0) -> None:
        """Go on from a state in `run_dir` with half the rates, γ raised and other draws."""
        rollbacks, rate = self.rollbacks + 1, self.rate * RATE_CUT
        gamma_factor = self.gamma_factor * gamma_raise
        self._load(run_dir, pointer)
        self.rollbacks, self.rate, self.gamma_factor = rollbacks, rate, gamma_factor
        self.rng.manual_seed(self._seed + rollbacks)

    def _networks(self) -> list[tuple[str, nn.Module]]:
        emas = [(f"ema{i}", ema) for i, ema in enumerate(self.emas)]
        return [("G", self.G), ("D", self.D), *emas]

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {"rng": self.rng.get_state(), "signs": self.signs}
        for name, net in self._networks():
            tensors |= {f"{name}.{key}": t for key, t in net.state_dict().items()}
        for name, optimizer in (("opt_G", self.opt_G), ("opt_D", self.opt_D)):
            for i, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{slot}": t for slot, t in slots.items()}
        return tensors


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        needed = f"{error.strerror}, {len(data):,} bytes are needed"
        raise OSError(error.errno or 0, needed, str(path)) from error


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


def _load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, slot = key.split(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # In the parameter's own memory format: the fused kernel walks both side by side.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[slot] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _build_d(config: TrainConfig, network: NetworkConfig) -> nn.Module:
    if config.objective == "vae":
        return build_encoder(network)
    return build_discriminator(network, classifies=config.classifies)
