"""Owns one training run in its folder: measure, train or resume, and leave a snapshot."""

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from training.data.dataset import Dataset
from training.loop import Hooks, training_loop
from training.model.checkpoint import serialize
from training.model.files import write_atomic
from training.model.grid import make_grid
from training.model.networks.build import build_generator
from training.model.networks.config import NetworkConfig
from training.model.sampling import Sampler, classes_of
from training.plan import Plan
from training.progress import Reporter
from training.reals import Reals
from training.state import TrainingState

SNAPSHOTS = 20
_UNBOUNDED = 2**62


def measure_speed(plan: Plan, dataset: Dataset, device: torch.device, seconds: float) -> float:
    """Images per second of real steps on a throw-away state, over the second half of `seconds`."""
    state = TrainingState(plan.config, plan.network, plan.seed, device)
    began = time.monotonic()
    warm: list[tuple[float, int]] = []

    def interrupted() -> bool:
        now = time.monotonic()
        if not warm and now - began >= seconds / 2 and state.cur_nimg:
            warm.append((now, state.cur_nimg))
        return bool(warm) and now - began >= seconds and state.cur_nimg > warm[0][1]

    hooks = Hooks(lambda _: None, lambda: False, lambda: None, interrupted)
    _loop(plan, state, dataset, hooks, total_nimg=_UNBOUNDED, snapshot_nimg=_UNBOUNDED)
    then, nimg = warm[0]
    return (state.cur_nimg - nimg) / (time.monotonic() - then)


def train(
    plan: Plan,
    dataset: Dataset,
    device: torch.device,
    run_dir: Path,
    report: Reporter,
    interrupted: Callable[[], bool],
    target_reached: Callable[[Sampler], bool],
) -> bool:
    """Train to the end of the plan, from the saved state if there is one.

    False if `interrupted` before that; the state is saved then. Each snapshot writes a grid and
    asks `target_reached`. The end leaves generator.safetensors in `run_dir`.
    """
    state = TrainingState(plan.config, plan.network, plan.seed, device)
    if state.load(run_dir):
        report.say(f"resuming at {state.cur_nimg / 1000:.1f} kimg")
    last = [time.monotonic(), state.cur_nimg]

    def tick(stats: dict[str, float]) -> None:
        now = time.monotonic()
        speed = (state.cur_nimg - last[1]) / max(now - last[0], 1e-9)
        last[:] = now, state.cur_nimg
        report.tick(state.cur_nimg, plan.total_nimg, state.elapsed_sec, speed, stats)

    def snapshot() -> bool:
        sampler = served_sampler(state.G_ema, plan.network, device)
        write_samples(run_dir / "samples" / f"{state.cur_nimg:012d}.png", sample_grid(sampler))
        write_samples(run_dir / "samples.png", sample_grid(sampler))
        return target_reached(sampler)

    hooks = Hooks(tick, snapshot, lambda: state.save(run_dir), interrupted)
    report.phase("training")
    finished = _loop(
        plan,
        state,
        dataset,
        hooks,
        total_nimg=plan.total_nimg,
        snapshot_nimg=max(plan.config.batch_size, plan.total_nimg // SNAPSHOTS),
    )
    if finished:
        write_atomic(run_dir / "generator.safetensors", serialize(state.G_ema.state_dict()))
    return finished


def served_sampler(
    generator: torch.nn.Module, network: NetworkConfig, device: torch.device
) -> Sampler:
    """A sampler of a copy of `generator`, just as a service would make it from the weights."""
    copy = build_generator(network)
    copy.load_state_dict(generator.state_dict())
    return Sampler(copy.requires_grad_(False), network, device)


def sample_grid(sampler: Sampler) -> np.ndarray:
    """Eight rows of fixed seeds, one column per class where there are at most 16."""
    classes = sampler.config.num_classes
    columns = classes if 2 <= classes <= 16 else 10
    seeds = range(8 * columns)
    c = np.arange(8 * columns) % classes if columns == classes else classes_of(seeds, classes)
    return make_grid(sampler.from_seeds(seeds, c), columns)


def write_samples(path: Path, pixels: np.ndarray) -> None:
    """An (H, W, C) grid as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png_bytes(pixels))


def png_bytes(pixels: np.ndarray) -> bytes:
    """(H, W, C) uint8, C = 1 or 3 → PNG bytes."""
    buffer = BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _loop(plan: Plan, state: TrainingState, dataset: Dataset, hooks: Hooks, **length: Any) -> bool:
    images, labels = dataset.split(heldout=False)
    return training_loop(
        plan.config,
        state,
        Reals(images, labels, plan.seed, state.rng.device),
        hard_stop_sec=plan.hard_stop_sec or float("inf"),
        use_bf16=plan.use_bf16,
        hooks=hooks,
        **length,
    )
