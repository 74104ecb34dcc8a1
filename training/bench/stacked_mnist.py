"""Owns the Stacked-MNIST benchmark: how many of 1000 known modes a run keeps, and how evenly.

Three digits as the red, green and blue of one image make 1000 modes (Metz et al. 2016,
arXiv 1611.02163, section 3.3.1). A classifier of single digits reads each channel. Even a perfect
generator has KL above 0, from N alone: so N, that floor and what is left above it are said too.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.bench.seeds import train_options
from training.data.dataset import DataError, Dataset, is_packed, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.packing import Packer
from training.metrics.features import Evaluator, load_or_train_evaluator
from training.model.files import write_json
from training.model.threads import half_the_cores
from training.parent import fail
from training.snapshots import list_snapshots, read_snapshots

DIGITS = 10
MODES = DIGITS**3
STACKS = 128_000  # as Lin et al. 2017, arXiv 1712.04086, draw them
NUM_SAMPLES = 26_000
TRIALS = 200

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class ModeCount:
    """How `num_samples` images spread over the modes; KL in nats, against 1/1000 each."""

    modes: int
    kl: float
    num_samples: int


@dataclass(frozen=True)
class Floor:
    """What a perfect generator with MNIST's own share of each digit shows at as many samples."""

    modes: float
    kl: float
    kl_sd: float


def count_modes(codes: Codes) -> ModeCount:
    """codes: integers (n,) in [0, 1000), one an image."""
    share = np.bincount(codes, minlength=MODES) / len(codes)
    found = share[share > 0]
    return ModeCount(len(found), float((found * np.log(found * MODES)).sum()), len(codes))


def perfect_floor(prior: NDArray[np.float64], num_samples: int, trials: int = TRIALS) -> Floor:
    """prior: the share of each digit, (10,). Draws `trials` sets of modes, seeded."""
    rng = np.random.default_rng(0)
    joint = np.einsum("i,j,k->ijk", prior, prior, prior).ravel()
    draws = rng.multinomial(num_samples, joint / joint.sum(), size=trials)
    counts = [count_modes(np.repeat(np.arange(MODES), draw)) for draw in draws]
    kl = [c.kl for c in counts]
    modes = float(np.mean([c.modes for c in counts]))
    return Floor(modes, float(np.mean(kl)), float(np.std(kl, ddof=1)))


def read_codes(images: NDArray[np.uint8], classifier: Evaluator) -> Codes:
    """RGB images (n, H, W, 3) → the number from 0 to 999 that their three digits spell."""
    red, green, blue = (classifier(images[..., i : i + 1])[1] for i in range(3))
    return 100 * red + 10 * green + blue


def pack_stacks(digits: Dataset, folder: Path, count: int) -> None:
    """Pack `count` seeded triples of the training digits as an unlabelled RGB dataset."""
    images, _ = digits.split(heldout=False)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with Packer(folder, digits.resolution, 3, ()) as packer:
        for triple in rng.integers(len(images), size=(count, 3)):
            stack = np.concatenate([images[i] for i in triple], axis=2)
            packer.add(stack, None, sha256(stack.tobytes()).digest())
        packer.finish({"name": "stacked-mnist", "made_from": digits.hash})


def stacked_mnist(
    data: Annotated[Path, typer.Option(help="MNIST: grey digits in ten classes.")],
    out: Annotated[Path, typer.Option(help="Folder of the benchmark; give it again to go on.")],
    preset: Annotated[str, typer.Option(help="A preset of `train`.")] = "cpu28",
    minutes: Annotated[float | None, typer.Option(help="Train about so long.")] = None,
    kimg: Annotated[float | None, typer.Option(help="Train on so many thousand images.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    stacks: Annotated[int, typer.Option(min=100, help="Training images to draw.")] = STACKS,
    num_samples: Annotated[int, typer.Option(min=1000)] = NUM_SAMPLES,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: half the cores.")] = 0,
) -> None:
    """Train on stacked digits and count the modes at every snapshot, beside the floor."""
    torch.set_num_threads(threads or half_the_cores())
    try:
        digits = _digits(data, out)
        if not is_packed(out / "stacks"):
            pack_stacks(digits, out / "stacks", stacks)
        classifier = load_or_train_evaluator(digits, out / "evaluators", torch.device("cpu"))
        accuracy = _accuracy(classifier, digits)
        run_dir = out / "run"
        command = ["--data", str(out / "stacks"), "--run-dir", str(run_dir), "--keep-snapshots"]
        command += ["--seed", str(seed), *train_options(preset, minutes, kimg, settings, threads)]
        if code := subprocess.call([sys.executable, "-m", "training.train", *command]):
            raise SystemExit(code)
        floor = perfect_floor(_prior(digits), num_samples)
        curve = list(mode_curve(run_dir, classifier, num_samples))
    except (DataError, ValueError) as error:
        fail(str(error))
    report = {"floor": asdict(floor), "classifier_accuracy": accuracy, "curve": curve}
    write_json(out / "stacked-mnist.json", report)
    _show(curve, floor, accuracy)


def mode_curve(run_dir: Path, classifier: Evaluator, num_samples: int) -> Iterator[dict[str, Any]]:
    """Modes and KL of every snapshot the run kept, with its images and seconds of training."""
    total = len(list_snapshots(run_dir))
    snapshots = read_snapshots(run_dir, torch.device("cpu"))
    for snapshot in track(snapshots, "counting modes", total, console=Console(stderr=True)):
        images = snapshot.sampler.from_seeds(range(num_samples))
        found = count_modes(read_codes(images, classifier))
        moment = {"cur_nimg": snapshot.cur_nimg, "elapsed_sec": snapshot.elapsed_sec}
        yield {**moment, **asdict(found)}


def _digits(data: Path, out: Path) -> Dataset:
    packed = data if is_packed(data) else out / "digits"
    if not is_packed(packed):
        import_dataset(data, packed, ImportOptions("digits"))
    digits = load_dataset(packed)
    if (digits.channels, digits.num_classes) != (1, DIGITS):
        raise DataError(
            f"{data} holds images of {digits.channels} channels in {digits.num_classes} classes; "
            "Stacked-MNIST is made from grey digits in ten"
        )
    return digits


def _prior(digits: Dataset) -> NDArray[np.float64]:
    assert digits.labels is not None
    return np.bincount(digits.labels, minlength=DIGITS) / len(digits.labels)


def _accuracy(classifier: Evaluator, digits: Dataset) -> float:
    images, labels = digits.split(heldout=True)
    return float((classifier(images)[1] == labels).mean())


def _show(curve: list[dict[str, Any]], floor: Floor, accuracy: float) -> None:
    n = curve[-1]["num_samples"]
    title = (
        f"Stacked-MNIST, N = {n:,}; perfect generator: {floor.modes:.1f} modes, "
        f"KL {floor.kl:.4f} ± {floor.kl_sd:.4f}; digits read right: {accuracy:.2%}"
    )
    table = Table("kimg", "minutes", "modes", "KL", "above the floor", title=title)
    for row in curve:
        minutes = "" if row["elapsed_sec"] is None else f"{row['elapsed_sec'] / 60:.1f}"
        above = f"{row['kl'] - floor.kl:.4f}"
        table.add_row(
            f"{row['cur_nimg'] / 1000:.0f}", minutes, str(row["modes"]), f"{row['kl']:.4f}", above
        )
    Console().print(table)
