"""Owns one training run in its folder: measure, train or resume, and leave a snapshot."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from training.crew import Crew
from training.data.dataset import Dataset
from training.health import MAX_ROLLBACKS, DivergedError, check_weights
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
from training.report import write_report
from training.state import TrainingState

SNAPSHOTS = 20
_UNBOUNDED = 2**62


@dataclass(frozen=True)
class Run:
    """One run: what it does, on what, where, and with whom."""

    plan: Plan
    dataset: Dataset
    run_dir: Path
    crew: Crew
    report: Reporter

    @property
    def device(self) -> torch.device:
        return self.crew.device


def measure_speed(plan: Plan, dataset: Dataset, crew: Crew, seconds: float) -> float:
    """Images per second of real steps on a throw-away state, over the second half of `seconds`."""
    state = TrainingState(plan.config, plan.network, plan.seed, crew.device)
    began = time.monotonic()
    warm: list[tuple[float, int]] = []

    def interrupted() -> bool:
        now = time.monotonic()
        if not warm and now - began >= seconds / 2 and state.cur_nimg:
            warm.append((now, state.cur_nimg))
        return bool(warm) and now - began >= seconds and state.cur_nimg > warm[0][1]

    hooks = Hooks(_ignore, lambda: False, lambda: None, interrupted, _ignore)
    reals = _reals(plan, dataset, crew)
    training_loop(
        plan.config, state, reals, _UNBOUNDED, _UNBOUNDED, _UNBOUNDED, plan.use_bf16, hooks, crew
    )
    then, nimg = warm[0] if warm else (began, 0)
    return (state.cur_nimg - nimg) / (time.monotonic() - then)


def train(
    run: Run,
    interrupted: Callable[[], bool],
    measured: Callable[[Sampler], dict[str, Any] | None],
    until_fd: float | None,
    save_sec: float,
) -> bool:
    """Train to the end of the plan, from the saved state if there is one.

    False if `interrupted` before that; the state is saved then. Each snapshot writes a grid and
    what `measured` tells of it; an `fd_cnn` of `until_fd` or less ends the run. A run that breaks
    goes back to its last good state, at most MAX_ROLLBACKS times; then DivergedError says why. The
    end leaves averages/*.safetensors.
    """
    plan, report, run_dir = run.plan, run.report, run.run_dir
    state = TrainingState(plan.config, plan.network, plan.seed, run.device)
    if state.load(run_dir):
        report.resume(state.cur_nimg, state.elapsed_sec)
    elif run.crew.leads:
        state.save(run_dir)  # so that there is a good state to go back to
    run.crew.wait()
    hooks = _hooks(run, state, interrupted, measured, until_fd, save_sec)
    reals = _reals(plan, run.dataset, run.crew)
    report.phase("training")
    while True:
        try:
            finished = training_loop(
                plan.config,
                state,
                reals,
                plan.total_nimg,
                max(plan.config.batch_size, plan.total_nimg // SNAPSHOTS),
                plan.hard_stop_sec or float("inf"),
                plan.use_bf16,
                hooks,
                run.crew,
            )
            break
        except DivergedError as error:
            _roll_back(run, state, error)
    if run.crew.leads:
        write_report(run_dir, final=False)
    if finished and run.crew.leads:
        for i, ema in enumerate(state.emas):
            path = run_dir / "averages" / f"{i}.safetensors"
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, serialize(ema.state_dict()))
    return finished


def _hooks(
    run: Run,
    state: TrainingState,
    interrupted: Callable[[], bool],
    measured: Callable[[Sampler], dict[str, Any] | None],
    until_fd: float | None,
    save_sec: float,
) -> Hooks:
    if not run.crew.leads:
        return _followers_hooks(state, interrupted)
    plan, report, run_dir = run.plan, run.report, run.run_dir
    last = [time.monotonic(), state.cur_nimg]

    def tick(stats: dict[str, float]) -> None:
        now = time.monotonic()
        speed = (state.cur_nimg - last[1]) / max(now - last[0], 1e-9)
        last[:] = now, state.cur_nimg
        report.tick(state.cur_nimg, plan.total_nimg, state.elapsed_sec, max(speed, 0.0), stats)

    def snapshot() -> bool:
        check_weights(state.G_ema.state_dict(), state.cur_nimg)
        sampler = served_sampler(state.G_ema, plan.network, run.device)
        grid = sample_grid(sampler)
        write_samples(run_dir / "samples" / f"{state.cur_nimg:012d}.png", grid)
        write_samples(run_dir / "samples.png", grid)
        metrics = measured(sampler)
        if metrics is not None:
            report.measured(metrics, state.cur_nimg, state.elapsed_sec)
        write_report(run_dir, final=False)
        last[:] = time.monotonic(), state.cur_nimg
        return metrics is not None and until_fd is not None and metrics["fd_cnn"] <= until_fd

    def event(text: str) -> None:
        report.event("out_of_memory", text, state.cur_nimg, state.elapsed_sec)

    return Hooks(tick, snapshot, lambda: state.save(run_dir), interrupted, event, save_sec=save_sec)


def _followers_hooks(state: TrainingState, interrupted: Callable[[], bool]) -> Hooks:
    """Of a process that writes nothing; what breaks the leader's run breaks its own beside it."""

    def snapshot() -> bool:
        check_weights(state.G_ema.state_dict(), state.cur_nimg)
        return False

    return Hooks(_ignore, snapshot, state.check, interrupted, _ignore)


def _roll_back(run: Run, state: TrainingState, error: DivergedError) -> None:
    """Back to the last good state; raises DivergedError with the advice once that was tried."""
    if state.rollbacks >= MAX_ROLLBACKS:
        text = (
            f"training broke {state.rollbacks + 1} times, the last time because {error}; the last "
            f"good state is kept in {run.run_dir}; lower lr_g and lr_d or raise gamma, and start "
            "a new run"
        )
        run.report.event("gave_up", text, state.cur_nimg, state.elapsed_sec)
        raise DivergedError(text) from error
    elapsed_sec = state.elapsed_sec
    state.roll_back(run.run_dir)
    state.elapsed_sec = elapsed_sec  # the time is spent
    run.crew.wait()
    if run.crew.leads:
        state.save(run.run_dir)
    text = (
        f"{error}; back to {state.cur_nimg / 1000:.1f} kimg with rates × {state.rate:g} "
        f"(rollback {state.rollbacks} of {MAX_ROLLBACKS})"
    )
    run.report.event("rolled_back", text, state.cur_nimg, state.elapsed_sec)
    run.report.forget_after(state.cur_nimg)


def _reals(plan: Plan, dataset: Dataset, crew: Crew) -> Reals:
    images, labels = dataset.split(heldout=False)
    return Reals(images, labels, plan.seed, crew.device, plan.config.mirror)


def _ignore(_: object) -> None:
    """For a process that leaves the talking to another."""


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
