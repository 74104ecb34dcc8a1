"""Owns the training loop: alternate steps of D and G until the images are spent."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.ema import update_ema
from training.losses import LOSSES, Loss
from training.optimizers import set_schedule
from training.penalties import exact_penalty, finite_difference_penalty
from training.reals import Reals
from training.schedules import Cosine
from training.state import TrainingState


class DivergedError(Exception):
    """A loss stopped being a finite number."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls out to. None of it changes the course of training.

    tick: means of the statistics since the last one, every `tick_sec`.
    snapshot: every `snapshot_nimg` images and at the end; returns True once the target is reached.
    save: every `save_sec`, after a snapshot's stop, and when interrupted.
    interrupted: asked before every step.
    """

    tick: Callable[[dict[str, float]], None]
    snapshot: Callable[[], bool]
    save: Callable[[], None]
    interrupted: Callable[[], bool]
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
) -> bool:
    """Train until `total_nimg` images were seen; False if interrupted before that.

    One step is an update of D and one of G, each on fresh reals and fresh latents, with fakes that
    carry the labels of the reals they are paired with (R3GAN, arXiv 2501.05441).
    Raises DivergedError when a loss is NaN or infinite.
    """
    # Set up.
    loss = LOSSES[config.loss]
    device = state.rng.device
    batch = config.batch_size
    burn_in_nimg = config.burn_in_fraction * total_nimg
    lr_scale = Cosine(1.0, config.lr_final_ratio)
    beta2 = Cosine(config.beta2, config.beta2_final)
    gamma = Cosine(config.gamma, config.gamma_final)
    ema_half_life_nimg = Cosine(0.0, config.ema_fraction * total_nimg)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=use_bf16)
    reals.position = state.reals_position
    sums: dict[str, Tensor] = {}
    steps_in_tick = 0
    started = last_tick = last_save = time.monotonic()
    elapsed_before = state.elapsed_sec

    while state.cur_nimg < total_nimg:
        # Stop where a later run can go on.
        if hooks.interrupted():
            hooks.save()
            return False

        # Settings that move.
        n = state.cur_nimg
        scale, b2 = lr_scale.at(n, burn_in_nimg), beta2.at(n, burn_in_nimg)
        set_schedule(state.opt_D, config.lr_d * scale, config.beta1, b2)
        set_schedule(state.opt_G, config.lr_g * scale, config.beta1, b2)

        # Update D.
        images, c = reals.next(batch)
        with torch.no_grad(), autocast:
            fakes = state.G(_draw_z(state, config), c)
        with autocast:
            stats = discriminator_loss(
                config, loss, state.D, images, fakes, c, gamma.at(n, burn_in_nimg), state.rng
            )
        state.opt_D.zero_grad(set_to_none=True)
        stats["loss_D"].backward()
        state.opt_D.step()

        # Update G.
        images, c = reals.next(batch)
        state.D.requires_grad_(False)
        with autocast:
            stats["loss_G"] = generator_loss(config, loss, state, images, c)
        state.opt_G.zero_grad(set_to_none=True)
        stats["loss_G"].backward()
        state.opt_G.step()
        state.D.requires_grad_(True)

        # Average G.
        update_ema(state.G_ema, state.G, batch, ema_half_life_nimg.at(n, burn_in_nimg))

        # Count. Sums stay on the device: reading one would wait for it.
        state.cur_nimg += batch
        state.reals_position = reals.position
        for name, value in stats.items():
            sums[name] = sums.get(name, 0) + value.detach()
        steps_in_tick += 1
        now = time.monotonic()
        state.elapsed_sec = elapsed_before + now - started

        # Tell.
        crossed = state.cur_nimg // snapshot_nimg > n // snapshot_nimg
        if now - last_tick >= hooks.tick_sec or crossed or state.cur_nimg >= total_nimg:
            means = {name: float(value) / steps_in_tick for name, value in sums.items()}
            _check_finite(means, state.cur_nimg)
            hooks.tick(means)
            sums, steps_in_tick, last_tick = {}, 0, now
        if crossed and hooks.snapshot():
            break
        if now - last_save >= hooks.save_sec:
            hooks.save()
            last_save = time.monotonic()
        if state.elapsed_sec >= hard_stop_sec:
            break

    hooks.save()
    return True


def discriminator_loss(
    config: TrainConfig,
    loss: Loss,
    discriminator: nn.Module,
    images: Tensor,
    fakes: Tensor,
    c: Tensor,
    gamma: float,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """D's objective `loss_D` = loss + γ/2·(λ₁R1 + λ₂R2) and its parts, each a scalar.

    images, fakes: (B, C, H, W), no gradient wanted through either; c: (B,).
    """
    both, cc = torch.cat([images, fakes]), torch.cat([c, c])
    if config.penalty == "exact":
        both.requires_grad_(True)
        logits = discriminator(both, cc)
        penalties = exact_penalty(logits, both)
    else:
        noise = torch.randn(both.shape, generator=rng, device=both.device)
        moved = both + config.penalty_epsilon * noise
        # One pass over twice the images is cheaper than two passes.
        logits, moved_logits = discriminator(torch.cat([both, moved]), cc.repeat(2)).chunk(2)
        penalties = finite_difference_penalty(logits, moved_logits, config.penalty_epsilon)
    real_logits, fake_logits = logits.chunk(2)
    r1, r2 = (penalty.mean() for penalty in penalties.chunk(2))
    adversarial = loss.d(real_logits, fake_logits)
    weighted = gamma / 2 * (config.r1_weight * r1 + config.r2_weight * r2)
    return {
        "loss_D": adversarial + weighted,
        "adversarial_D": adversarial,
        "r1": r1,
        "r2": r2,
        "logit_gap": (real_logits - fake_logits).mean(),
    }


def generator_loss(
    config: TrainConfig, loss: Loss, state: TrainingState, images: Tensor, c: Tensor
) -> Tensor:
    """G's objective on fresh fakes of classes `c`, paired with `images`; a scalar."""
    fakes = state.G(_draw_z(state, config), c)
    if not loss.g_needs_reals:
        fake_logits = state.D(fakes, c)
        return loss.g(fake_logits, fake_logits)
    real_logits, fake_logits = state.D(torch.cat([images, fakes]), c.repeat(2)).chunk(2)
    return loss.g(real_logits, fake_logits)


def _draw_z(state: TrainingState, config: TrainConfig) -> Tensor:
    shape = (config.batch_size, config.z_dim)
    return torch.randn(shape, generator=state.rng, device=state.rng.device)


def _check_finite(means: dict[str, float], cur_nimg: int) -> None:
    bad = [name for name, value in means.items() if not abs(value) < float("inf")]
    if bad:
        raise DivergedError(
            f"{', '.join(bad)} stopped being finite before image {cur_nimg}; "
            "lower lr_g and lr_d or raise gamma, and start a new run"
        )
