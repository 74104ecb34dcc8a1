"""Owns the training loop: step until the images are spent, and tell, save and stop on the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from training.config import TrainConfig
from training.crew import Crew
from training.health import CollapsedError, check_statistics
from training.reals import Reals
from training.state import TrainingState
from training.steps import Step


def never_collapsed(stats: dict[str, float], last: bool) -> str:
    """For a run that nobody watches."""
    return ""


def never_waits() -> None:
    """For a run that has the machine to itself."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls out to. None of it changes the course of training.

    tick: means of the statistics since the last one, every `tick_sec`.
    snapshot: every `snapshot_nimg` images and at the end; returns True once the target is reached.
    save: every `save_sec`, after a snapshot's stop, and when interrupted.
    interrupted: asked before every step. event: something a person should know of happened.
    collapsed: after every tick, with its statistics and whether it was the last one; says what of
    the images has gone, or nothing. give_way: before every step; waits for who is in a hurry.
    """

    tick: Callable[[dict[str, float]], None]
    snapshot: Callable[[], bool]
    save: Callable[[], None]
    interrupted: Callable[[], bool]
    event: Callable[[str], None] = print
    collapsed: Callable[[dict[str, float], bool], str] = never_collapsed
    give_way: Callable[[], None] = never_waits
    tick_sec: float = 1.0
    save_sec: float = 30.0


def training_loop(
    config: TrainConfig,
    state: TrainingState,
    reals: Reals,
    total_nimg: int,
    snapshot_nimg: int,
    hard_stop_sec: float,
    use_bf16: bool,
    hooks: Hooks,
    crew: Crew,
) -> bool:
    """Train until `total_nimg` images were seen; False if interrupted before that.

    Raises DivergedError when a statistic is NaN, infinite or runs away, CollapsedError when G has
    collapsed.
    """
    # Set up.
    step = Step(config, state, reals, total_nimg, use_bf16, crew, hooks.event)
    augmented = config.augment != "none"
    sums: dict[str, Tensor] = {}
    steps_in_tick = 0
    started = last_tick = last_save = time.monotonic()
    elapsed_before, looked_sec = state.elapsed_sec, 0.0

    while state.cur_nimg < total_nimg:
        # Stop where a later run can go on. One process decides, so that all do the same.
        now_sec = time.monotonic()
        stop, tick_due, save_due, overdue = crew.agree(
            [
                hooks.interrupted(),
                now_sec - last_tick >= hooks.tick_sec,
                now_sec - last_save >= hooks.save_sec,
                state.elapsed_sec >= hard_stop_sec,
            ]
        )
        if stop or overdue:
            hooks.save()
            return overdue

        # Give way: time to wait is not time to train.
        began = time.monotonic()
        hooks.give_way()
        looked_sec += time.monotonic() - began

        # Train. Sums stay on the device: reading one would wait for it.
        n = state.cur_nimg
        for name, value in step().items():
            sums[name] = sums.get(name, 0) + value
        steps_in_tick += 1
        state.elapsed_sec = elapsed_before + time.monotonic() - started - looked_sec

        # Tell.
        crossed = state.cur_nimg // snapshot_nimg > n // snapshot_nimg
        if tick_due or crossed or state.cur_nimg >= total_nimg:
            crew.average(sums.values())
            means = {name: float(value) / steps_in_tick for name, value in sums.items()}
            check_statistics(means, state.cur_nimg)
            hooks.tick({**means, **({"augment_p": state.augment_p} if augmented else {})})
            gone = hooks.collapsed(means, state.cur_nimg >= total_nimg)
            if crew.agree([gone != ""])[0]:
                raise CollapsedError(gone)
            sums, steps_in_tick, last_tick = {}, 0, now_sec
        if crossed:
            began = time.monotonic()
            reached = crew.agree([hooks.snapshot()])[0]
            looked_sec += time.monotonic() - began  # time to look is not time to train
            if reached:
                break
        if save_due:
            hooks.save()
            last_save = time.monotonic()

    hooks.save()
    return True
