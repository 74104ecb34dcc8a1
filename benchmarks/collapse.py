"""Owns the proof of the collapse watch: what it says of healthy trainings and of collapses.

`record` trains, and keeps what G makes all along: 64 images every 128 that it is trained on.
`score` shows recordings to the watch, a third of them, as many as its share of the time buys.
Healthy: as they are. Collapsed: from some window on, all images recorded in its time are narrowed
to one, to 5 to 10, or to those of k classes, and the window is drawn from these.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from training.collapse.watch import WINDOW_IMAGES, CollapseWatch
from training.crew import Crew
from training.data.dataset import load_dataset
from training.loop import Hooks, training_loop
from training.memory import keep_freed_memory
from training.metrics.features import load_or_train_evaluator
from training.model.pixels import to_uint8
from training.plan import wants_bf16
from training.presets import PRESETS
from training.reals import Reals
from training.state import TrainingState

LOOK, LOOK_NIMG = 64, 128
SPARED = 3  # looks recorded for one that the watch sees
LOOKS = WINDOW_IMAGES // LOOK
SPAN = LOOKS * SPARED  # looks in the time of a window
FIRST_WINDOW = 6  # healthy ones before a collapse
IN_WINDOWS = 3
ONE, HANDFUL, CONTROL = "one image", "5 to 10 images", "all classes (control)"

cli = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Recording:
    """What G made. fakes: uint8 (looks, 64, H, W, C). labels: asked for, (looks, 64), or None.

    classes: the same, or what a classifier sees where nothing was asked for.
    """

    name: str
    fakes: np.ndarray
    labels: np.ndarray | None
    classes: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Recording":
        labels = path / "labels.npy"
        return cls(
            path.name,
            np.load(path / "fakes.npy", mmap_mode="r"),
            np.load(labels) if labels.exists() else None,
            np.load(path / "classes.npy"),
        )

    @property
    def windows(self) -> int:
        return len(self.fakes) // SPAN

    def healthy(self, window: int, offset: int) -> tuple[np.ndarray, np.ndarray | None]:
        rows = slice(window * SPAN + offset, (window + 1) * SPAN, SPARED)
        labels = None if self.labels is None else self.labels[rows].reshape(-1)
        return np.concatenate(self.fakes[rows]), labels

    def all_of(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Every image of the time of a window, and their classes."""
        rows = slice(window * SPAN, (window + 1) * SPAN)
        return np.concatenate(self.fakes[rows]), self.classes[rows].reshape(-1)


@dataclass(frozen=True)
class Collapse:
    """What is left: classes (kept), or so many images.

    mapping: the class made for each that is asked for; None where that plays no part.
    """

    kind: str
    kept: np.ndarray | None = None
    mapping: np.ndarray | None = None
    images: int | None = None

    def rows(self, classes: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which images of a pool of these `classes` are made where `asked` was asked for."""
        if self.kept is None:
            return rng.integers(self.images or len(classes), size=len(asked))
        present = self.kept[np.isin(self.kept, classes)]
        made = rng.choice(present, len(asked)) if self.mapping is None else self.mapping[asked]
        rows = np.empty(len(asked), np.int64)
        for c in np.unique(made):
            pool = np.flatnonzero(classes == c)
            pool = pool if len(pool) else np.flatnonzero(np.isin(classes, present))
            rows[made == c] = np.resize(rng.permutation(pool), (made == c).sum())
        return rows


def collapses(num_classes: int, labelled: bool, rng: np.random.Generator) -> Iterator[Collapse]:
    """One of each kind, drawn anew."""
    yield Collapse(ONE, images=1)
    yield Collapse(HANDFUL, images=int(rng.integers(5, 11)))
    for k in (1, 2, 3, 4, 5, num_classes):
        order = rng.permutation(num_classes)
        kind = CONTROL if k == num_classes else f"{k} of {num_classes} classes"
        mapping = np.arange(num_classes)
        mapping[order[k:]] = rng.choice(order[:k], num_classes - k)
        if k < num_classes or not labelled:
            yield Collapse(kind, kept=order[:k])
        if labelled:
            kind = kind if k == num_classes else f"{kind}, lost ones replaced"
            yield Collapse(kind, kept=order[:k], mapping=mapping)


def is_caught(
    watch: CollapseWatch,
    recording: Recording,
    window: int,
    collapse: Collapse,
    rng: np.random.Generator,
) -> bool:
    """Whether two of the first three windows from `window` on, one after the other, are bad."""
    watch, bad = copy.deepcopy(watch), [False]
    num_classes = int(recording.classes.max()) + 1
    few = None
    for w in range(window, window + IN_WINDOWS):
        images, classes = recording.all_of(w)
        if collapse.images is not None:
            few = images[rng.permutation(len(images))[: collapse.images]] if few is None else few
            images = few
        asked = rng.permutation(np.resize(np.arange(num_classes), WINDOW_IMAGES))
        images = images[collapse.rows(classes, asked, rng)]
        bad.append(is_bad(watch, images, None if recording.labels is None else asked))
    return any(a and b for a, b in pairwise(bad))


def is_bad(watch: CollapseWatch, images: np.ndarray, labels: np.ndarray | None) -> bool:
    """Show a window of images, 64 at a time."""
    verdict = None
    for i in range(0, WINDOW_IMAGES, LOOK):
        rows = slice(i, i + LOOK)
        verdict = watch.add(images[rows], None if labels is None else labels[rows], None)
    assert verdict is not None
    return bool(verdict.bad)


@dataclass
class Tally:
    windows: int = 0
    bad: int = 0
    pairs: int = 0  # of bad windows, one after the other: what a run would be rolled back for

    def show(self, watch: CollapseWatch, recording: Recording, offset: int) -> list[CollapseWatch]:
        """A healthy recording from its first seconds on; the watch as it was before each window."""
        before, last = [], False
        for w in range(recording.windows):
            before.append(copy.deepcopy(watch))
            bad = is_bad(watch, *recording.healthy(w, offset))
            self.windows, self.bad, self.pairs = (
                self.windows + 1,
                self.bad + bad,
                self.pairs + (bad and last),
            )
            last = bad
        return before


@cli.command()
def score(
    data: Annotated[Path, typer.Argument(help="packed dataset the recordings were trained on")],
    recordings: Annotated[list[Path], typer.Argument(help="folders that `record` wrote")],
    hide_labels: Annotated[bool, typer.Option(help="The watch hears of no labels.")] = False,
    repeats: Annotated[int, typer.Option(help="Collapses of a kind at each window.")] = 4,
    seed: int = 0,
) -> None:
    """Count false alarms and caught collapses."""
    torch.set_num_threads(1)
    dataset = load_dataset(data)
    images, labels = dataset.split(heldout=False)
    rng, tally, caught = np.random.default_rng(seed), Tally(), {}
    for path in recordings:
        recording = Recording.load(path)
        if hide_labels:
            recording = replace(recording, labels=None)
        labelled = recording.labels is not None
        fresh = CollapseWatch(images, labels if labelled else None, dataset.num_classes, seed)
        for offset in range(SPARED):
            before = tally.show(copy.deepcopy(fresh), recording, offset)
        for w in range(FIRST_WINDOW, recording.windows - IN_WINDOWS + 1):
            for _ in range(repeats):
                for collapse in collapses(dataset.num_classes, labelled, rng):
                    hit = is_caught(before[w], recording, w, collapse, rng)
                    caught.setdefault(collapse.kind, []).append(hit)
    Console(width=100).print(table(tally, caught))


def table(tally: Tally, caught: dict[str, list[bool]]) -> Table:
    """What was said of what."""
    out = Table("shown to the watch", "of them", "bad or caught", "share")
    out.add_row(
        "healthy windows", str(tally.windows), str(tally.bad), _share(tally.bad, tally.windows)
    )
    pairs = _share(tally.pairs, tally.windows)
    out.add_row("two bad ones in a row", str(tally.windows), str(tally.pairs), pairs)
    for kind, hits in caught.items():
        out.add_row(kind, str(len(hits)), str(sum(hits)), _share(sum(hits), len(hits)))
    return out


def _share(count: int, total: int) -> str:
    return f"{count / max(total, 1):.1%}"


@cli.command()
def record(
    data: Annotated[Path, typer.Argument(help="packed dataset")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    preset: str = "cpu28",
    kimg: float = 40,
    seed: int = 0,
    unlabelled: Annotated[bool, typer.Option(help="Train without the labels.")] = False,
    state_of: Annotated[Path | None, typer.Option(help="Go on from the state of this run.")] = None,
) -> None:
    """Train on one thread, and keep what G makes all along."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset, device = load_dataset(data), torch.device("cpu")
    images, labels = dataset.split(heldout=False)
    num_classes = 0 if unlabelled else dataset.num_classes
    config = PRESETS[preset]
    state = TrainingState(
        config, config.network(dataset.resolution, dataset.channels, num_classes), seed, device
    )
    if state_of is not None:
        state.load(state_of)
    use_bf16, rng = wants_bf16("auto", device), np.random.default_rng(seed)
    fakes: list[np.ndarray] = []
    asked: list[np.ndarray] = []

    @torch.no_grad()
    def look(_: dict[str, float]) -> None:
        if state.cur_nimg % LOOK_NIMG >= config.batch_size:
            return
        z = torch.from_numpy(rng.standard_normal((LOOK, config.z_dim)).astype(np.float32))
        c = rng.integers(max(num_classes, 1), size=LOOK)
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            made = state.G.eval()(z, torch.from_numpy(c))
        state.G.train()
        fakes.append(to_uint8(made).permute(0, 2, 3, 1).contiguous().numpy())
        asked.append(c)

    hooks = Hooks(look, lambda: False, lambda: None, lambda: False, tick_sec=0, save_sec=1e9)
    shown = None if unlabelled else labels
    reals = Reals(images, shown, seed, device, config.mirror, config.class_balance)
    total = state.cur_nimg + int(kimg * 1000)
    training_loop(config, state, reals, total, 2**62, 1e18, use_bf16, hooks, Crew())
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "fakes.npy", np.stack(fakes))
    classes = np.stack(asked)
    if unlabelled:
        evaluator = load_or_train_evaluator(dataset, out / "evaluators", device)
        classes = np.stack([evaluator(look)[1] for look in fakes])
    else:
        np.save(out / "labels.npy", classes)
    np.save(out / "classes.npy", classes)
    print(f"{out}: {len(fakes)} looks, {len(fakes) // SPAN} windows")


if __name__ == "__main__":
    cli()
