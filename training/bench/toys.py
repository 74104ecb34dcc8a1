"""Owns the 2-D toys: does the engine's objective cover every mode, whatever the seed and γ?

ring8, grid25 and 100 Gaussians are the classic tests of mode collapse: islands of data that a GAN
likes to forget. Loss, penalty, schedules and moving average are the engine's own; the networks
are the toys' (`toy_networks`), so that minutes hold many seeds.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Adam

from training.bench.toy_networks import Discriminator, Draws, Generator
from training.ema import update_ema
from training.losses import LOSSES
from training.optimizers import set_schedule
from training.parent import fail
from training.penalties import exact_penalty
from training.schedules import Cosine

GAMMA_FACTORS = (0.3, 1.0, 3.0)
SAMPLES = 10_000  # a training, when it is scored
_COVERED_SHARE = 0.1  # of a mode's fair share of the samples
_BURN_IN = 0.8  # of the steps
_PICTURE_RUNS = 4  # a γ factor
_LOSS = LOSSES["relativistic"]


@dataclass(frozen=True)
class Toy:
    """Equal round Gaussians of deviation `sigma` at `modes`, shape (M, 2), and how they are learnt.

    Over the burn-in γ falls from `gamma` 300-fold and the rates from `lr` tenfold: D is smooth
    at first, so that no mode is out of reach, and sharp at the end.
    """

    modes: Tensor
    steps: int
    batch: int
    coins: int
    lr: float
    gamma: float
    sigma: float = 0.05

    @property
    def scale(self) -> float:
        """The deviation of one coordinate of the modes."""
        return float(self.modes.std(dim=0, correction=0).mean())

    def draw(self, draws: Draws, batch: int) -> Tensor:
        """Points of the data, shape (S, batch, 2)."""
        mode = (draws.uniform(batch) * len(self.modes)).long()
        return self.modes[mode] + self.sigma * draws.normal(batch, 2)


def _ring(count: int, radius: float) -> Tensor:
    angle = torch.arange(count) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def _grid(side: int, spacing: float) -> Tensor:
    line = spacing * (torch.arange(side) - (side - 1) / 2)
    return torch.cartesian_prod(line, line)


TOYS = {
    "ring8": Toy(_ring(8, 2.0), steps=1500, batch=128, coins=8, lr=3e-3, gamma=0.3),
    "grid25": Toy(_grid(5, 2.0), steps=4000, batch=128, coins=9, lr=2e-3, gamma=0.3),
    "gauss100": Toy(_grid(10, 2.0), steps=7000, batch=256, coins=9, lr=2e-3, gamma=8.0),
}


@dataclass(frozen=True)
class Score:
    """What the samples of one training are worth.

    modes_covered: modes with a tenth or more of their fair share of the samples within 3σ.
    within_3_sigma: share of the samples within 3σ of a mode; 1 - e^(-9/2) = .9889 for the data.
    kl: of the modes' shares, among the samples within 3σ, to uniform; in nats.
    width: of the modes, the root mean square distance of the samples within 3σ over σ√2; a little
        under 1 for the data, smaller where a mode's inside is not filled, NaN without any.
    """

    modes: int
    modes_covered: int
    within_3_sigma: float
    kl: float
    width: float

    @property
    def collapsed(self) -> bool:
        """Half of the modes, or more, are gone."""
        return 2 * self.modes_covered <= self.modes


@dataclass(frozen=True)
class ToyRun:
    """One training and its score."""

    seed: int
    gamma_factor: float
    score: Score


@dataclass(frozen=True)
class ToyReport:
    """All trainings of one toy. samples: each one's points, shape (S, SAMPLES, 2)."""

    name: str
    runs: tuple[ToyRun, ...]
    samples: Tensor
    seconds: float

    def of(self, gamma_factor: float) -> list[Score]:
        return [run.score for run in self.runs if run.gamma_factor == gamma_factor]


def score(toy: Toy, points: Tensor) -> Score:
    """Score the points, shape (N, 2), of one training."""
    distance, mode = torch.cdist(points, toy.modes).min(dim=1)
    near = distance < 3 * toy.sigma
    count = torch.bincount(mode[near], minlength=len(toy.modes))
    fair = len(points) / len(toy.modes)
    share = count / count.sum().clamp(min=1)
    return Score(
        modes=len(toy.modes),
        modes_covered=int((count >= _COVERED_SHARE * fair).sum()),
        within_3_sigma=float(count.sum() / len(points)),
        kl=float(torch.xlogy(share, share * len(toy.modes)).sum()),
        width=float((distance[near] / toy.sigma).square().sum().div(2 * near.sum()).sqrt()),
    )


class Trainings:
    """S trainings of one toy, stepped together and independent of each other.

    A training is a (seed, γ factor). Its draws follow from its seed alone, so that two with one
    seed differ in γ only; its loss is a summand of its own, and Adam moves every weight by itself.
    """

    def __init__(
        self, toy: Toy, seeds: Sequence[int], factors: Sequence[float], dtype: torch.dtype
    ) -> None:
        self.toy = toy
        self.draws = Draws(seeds)
        self.factors = torch.tensor(factors)  # (S,)
        self.G = Generator(self.draws, toy.coins, toy.scale, dtype)
        self.D = Discriminator(self.draws, toy.scale, dtype)
        self.G_ema = copy.deepcopy(self.G)
        self._opt_G, self._opt_D = _adam(self.G), _adam(self.D)

    def step(self, done: int, steps: int) -> None:
        """Update D, then G, each on fresh reals and latents, as `training.loop` does."""
        toy, burn_in = self.toy, _BURN_IN * steps
        lr = Cosine(toy.lr, 0.1 * toy.lr).at(done, burn_in)
        beta2 = Cosine(0.9, 0.99).at(done, burn_in)
        gamma = Cosine(toy.gamma, 0.003 * toy.gamma).at(done, burn_in)
        for optimizer in (self._opt_D, self._opt_G):
            set_schedule(optimizer, lr, beta2)
        _update(self._opt_D, self._discriminator_loss(gamma))
        self.D.requires_grad_(False)
        _update(self._opt_G, self._generator_loss())
        self.D.requires_grad_(True)
        half_life = Cosine(0.0, 0.02 * steps * toy.batch).at(done, burn_in)
        update_ema(self.G_ema, self.G, toy.batch, half_life)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Points of every averaged generator, shape (S, count, 2)."""
        chunks = [self.G_ema(self._draw_z(min(500, count - i))) for i in range(0, count, 500)]
        return torch.cat(chunks, dim=1)

    def _discriminator_loss(self, gamma: float) -> Tensor:
        batch = self.toy.batch
        with torch.no_grad():
            points = torch.cat([self._draw_reals(), self.G(self._draw_z(batch))], dim=1)
        flat = points.flatten(0, 1).requires_grad_()  # (S·2B, 2)
        logits = self.D(flat.view_as(points))  # (S, 2B)
        real, fake = logits.chunk(2, dim=1)
        # The mean over all trainings, times S: the sum of the trainings' own losses.
        adversarial = len(logits) * _LOSS.d(real.flatten(), fake.flatten())
        penalty = exact_penalty(logits.flatten(), flat).view_as(logits)
        r1_r2 = penalty.sum(dim=1) / batch  # (S,)
        return adversarial + (gamma / 2 * self.factors * r1_r2).sum()

    def _generator_loss(self) -> Tensor:
        with torch.no_grad():
            real = self.D(self._draw_reals())
        fake = self.D(self.G(self._draw_z(self.toy.batch)))
        return len(real) * _LOSS.g(real.flatten(), fake.flatten())

    def _draw_reals(self) -> Tensor:
        return self.toy.draw(self.draws, self.toy.batch)

    def _draw_z(self, batch: int) -> Tensor:
        return self.G.draw_z(self.draws, batch)


def _adam(net: nn.Module) -> Adam:
    return Adam(net.parameters(), lr=0.0, betas=(0.0, 0.9), fused=True)


def _update(optimizer: Adam, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def run_toy(
    name: str,
    seeds: Sequence[int],
    gamma_factors: Sequence[float] = GAMMA_FACTORS,
    progress: Callable[[int, int], None] | None = None,
) -> ToyReport:
    """Train every seed with every γ factor, all at once, and score each.

    progress: gets (steps done, steps in all).
    """
    started, toy = time.monotonic(), TOYS[name]
    pairs = [(seed, factor) for seed in seeds for factor in gamma_factors]
    trainings = Trainings(toy, *zip(*pairs, strict=True), dtype=torch.bfloat16)
    for done in range(toy.steps):
        trainings.step(done, toy.steps)
        if progress is not None:
            progress(done + 1, toy.steps)
    samples = trainings.sample(SAMPLES)
    runs = [ToyRun(*pair, score(toy, own)) for pair, own in zip(pairs, samples, strict=True)]
    return ToyReport(name, tuple(runs), samples, time.monotonic() - started)


def toys(
    toy: Annotated[str, typer.Option(help=f"{', '.join(TOYS)} or all.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each γ.")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="Where the seeds begin.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures of samples.")] = None,
) -> None:
    """Train 2-D toys with many seeds and γ, and print what became of their modes."""
    if toy not in (*TOYS, "all"):
        fail(f"toy {toy!r} is not known; known: {', '.join(TOYS)}, all.")
    torch.set_num_threads(threads)
    for name in TOYS if toy == "all" else (toy,):
        report = _run_with_bar(name, range(first_seed, first_seed + seeds))
        _show(report)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            picture(report).save(out / f"{name}.png")


def _run_with_bar(name: str, seeds: Sequence[int]) -> ToyReport:
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(name)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return run_toy(name, seeds, progress=advance)


def _show(report: ToyReport) -> None:
    title = f"{report.name}: {len(report.runs)} trainings in {report.seconds:.0f} s"
    table = Table(
        "γ ×", "modes covered", "within 3σ", "median", "KL", "width", "collapsed", title=title
    )
    for factor in dict.fromkeys(run.gamma_factor for run in report.runs):
        scores = report.of(factor)
        within = [s.within_3_sigma for s in scores]
        table.add_row(
            f"{factor:g}",
            f"≥ {min(s.modes_covered for s in scores)} of {scores[0].modes}",
            f"≥ {min(within):.2%}",
            f"{median(within):.2%}",
            f"≤ {max(s.kl for s in scores):.4f}",
            f"{median(s.width for s in scores):.2f}",
            f"{sum(s.collapsed for s in scores)} of {len(scores)}",
        )
    Console().print(table)


def picture(report: ToyReport, size: int = 240) -> Image.Image:
    """The samples of the first seeds, a row a γ factor; every square spans 1.25 of the modes."""
    toy = TOYS[report.name]
    span = 1.25 * float(toy.modes.abs().max())
    rows: list[np.ndarray] = []
    for factor in dict.fromkeys(run.gamma_factor for run in report.runs):
        own = [i for i, run in enumerate(report.runs) if run.gamma_factor == factor]
        squares = [_scatter(report.samples[i], span, size) for i in own[:_PICTURE_RUNS]]
        rows.append(np.concatenate(squares, axis=1))
    return Image.fromarray(np.concatenate(rows))


def _scatter(points: Tensor, span: float, size: int) -> np.ndarray:
    """Dark points on white with a frame, shape (size, size), uint8."""
    square = np.full((size, size), 255, np.uint8)
    square[0], square[:, 0] = 200, 200
    inside = points[points.abs().amax(dim=1) < span].numpy()
    column, row = ((1 + inside * (1, -1) / span) / 2 * size).astype(int).T
    square[row, column] = 0
    return square
