"""Owns the speed of a training step: a preset's images per second beside a plain loop's.

The plain loop is what one writes first: eager, fp32, one pass for reals and one for fakes, R1 and
R2 by double backward, an unfused Adam. It trains the same networks on the same images with the same
objective, in turns with ours, so that a noisy machine slows both.
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from training.config import ConfigError, TrainConfig, override
from training.crew import Crew
from training.memory import keep_freed_memory
from training.model.networks.build import build_discriminator, build_generator
from training.model.presets import PRESETS as PRESET_INFO
from training.model.sampling import pick_device
from training.model.settings import parse_overrides
from training.model.threads import half_the_cores
from training.parent import fail
from training.plan import wants_bf16
from training.presets import PRESETS
from training.reals import Reals
from training.state import TrainingState
from training.steps import Step

NUM_IMAGES, NUM_CLASSES = 4096, 10
WARM_UP_STEPS = 3
TOTAL_NIMG = 1_000_000  # the schedules' length: the step costs the same anywhere on it

# What each row of `--switches` changes of the preset.
SWITCHES: dict[str, dict[str, Any]] = {
    "as set": {},
    "fp32": {"precision": "fp32"},
    "exact penalties": {"penalty": "exact", "compile": "off"},
    "fp32, exact penalties": {"precision": "fp32", "penalty": "exact", "compile": "off"},
    "torch.compile": {"penalty": "finite_difference", "compile": "default"},
    "torch.compile, CUDA graphs": {"penalty": "finite_difference", "compile": "reduce-overhead"},
}


@dataclass(frozen=True)
class Speed:
    """images_per_sec: median over rounds. tflops: of the matrix products of a step, per second."""

    name: str
    images_per_sec: float
    tflops: float
    peak_bytes: int


def train(
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "cpu28",
    resolution: Annotated[int | None, typer.Option(help="Side; default the preset's own.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; default 1 at 28 pixels.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    seconds: Annotated[float, typer.Option(help="Of each of the rounds.", min=0.1)] = 10.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    plain: Annotated[bool, typer.Option(help="Measure the plain loop, too.")] = True,
    switches: Annotated[bool, typer.Option(help="One row for every switch.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: half the cores.")] = 0,
) -> None:
    """Images per second of a training step, beside a plain loop of the same networks."""
    torch.set_num_threads(threads or half_the_cores())
    keep_freed_memory()
    try:
        where = pick_device(device)
        if preset not in PRESETS:
            raise ConfigError(f"preset {preset!r} does not exist; presets: {', '.join(PRESETS)}")
        config = override(PRESETS[preset], parse_overrides(settings or []))
        side = resolution or (PRESET_INFO[preset].resolutions or (32,))[0]
        reals = _reals(side, channels or (1 if side == 28 else 3), where, config)
        rows = SWITCHES if switches else {"as set": {}}
        contestants = {
            name: _ours(override(config, change), reals, where) for name, change in rows.items()
        }
        if plain:
            contestants["plain loop"] = _plain(config, reals, where)
    except ValueError as error:
        fail(str(error))
    measured = _race(contestants, config.batch_size, seconds, rounds, where)
    _show(measured, f"{preset}, {side} px, batch {config.batch_size}, {_machine(where)}", where)


def _race(
    contestants: dict[str, Callable[[], object]],
    batch: int,
    seconds: float,
    rounds: int,
    device: torch.device,
) -> list[Speed]:
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    flops, peaks = dict.fromkeys(contestants, 0), dict.fromkeys(contestants, 0)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("warming up", total=rounds * len(contestants))
        for name, step in contestants.items():
            peaks[name] = _peak_bytes(step, device)
            with _Flops() as counter:
                step()
            flops[name] = counter.total
        for i in range(rounds):
            for name, step in contestants.items():
                progress.update(task, description=f"round {i + 1}: {name}")
                speeds[name].append(batch * _steps_per_sec(step, seconds, device))
                progress.advance(task)
    return [
        Speed(
            name, rate := statistics.median(found), rate * flops[name] / batch / 1e12, peaks[name]
        )
        for name, found in speeds.items()
    ]


class _Flops(TorchDispatchMode):
    """Adds up the operations of matrix products and convolutions. A compiled step shows it none."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def _steps_per_sec(step: Callable[[], object], seconds: float, device: torch.device) -> float:
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    _synchronize(device)
    return steps / (time.perf_counter() - began)


def _peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Device memory at its highest in the first steps; of a CPU, what the process grew by."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(WARM_UP_STEPS):
        step()
    _synchronize(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reals(side: int, channels: int, device: torch.device, config: TrainConfig) -> Reals:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, side, side, channels), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, NUM_IMAGES)
    return Reals(images, labels, 0, device, config.mirror, config.class_balance)


def _ours(config: TrainConfig, reals: Reals, device: torch.device) -> Callable[[], object]:
    """The engine's own step."""
    image = reals.next(1)[0][0]
    network = config.network(image.shape[1], image.shape[0], NUM_CLASSES)
    state = TrainingState(config, network, 0, device)
    use_bf16 = wants_bf16(config.precision, device)
    step = Step(config, state, reals, TOTAL_NIMG, use_bf16, Crew(device=device), print)
    return step


def _plain(config: TrainConfig, reals: Reals, device: torch.device) -> Callable[[], object]:
    image = reals.next(1)[0][0]
    network = config.network(image.shape[1], image.shape[0], NUM_CLASSES)
    generator, ema = (build_generator(network).to(device) for _ in range(2))
    discriminator = build_discriminator(network).to(device)
    opt_g = _plain_adam(generator, config.lr_g)
    opt_d = _plain_adam(discriminator, config.lr_d)
    gamma, batch = config.gamma, config.batch_size

    def z() -> Tensor:
        return torch.randn(batch, config.z_dim, device=device)

    def penalty(logits: Tensor, images: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()

    def run() -> None:
        real, c = reals.next(batch)
        real = real.contiguous().requires_grad_(True)
        fake = generator(z(), c).detach().requires_grad_(True)
        real_logits, fake_logits = discriminator(real, c), discriminator(fake, c)
        loss = softplus(fake_logits - real_logits).mean()
        loss = loss + gamma / 2 * (penalty(real_logits, real) + penalty(fake_logits, fake))
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()

        real, c = reals.next(batch)
        fake_logits = discriminator(generator(z(), c), c)
        loss = softplus(discriminator(real.contiguous(), c) - fake_logits).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        with torch.no_grad():
            for averaged, current in zip(ema.parameters(), generator.parameters(), strict=True):
                averaged.copy_(0.999 * averaged + 0.001 * current)

    return run


def _plain_adam(net: nn.Module, lr: float) -> Adam:
    return Adam(net.parameters(), lr, betas=(0.0, 0.99), foreach=False, fused=False)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"


def _peak_flops(device: torch.device) -> float:
    """What large bf16 matrix products reach here, per second: the peak a step is held against."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    steps = _steps_per_sec(lambda: torch.mm(a, a), 2.0, device)
    return 2 * 8192**3 * steps


def _show(measured: list[Speed], title: str, device: torch.device) -> None:
    base = next((m.images_per_sec for m in measured if m.name == "plain loop"), None)
    table = Table("", "images/s", "× plain", "TFLOP/s", "memory, GB", title=title)
    for m in measured:
        ratio = "" if base is None else f"{m.images_per_sec / base:.2f}"
        row = (
            m.name,
            f"{m.images_per_sec:.1f}",
            ratio,
            f"{m.tflops:.3f}",
            f"{m.peak_bytes / 1e9:.2f}",
        )
        table.add_row(*row)
    Console().print(table)
    if device.type == "cuda":
        best, peak = max(m.tflops for m in measured), _peak_flops(device) / 1e12
        Console().print(f"best: {best / peak:.0%} of the {peak:.0f} TFLOP/s of a bf16 product here")
