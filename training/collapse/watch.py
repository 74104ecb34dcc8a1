"""Owns the watch for mode collapse: what a run's images are now, against the reals and before."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.collapse.calibration import MIN_IMAGES, WINDOW_IMAGES, Reference, Trial
from training.collapse.features import Features, join

_MEMORY = 12  # healthy windows that say where a statistic stands
_ARMED_AFTER = 4
_UNTAUGHT = 2  # windows at the beginning, of a G that knows nothing yet
_NOISE = 4.0  # standard deviations
_PART = 0.35
_TELLING, _DEEP_FALL = 0.15, 0.5
_MEDIAN_STEP = 0.954  # between two normal draws of deviation 1


@dataclass(frozen=True)
class _Healthy:
    statistics: Mapping[str, float]
    shares: Tensor  # of the bins, (bins,)


@dataclass(frozen=True)
class Window:
    """The statistics of the latest WINDOW_IMAGES fakes; beside them the limits that count by now.

    bad: a sentence for each statistic below its limit; empty if G is healthy.
    """

    statistics: Mapping[str, float]
    limits: Mapping[str, float]
    bad: tuple[str, ...]


class CollapseWatch:
    """Tells when the fakes of a run lose modes that they had.

    images: the training images, uint8 (N, H, W, C); labels: int64 (N,) or None. Looks at 10,000 of
    them at most. `off` says why nothing is watched, or is None.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        num_classes: int,
        seed: int = 0,
    ) -> None:
        self.off: str | None = None
        if len(images) < MIN_IMAGES:
            self.off = (
                f"mode collapse is not watched: {len(images)} images are too few to tell it from "
                f"chance, {MIN_IMAGES} are needed"
            )
            return
        self._reference = Reference(images, labels, num_classes, seed)
        self._seen = 0
        self._healthy: deque[_Healthy] = deque(maxlen=_MEMORY)
        self.restart()

    def restart(self) -> None:
        """Forget the images of the window that is not full yet, as after a roll-back."""
        self._fakes: list[Features] = []
        self._labels: list[Tensor] = []
        self._gaps: list[float] = []

    @torch.inference_mode()
    def add(
        self,
        fakes: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        logit_gap: float | None,
    ) -> Window | None:
        """The next fakes, uint8 (n, H, W, C), and the classes asked for, (n,), or None.

        logit_gap: D's, of the same time. A Window once there are WINDOW_IMAGES; None before.
        """
        if self.off is not None:
            return None
        self._fakes.append(self._reference.filters(fakes))
        if labels is not None:
            self._labels.append(torch.tensor(labels))
        if logit_gap is not None:
            self._gaps.append(logit_gap)
        if sum(map(len, self._fakes)) < WINDOW_IMAGES:
            return None
        return self._window()

    def _window(self) -> Window:
        labels = torch.cat(self._labels) if self._labels else None
        measured, shares = self._reference.measure(join(self._fakes), labels, self._earlier())
        measured = {n: measured[n] for n in self._reference.trials if n in measured}
        limits = self._limits()
        bad = tuple(
            f"{name} is {measured[name]:.2f}, under {limit:.2f} (it was {self._level(name):.2f})"
            for name, limit in limits.items()
            if measured[name] < limit
        )
        self._seen += 1
        if not bad and self._seen > _UNTAUGHT:
            self._healthy.append(_Healthy(measured, shares))
        gap = {"logit_gap": sum(self._gaps) / len(self._gaps)} if self._gaps else {}
        self.restart()
        return Window(measured | gap, limits, bad)

    def _earlier(self) -> Tensor | None:
        """The run's own shares of the bins, while it was healthy."""
        if not self._healthy:
            return None
        return torch.stack([window.shares for window in self._healthy]).mean(dim=0)

    def _values(self, name: str) -> list[float]:
        return [w.statistics[name] for w in self._healthy if name in w.statistics]

    def _level(self, name: str) -> float:
        return median(self._values(name))

    def _limits(self) -> dict[str, float]:
        """The limits that count by now; a statistic that is lost in its noise has none."""
        trials = self._reference.trials
        known = [name for name in trials if len(self._values(name)) >= _ARMED_AFTER]
        limits = {name: self._limit(name, trials[name]) for name in known}
        return {name: limit for name, limit in limits.items() if limit > 0}

    def _limit(self, name: str, trial: Trial) -> float:
        """A part of the way to where half of the modes are lost, and beyond this run's noise."""
        level = min(self._level(name), trial.mean)  # more than the reals have is not missed
        steps = [b - a for a, b in pairwise(self._values(name))]
        trend = median(steps)
        scatter = median(abs(step - trend) for step in steps) / _MEDIAN_STEP
        noise = max(trial.noise, scatter)
        return min((1 - _fall(trial)) * level, level - _NOISE * noise)


def _fall(trial: Trial) -> float:
    """The share that may be lost: part of what half of the modes are worth.

    What hardly depends on them, as the distance between images, moves while G learns, and tells
    only of images that are nearly one.
    """
    lost = 1 - trial.halved
    return _PART * lost if lost > _TELLING else _DEEP_FALL
