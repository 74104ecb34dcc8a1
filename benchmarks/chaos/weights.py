"""Owns what is tried with real weights, and so with torch: saved states, versions out and in."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from app.transfer import export_version, import_version
from benchmarks.chaos.operations import FILES, MODEL, Act, Operation
from training.model.checkpoint import serialize
from training.model.networks.build import build_generator, num_parameters
from training.model.networks.config import NetworkConfig
from training.model.registry import Registry
from training.presets import PRESETS
from training.state import TrainingState

CONFIG = PRESETS["tiny"]
STEP_NIMG = 16
MAX_BYTES = 10_000_000
COPY = "copy"


class Checkpoint(Operation):
    """A state that follows another one: written, pointed at, and the older one dropped."""

    def prepare(self, data: Path) -> None:
        run_dir = _run_dir(data)
        run_dir.mkdir(parents=True)
        _state().save(run_dir)

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        state = _state()
        assert state.load(_run_dir(data))
        state.cur_nimg = STEP_NIMG
        with torch.no_grad():
            for parameter in state.G.parameters():
                parameter += 1
        return lambda: state.save(_run_dir(data))

    def effects(self, data: Path) -> int:
        pointer = json.loads((_run_dir(data) / "state.json").read_text("utf-8"))
        return int(pointer["cur_nimg"] == STEP_NIMG)


class Export(Operation):
    """A version into one file."""

    def prepare(self, data: Path) -> None:
        torch.set_num_threads(1)
        network = _network()
        generator = build_generator(network)
        files = {**FILES, "generator.safetensors": serialize(generator.state_dict())}
        manifest = {
            "network": network.to_json(),
            "class_names": ["a", "b"],
            "num_parameters": num_parameters(generator),
            "lineage": {},
        }
        Registry(data / "models").register(MODEL, files, manifest, "run")

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        registry = Registry(data / "models")
        return lambda: export_version(registry, MODEL, 1, data / "version.zip")

    def effects(self, data: Path) -> int:
        """1 if it is there whole: it can be imported elsewhere."""
        path = data / "version.zip"
        if not path.exists():
            return 0
        import_version(
            Registry(data / "elsewhere" / str(time.monotonic_ns())), path, None, MAX_BYTES
        )
        return 1


class Import(Export):
    """A version out of one file, as another model."""

    def prepare(self, data: Path) -> None:
        super().prepare(data)
        super().begin(data)()

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        registry = Registry(data / "models")
        return lambda: import_version(registry, data / "version.zip", COPY, MAX_BYTES)

    def effects(self, data: Path) -> int:
        registry = Registry(data / "models")
        return len(registry.versions(COPY)) if COPY in registry.list_models() else 0


def _run_dir(data: Path) -> Path:
    return data / "runs" / "job_1"


def _state() -> TrainingState:
    torch.set_num_threads(1)
    return TrainingState(CONFIG, _network(), 0, torch.device("cpu"))


def _network() -> NetworkConfig:
    return CONFIG.network(28, 1, 2)


WITH_TORCH: tuple[Operation, ...] = (Checkpoint(), Export(), Import())
