"""Owns one training run in its folder: measure, train or resume, and leave a snapshot."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from training.base import Base
from training.collapse.watch import CollapseWatch
from training.crew import Crew
from training.data.dataset import Dataset
from training.health import (
    GAMMA_RAISE,
    MAX_ROLLBACKS,
    CollapsedError,
    DivergedError,
    check_weights,
)
from training.lookout import Lookout
from training.loop import Hooks, never_collapsed, never_waits, training_loop
from training.model.checkpoint import serialize
from training.model.files import write_atomic
from training.model.grid import make_grid
from training.model.networks.build import build_generator
from training.model.networks.config import NetworkConfig
from training.model.sampling import Sampler, classes_of
from training.pictures import png_bytes
from training.pins import good_pointer, read_pointer, unpin
from training.plan import Plan
from training.progress import Reporter
from training.reals import Reals
from training.report import write_report
from training.state import TrainingState

SNAPSHOTS = 20
_UNBOUNDED = 2**62


@dataclass(frozen=True)
class Run:
    """One run: what it does, on what, where, with whom, and from what if not from noise."""

    plan: Plan
    dataset: Dataset
    run_dir: Path
    crew: Crew
    report: Reporter
    keep_snapshots: bool = False
    base: Base | None = None
    give_way: Callable[[], None] = never_waits

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
    if resumed := state.load(run_dir):
        report.resume(state.cur_nimg, state.elapsed_sec)
    elif run.base is not None:
        state.start_from(run.base.weights)
    if run.crew.leads and not resumed:
        state.save(run_dir)  # so that there is a good state to go back to
    run.crew.wait()
    lookout = _lookout(run, state)
    hooks = _hooks(run, state, lookout, interrupted, measured, until_fd, save_sec)
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
            if lookout is not None:
                lookout.restart()
    if run.crew.leads:
        write_report(run_dir, final=False)
    if lookout is not None and lookout.windows:
        told = f"{lookout.windows} windows, {lookout.share:.1%} of the time of training"
        report.say(f"collapse watch: {told}")
    if finished and run.crew.leads:
        unpin(run_dir)
        for i, ema in enumerate(state.emas):
            _write_weights(run_dir / "averages" / f"{i}.safetensors", ema)
    return finished


def _write_weights(path: Path, net: torch.nn.Module) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, serialize(net.state_dict()))


def _hooks(
    run: Run,
    state: TrainingState,
    lookout: Lookout | None,
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
        seen = lookout.take_statistics() if lookout else {}
        told = {**stats, **seen}
        report.tick(state.cur_nimg, plan.total_nimg, state.elapsed_sec, max(speed, 0.0), told)

    def snapshot() -> bool:
        check_weights(state.G_ema.state_dict(), state.cur_nimg)
        sampler = served_sampler(state.G_ema, plan.network, run.device)
        grid = sample_grid(sampler)
        write_samples(run_dir / "samples" / f"{state.cur_nimg:012d}.png", grid)
        write_samples(run_dir / "samples.png", grid)
        report.sampled(f"samples/{state.cur_nimg:012d}.png", state.cur_nimg, state.elapsed_sec)
        if run.keep_snapshots:
            _write_weights(
                run_dir / "snapshots" / f"{state.cur_nimg:012d}.safetensors", state.G_ema
            )
        metrics = measured(sampler)
        if metrics is not None:
            report.measured(metrics, state.cur_nimg, state.elapsed_sec)
        write_report(run_dir, final=False)
        last[:] = time.monotonic(), state.cur_nimg
        return metrics is not None and until_fd is not None and metrics["fd_cnn"] <= until_fd

    def event(text: str) -> None:
        report.event("out_of_memory", text, state.cur_nimg, state.elapsed_sec)

    def save() -> None:
        state.save(run_dir)

    collapsed = lookout or never_collapsed
    return Hooks(
        tick,
        snapshot,
        save,
        interrupted,
        event,
        collapsed,
        give_way=run.give_way,
        save_sec=save_sec,
    )


def _lookout(run: Run, state: TrainingState) -> Lookout | None:
    """Who looks for collapse in this process, if anybody does."""
    plan = run.plan
    if not (plan.config.collapse_watch and run.crew.leads):
        return None
    run.report.phase("calibrating the collapse watch")
    images, labels = run.dataset.split(heldout=False)
    watch = CollapseWatch(images, labels, run.dataset.num_classes, plan.seed)
    if watch.off is not None:
        run.report.event("warning", watch.off, state.cur_nimg, state.elapsed_sec)
        return None
    return Lookout(watch, state, plan.network, plan.use_bf16, run.run_dir)


def _followers_hooks(state: TrainingState, interrupted: Callable[[], bool]) -> Hooks:
    """Of a process that writes nothing; what breaks the leader's run breaks its own beside it."""

    def snapshot() -> bool:
        check_weights(state.G_ema.state_dict(), state.cur_nimg)
        return False

    return Hooks(_ignore, snapshot, state.check, interrupted, _ignore)


def _roll_back(run: Run, state: TrainingState, error: DivergedError) -> None:
    """Back to the last good state; raises DivergedError with the advice once that was tried."""
    collapsed = isinstance(error, CollapsedError)
    cause = f"modes collapsed: {error}" if collapsed else str(error)
    pointer = good_pointer(run.run_dir) if collapsed else read_pointer(run.run_dir)
    assert pointer is not None, "a run saves its state before its first step"
    elapsed_sec, given_up = state.elapsed_sec, state.rollbacks >= MAX_ROLLBACKS
    state.roll_back(run.run_dir, pointer, GAMMA_RAISE if collapsed else 1.0)
    state.elapsed_sec = elapsed_sec  # the time is spent
    if given_up:
        _give_up(run, state, cause)
    run.crew.wait()
    if run.crew.leads:
        state.save(run.run_dir)
    raised = f" and γ × {state.gamma_factor:g}" if state.gamma_factor > 1 else ""
    text = (
        f"{cause}; back to {state.cur_nimg / 1000:.1f} kimg with rates × {state.rate:g}{raised} "
        f"(rollback {state.rollbacks} of {MAX_ROLLBACKS})"
    )
    run.report.event("rolled_back", text, state.cur_nimg, state.elapsed_sec)
    run.report.forget_after(state.cur_nimg)


def _give_up(run: Run, state: TrainingState, cause: str) -> NoReturn:
    """Leave the last good average of G and say why there is no more than that."""
    if run.crew.leads:
        _write_weights(run.run_dir / "last_good.safetensors", state.G_ema)
    text = (
        f"training broke {state.rollbacks} times, the last time because {cause}; the last good "
        f"state is kept in {run.run_dir}, its generator in last_good.safetensors; lower lr_g and "
        "lr_d or raise gamma, and start a new run"
    )
    run.report.event("gave_up", text, state.cur_nimg, state.elapsed_sec)
    raise DivergedError(text)


def _reals(plan: Plan, dataset: Dataset, crew: Crew) -> Reals:
    images, labels = dataset.split(heldout=False)
    config = plan.config
    return Reals(images, labels, plan.seed, crew.device, config.mirror, config.class_balance)


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
