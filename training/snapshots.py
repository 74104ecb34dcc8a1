"""Owns the generators a run kept on its way, and when each was made."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from training.history import History, read_history
from training.model.checkpoint import trained_generator
from training.model.networks.config import NetworkConfig
from training.model.sampling import Sampler


@dataclass(frozen=True)
class Snapshot:
    """G's average after `cur_nimg` images and `elapsed_sec` seconds of training."""

    cur_nimg: int
    elapsed_sec: float | None
    sampler: Sampler


def snapshot_paths(run_dir: Path) -> list[Path]:
    """What `train --keep-snapshots` left so far, oldest first; their stems count images."""
    return sorted((run_dir / "snapshots").glob("*.safetensors"))


def list_snapshots(run_dir: Path) -> list[Path]:
    """The `snapshot_paths`; raises ValueError if there is none."""
    paths = snapshot_paths(run_dir)
    if not paths:
        raise ValueError(
            f"{run_dir} holds no snapshots; train it with --keep-snapshots to look back at it"
        )
    return paths


def seconds_by_images(history: History) -> dict[int, float]:
    """How long a run had trained when it had seen so many images, wherever it told of it."""
    return {row["cur_nimg"]: row["elapsed_sec"] for row in history.stats}


def read_snapshots(run_dir: Path, device: torch.device) -> Iterator[Snapshot]:
    """Each snapshot of a run, oldest first. Raises ValueError, CheckpointError."""
    paths, history = list_snapshots(run_dir), read_history(run_dir)
    network = NetworkConfig.from_json(history.run["network"])
    seconds = seconds_by_images(history)
    for path in paths:
        generator = trained_generator(path.read_bytes(), network, str(path))
        sampler = Sampler(generator, network, device)
        yield Snapshot(int(path.stem), seconds.get(int(path.stem)), sampler)
