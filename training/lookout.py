"""Owns the look at G while it trains: how much time it may take, and what two bad windows mean."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from training.collapse.watch import CollapseWatch, Window
from training.health import BAD_WINDOWS
from training.model.networks.config import NetworkConfig
from training.model.pixels import to_uint8
from training.model.sampling import classes_of, latents_of
from training.pins import begin_window, confirm_window
from training.state import TrainingState

BUDGET = 0.03  # of the time of training
LOOK = 64  # images at once


class Lookout:
    """Shows images of G, not of its average, to a CollapseWatch, and acts on what it says.

    Its latents come from seeds of their own, so that a run draws the same with and without it.
    """

    def __init__(
        self,
        watch: CollapseWatch,
        state: TrainingState,
        network: NetworkConfig,
        use_bf16: bool,
        run_dir: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._state = state
        self._network = network
        self._use_bf16 = use_bf16
        self._run_dir = run_dir
        self._clock = clock
        self._began_sec = state.elapsed_sec
        self._next_seed = state.cur_nimg
        self._look_sec = 0.0
        self._bad_windows = 0
        self._in_window = False
        self.spent_sec = 0.0
        self.windows = 0
        self._statistics: dict[str, float] = {}

    def __call__(self, stats: dict[str, float], last: bool) -> str:
        """Look for as long as the budget lets us; after BAD_WINDOWS in a row, say what has gone.

        At the `last` tick a suspicion is followed until it is confirmed or dropped.
        """
        while self._affordable() or (last and self._bad_windows):
            began = self._clock()
            window = self._look(stats.get("logit_gap"))
            if window is not None:
                self._judge(window)
            self._look_sec = self._clock() - began
            self.spent_sec += self._look_sec
            if window is not None and self._bad_windows >= BAD_WINDOWS:
                return "; ".join(window.bad)
        return ""

    @property
    def share(self) -> float:
        """Of the time trained so far, what looking took."""
        return self.spent_sec / max(self._state.elapsed_sec - self._began_sec, 1e-9)

    def take_statistics(self) -> dict[str, float]:
        """Of the last window; nothing until the next one is full."""
        taken, self._statistics = self._statistics, {}
        return taken

    def restart(self) -> None:
        """The run went back: what was seen since is no longer so."""
        self._watch.restart()
        self._bad_windows = 0
        self._in_window = False

    def _affordable(self) -> bool:
        trained_sec = self._state.elapsed_sec - self._began_sec
        return self.spent_sec + self._look_sec <= BUDGET * trained_sec

    def _look(self, logit_gap: float | None) -> Window | None:
        if not self._in_window:
            begin_window(self._run_dir)
            self._in_window = True
        labels = classes_of(self._seeds(), self._network.num_classes)
        asked = labels if self._network.num_classes else None
        window = self._watch.add(self._images(labels), asked, logit_gap)
        self._next_seed += LOOK
        return window

    def _judge(self, window: Window) -> None:
        self.windows += 1
        self._statistics = dict(window.statistics)
        self._in_window = False
        self._bad_windows = self._bad_windows + 1 if window.bad else 0
        if not window.bad:
            confirm_window(self._run_dir)

    def _seeds(self) -> range:
        return range(self._next_seed, self._next_seed + LOOK)

    @torch.no_grad()
    def _images(self, labels: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, C) of G as it is now."""
        generator = self._state.G.eval()
        device = next(generator.parameters()).device
        z = torch.from_numpy(latents_of(self._seeds(), self._network.z_dim)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._use_bf16):
            images = generator(z, torch.from_numpy(labels).to(device))
        generator.train()
        return to_uint8(images.float()).permute(0, 2, 3, 1).cpu().numpy()
