"""Owns one step: an update of D and one of G on fresh draws, and all else a step changes."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.augment.adaptive import adjust
from training.augment.augmentation import make_augmentation
from training.batches import Batch, Drawer
from training.config import TrainConfig
from training.crew import Crew
from training.ema import update_ema
from training.health import is_out_of_memory
from training.objectives import Stats, discriminator_loss, generator_loss, vae_loss
from training.optimizers import set_schedule
from training.reals import Reals
from training.schedules import Moment, moment_at
from training.state import TrainingState

LossOf = Callable[[Batch], Stats]


ADAPT_STEPS = 4  # steps between two moves of an adaptive p (ADA, arXiv 2006.06676, section 3.1)
ADAPT_FRACTION = 0.05  # of the run: what an adaptive p would take from 0 to 1


class Step:
    """`step()` changes everything in `state` once and returns what it measured.

    R3GAN (arXiv 2501.05441): D then G, never on the same draw. A VAE updates encoder and decoder
    together. `total_nimg` is what the schedules run over; `told` hears when memory runs out.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: TrainingState,
        reals: Reals,
        total_nimg: int,
        use_bf16: bool,
        crew: Crew,
        told: Callable[[str], None],
    ) -> None:
        augmentation = None if config.augment == "none" else make_augmentation(config.augment)
        reals.position = state.reals_position
        self._config = config
        self._state = state
        self._reals = reals
        self._drawer = Drawer(config, reals, state.rng, augmentation)
        self._total_nimg = total_nimg
        self._crew = crew
        self._told = told
        self._autocast = torch.autocast(crew.device.type, torch.bfloat16, enabled=use_bf16)
        self._G = _compiled(state.G, config.compile)
        self._D = _compiled(state.D, config.compile)

    def __call__(self) -> Stats:
        config, state = self._config, self._state

        # Settings that move.
        now = moment_at(config, state.cur_nimg, self._total_nimg)
        now = replace(now, gamma=state.gamma_factor * now.gamma)
        if config.augment_schedule == "adaptive":
            now = replace(now, augment_p=state.augment_p)
        set_schedule(state.opt_D, state.rate * now.lr_d, now.beta2_d)
        set_schedule(state.opt_G, state.rate * now.lr_g, now.beta2_g)

        # Update the players, and the averages of G.
        stats = self._vae_step(now) if config.objective == "vae" else self._gan_step(now)
        for ema, half_life_nimg in zip(state.emas, now.ema_half_lives, strict=True):
            update_ema(ema, state.G, config.batch_size, half_life_nimg)

        # Count.
        state.cur_nimg += config.batch_size
        state.reals_position = self._reals.position
        state.augment_p = now.augment_p
        if config.augment_schedule == "adaptive":
            self._adapt(stats["sign_real"])
        return stats

    def _gan_step(self, now: Moment) -> Stats:
        state, stats = self._state, Stats()
        for _ in range(self._config.d_steps):
            batch = self._drawer.next(now, for_d=True)
            stats = self._update(
                [state.opt_D],
                batch,
                lambda part: discriminator_loss(self._config, self._G, self._D, part, now),
            )
        batch = self._drawer.next(now, for_d=False)
        with _frozen(state.D):
            return stats | self._update(
                [state.opt_G],
                batch,
                lambda part: generator_loss(self._config, self._G, self._D, part),
            )

    def _vae_step(self, now: Moment) -> Stats:
        return self._update(
            [self._state.opt_D, self._state.opt_G],
            self._drawer.next(now, for_d=False),
            lambda part: vae_loss(self._config, self._G, self._D, part),
        )

    def _update(self, optimizers: list[Optimizer], batch: Batch, loss_of: LossOf) -> Stats:
        """Step on the mean of `loss_of` over the batch; in finer parts if memory runs out."""
        share = self._crew.share(batch)
        while True:
            try:
                stats = self._gradients(optimizers, share, loss_of)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._state.parts >= len(share):
                    raise
            # Outside of the handler, which keeps the failed pass's memory alive.
            self._state.parts = _finer(self._state.parts, len(share))
            self._told(f"out of memory; going on in {self._state.parts} parts a batch")
        self._crew.average(p.grad for o in optimizers for p in _parameters(o) if p.grad is not None)
        for optimizer in optimizers:
            optimizer.step()
        return stats

    def _adapt(self, sign: Tensor) -> None:
        """Augment more when D tells the reals too surely, less when it does not (ADA)."""
        config, state = self._config, self._state
        state.signs += sign
        if state.cur_nimg // config.batch_size % ADAPT_STEPS:
            return
        self._crew.average([state.signs])
        state.augment_p = adjust(
            state.augment_p,
            sign_mean=float(state.signs) / ADAPT_STEPS,
            target=config.augment_target,
            images=ADAPT_STEPS * config.batch_size,
            adapt_nimg=ADAPT_FRACTION * self._total_nimg,
        )
        state.signs.zero_()

    def _gradients(self, optimizers: list[Optimizer], share: Batch, loss_of: LossOf) -> Stats:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: Stats = {}
        parts = self._state.parts
        for part in share.cut(parts):
            with self._autocast:
                stats = loss_of(part)
            (next(iter(stats.values())) / parts).backward()
            for name, value in stats.items():
                sums[name] = sums.get(name, 0) + value.detach() / parts
        return sums


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _finer(parts: int, size: int) -> int:
    """The next number of parts that divides a batch of `size`."""
    return next(n for n in range(parts + 1, size + 1) if size % n == 0)


def _compiled(net: nn.Module, mode: str) -> Any:
    return net if mode == "off" else torch.compile(net, mode=mode)


@contextmanager
def _frozen(net: nn.Module) -> Generator[None, None, None]:
    """Gradients pass through `net` and leave none in its weights."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)
