"""Owns the saved state of a training as something to be tried: the only operation with torch."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.chaos.operations import Act, Operation
from training.model.networks.config import NetworkConfig
from training.presets import PRESETS
from training.state import TrainingState

CONFIG = PRESETS["tiny"]
STEP_NIMG = 16


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


def _run_dir(data: Path) -> Path:
    return data / "runs" / "job_1"


def _state() -> TrainingState:
    torch.set_num_threads(1)
    return TrainingState(CONFIG, _network(), 0, torch.device("cpu"))


def _network() -> NetworkConfig:
    return CONFIG.network(28, 1, 2)
