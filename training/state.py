"""Owns what a run resumes from: networks, averages, optimizers, random state and position."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from training.config import TrainConfig
from training.ema import update_ema
from training.model.checkpoint import load_into, parse, serialize
from training.model.files import sha256_bytes, write_atomic, write_json
from training.model.networks.build import build_discriminator, build_generator, place
from training.model.networks.config import NetworkConfig
from training.optimizers import make_optimizer


class TrainingState:
    """Everything a step changes. Two equal states, given equal data, take equal steps."""

    def __init__(
        self, config: TrainConfig, network: NetworkConfig, seed: int, device: torch.device
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            g, d = build_generator(network), build_discriminator(network)
        g_ema = build_generator(network).requires_grad_(False)
        update_ema(g_ema, g, batch_size=1, half_life_nimg=0)
        self.G, self.D, self.G_ema = (place(net, device) for net in (g, d, g_ema))
        self.opt_G = make_optimizer(self.G, config)
        self.opt_D = make_optimizer(self.D, config)
        self.rng = torch.Generator(device).manual_seed(seed)
        self.cur_nimg = 0
        self.reals_position = 0
        self.elapsed_sec = 0.0

    def save(self, run_dir: Path) -> None:
        """Write state-<nimg>.safetensors, then point state.json at it, then drop older ones."""
        data = serialize(self._tensors())
        name = f"state-{self.cur_nimg:012d}.safetensors"
        write_atomic(run_dir / name, data)
        pointer = {
            "file": name,
            "sha256": sha256_bytes(data),
            "cur_nimg": self.cur_nimg,
            "reals_position": self.reals_position,
            "elapsed_sec": round(self.elapsed_sec, 3),
        }
        write_json(run_dir / "state.json", pointer)
        for path in run_dir.glob("state-*.safetensors"):
            if path.name != name:
                path.unlink()

    def load(self, run_dir: Path) -> bool:
        """Go on from `run_dir`; False if nothing was saved there. Raises CheckpointError."""
        if not (run_dir / "state.json").is_file():
            return False
        pointer = json.loads((run_dir / "state.json").read_text("utf-8"))
        path = run_dir / pointer["file"]
        tensors = parse(path.read_bytes(), pointer["sha256"], str(path))
        for name in ("G", "D", "G_ema"):
            load_into(getattr(self, name), _under(tensors, name), f"{name} in {path}")
        _load_optimizer(self.opt_G, _under(tensors, "opt_G"))
        _load_optimizer(self.opt_D, _under(tensors, "opt_D"))
        self.rng.set_state(tensors["rng"])
        self.cur_nimg = pointer["cur_nimg"]
        self.reals_position = pointer["reals_position"]
        self.elapsed_sec = pointer["elapsed_sec"]
        return True

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {"rng": self.rng.get_state()}
        for name, net in (("G", self.G), ("D", self.D), ("G_ema", self.G_ema)):
            tensors |= {f"{name}.{key}": t for key, t in net.state_dict().items()}
        for name, optimizer in (("opt_G", self.opt_G), ("opt_D", self.opt_D)):
            for i, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{slot}": t for slot, t in slots.items()}
        return tensors


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
