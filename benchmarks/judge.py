"""Owns an independent opinion on generated images: a classifier that no training here ever sees.

    python -m benchmarks.judge split IMAGES.zip OUT_DIR --heldout 10000
    python -m benchmarks.judge fit OUT_DIR/train.zip OUT_DIR/heldout.zip --out judge.safetensors
    python -m benchmarks.judge score judge.safetensors OUT_DIR/train.zip OUT_DIR/heldout.zip F.npz
    python -m benchmarks.judge cas F.npz OUT_DIR/heldout.zip

It shares no code with training/: own reader, own network (residual, batch-normalised), own
Fréchet distance, so that an error there cannot flatter the figures here. Train the generator to
be judged on OUT_DIR/train.zip only.
"""

import hashlib
import io
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Array = NDArray[np.float64]


# ── real images ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Reals:
    """images: uint8 (N, H, W, C); labels: int64 (N,), an index into class_names."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: list[str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels


def entries_by_class(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """Class folder name → its entry names, both in code-point order."""
    classes: dict[str, list[str]] = {}
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if len(parts) >= 2 and parts[-1] and not parts[-1].startswith("."):
            classes.setdefault(parts[-2], []).append(name)
    return dict(sorted(classes.items()))


def read_reals(path: Path) -> Reals:
    """Decode a zip of class folders whose images all have one size and mode."""
    images, labels = [], []
    with zipfile.ZipFile(path) as archive:
        classes = entries_by_class(archive)
        for label, names in enumerate(classes.values()):
            for name in names:
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
                images.append(pixels.reshape(*pixels.shape[:2], -1))
                labels.append(label)
    return Reals(np.stack(images), np.array(labels), list(classes))


def choose_heldout(archive: zipfile.ZipFile, heldout: int) -> set[str]:
    """Entry names to hold out: of each class its share, those with the smallest content hash.

    Shares are cut by largest remainder, so they add up to `heldout` exactly.
    """
    classes = entries_by_class(archive)
    total = sum(len(names) for names in classes.values())
    if not 0 < heldout < total:
        raise typer.BadParameter(f"--heldout {heldout} is not between 1 and {total - 1} images.")
    exact = {c: heldout * len(names) / total for c, names in classes.items()}
    shares = {c: int(x) for c, x in exact.items()}
    by_remainder = sorted(exact, key=lambda c: (shares[c] - exact[c], c))
    for c in by_remainder[: heldout - sum(shares.values())]:
        shares[c] += 1
    chosen: set[str] = set()
    for c, names in classes.items():
        ranked = sorted(names, key=lambda n: (hashlib.sha256(archive.read(n)).digest(), n))
        chosen.update(ranked[: shares[c]])
    return chosen


@cli.command()
def split(
    source: Path,
    out_dir: Path,
    heldout: Annotated[int, typer.Option(help="Images to keep away from every training.")] = 10_000,
) -> None:
    """Divide a zip of class folders into OUT_DIR/train.zip and OUT_DIR/heldout.zip."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(source) as archive,
        zipfile.ZipFile(out_dir / "train.zip", "w") as train,
        zipfile.ZipFile(out_dir / "heldout.zip", "w") as kept,
    ):
        chosen = choose_heldout(archive, heldout)
        for names in entries_by_class(archive).values():
            for name in names:
                # A ZipInfo of its own carries a fixed date: the same split has the same bytes.
                entry = zipfile.ZipInfo(name)
                (kept if name in chosen else train).writestr(entry, archive.read(name))
        sizes = len(train.namelist()), len(kept.namelist())
    typer.echo(f"{out_dir}: {sizes[0]} in train.zip, {sizes[1]} in heldout.zip")


# ── the classifier ───────────────────────────────────────────────────────────────────────────


class Block(nn.Module):
    """Two batch-normalised 3×3 convolutions beside a 1×1 shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.skip(x))


class Judge(nn.Module):
    """images in [-1, 1], (B, C, H, W) → logits (B, num_classes); `features` gives (B, 96)."""

    def __init__(self, img_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(img_channels, 24, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.body = nn.Sequential(Block(24, 48, 2), Block(48, 96, 2), Block(96, 96, 1))
        self.head = nn.Linear(96, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.body(F.relu(self.norm(self.stem(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def to_input(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """uint8 (B, H, W, C) → float in [-1, 1], (B, C, H, W), channels last in memory."""
    x = torch.as_tensor(images).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def shifted(x: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """Each image moved by up to `pixels` each way, its border repeated."""
    batch, _, height, width = x.shape
    padded = F.pad(x, (pixels,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, batch, 1), generator=rng)
    rows = (torch.arange(height) + dy)[:, :, None]
    columns = (torch.arange(width) + dx)[:, None, :]
    moved = padded.permute(0, 2, 3, 1)[torch.arange(batch)[:, None, None], rows, columns]
    return moved.permute(0, 3, 1, 2)


@torch.no_grad()
def read_images(judge: Judge, images: NDArray[np.uint8]) -> tuple[Array, NDArray[np.int64]]:
    """uint8 (N, H, W, C) → features (N, 96) float64 and predicted classes (N,), all in fp32."""
    judge.eval()
    features, classes = [], []
    for start in range(0, len(images), 500):
        f = judge.features(to_input(np.array(images[start : start + 500])))
        features.append(f.double())
        classes.append(judge.head(f).argmax(1))
    return torch.cat(features).numpy(), torch.cat(classes).numpy()


def mirrored(x: Tensor, rng: torch.Generator) -> Tensor:
    """Each image flipped left to right or not, by a coin."""
    coin = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
    return torch.where(coin, x.flip(3), x)


def train_judge(
    reals: Reals, *, epochs: int, seed: int, mirror: bool = False, batch: int = 128
) -> Judge:
    """SGD with one cosine cycle; bf16 where autocast thinks it safe."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    judge = Judge(reals.shape[2], len(reals.class_names)).to(memory_format=torch.channels_last)
    images, labels = torch.from_numpy(reals.images), torch.from_numpy(reals.labels)
    optimizer = torch.optim.SGD(judge.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=epochs * steps)
    for epoch in range(epochs):
        judge.train()
        started, losses = time.monotonic(), []
        for index in torch.randperm(len(images), generator=rng)[: steps * batch].split(batch):
            x = shifted(to_input(images[index]), 2, rng)
            x = mirrored(x, rng) if mirror else x
            with torch.autocast("cpu", torch.bfloat16):
                logits = judge(x)
            loss = F.cross_entropy(logits.float(), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        took = time.monotonic() - started
        typer.echo(f"epoch {epoch + 1}/{epochs}  loss {np.mean(losses):.4f}  {took:.0f} s")
    return judge


@cli.command()
def fit(
    train: Path,
    heldout: Path,
    out: Annotated[Path, typer.Option(help="Where the classifier goes.")],
    epochs: int = 8,
    seed: int = 0,
    mirror: Annotated[bool, typer.Option(help="Flip images: not for digits.")] = False,
) -> None:
    """Train the classifier and print how much of the held-out images it reads."""
    reals, kept = read_reals(train), read_reals(heldout)
    judge = train_judge(reals, epochs=epochs, seed=seed, mirror=mirror)
    accuracy = float((read_images(judge, kept.images)[1] == kept.labels).mean())
    meta = {"shape": list(reals.shape), "class_names": reals.class_names, "heldout": accuracy}
    typer.echo(f"{out}: reads {accuracy:.2%} of {len(kept.images)} held-out images")
    state = {key: value.contiguous() for key, value in judge.state_dict().items()}
    save_file(state, out, metadata={"judge": json.dumps(meta)})


def load_judge(path: Path) -> tuple[Judge, dict[str, Any]]:
    """The network and its metadata: shape, class_names, heldout (accuracy)."""
    with safe_open(path, "pt") as f:
        meta = json.loads(f.metadata()["judge"])
        state = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (not a dict)
    judge = Judge(meta["shape"][2], len(meta["class_names"]))
    judge.load_state_dict(state)
    return judge.eval(), meta


# ── distances between sets of features ───────────────────────────────────────────────────────


def frechet(a: Array, b: Array) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2(Σa Σb)^½), the root taken on the symmetric similar matrix."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def neighbour_radius(x: Array, k: int) -> Array:
    """Distance of each row to its k-th nearest other row."""
    t = torch.from_numpy(x)
    return torch.cdist(t, t).kthvalue(k + 1, dim=1).values.numpy()  # the nearest is itself


def prdc(real: Array, fake: Array, k: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi 2019), density and coverage (Naeem 2020)."""
    distance = torch.cdist(torch.from_numpy(real), torch.from_numpy(fake)).numpy()  # (R, F)
    real_radius, fake_radius = neighbour_radius(real, k), neighbour_radius(fake, k)
    in_real_ball = distance < real_radius[:, None]
    return {
        "precision": float(in_real_ball.any(0).mean()),
        "recall": float((distance < fake_radius[None]).any(1).mean()),
        "density": float(in_real_ball.sum(0).mean() / k),
        "coverage": float((distance.min(1) < real_radius).mean()),
    }


def draws(count: int, n: int, most: int = 5) -> list[NDArray[np.int64]]:
    """Up to `most` disjoint sets of n indices below `count`, always the same ones."""
    order = np.random.default_rng(0).permutation(count)
    return [order[i * n : (i + 1) * n] for i in range(min(most, count // n))]


def read_fakes(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`images` uint8 (N, H, W, C) and `labels` (N,) of an .npz; BadParameter if they don't fit."""
    with np.load(path, allow_pickle=False) as f:
        images, labels = f["images"], f["labels"]
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) != len(labels):
        raise typer.BadParameter(
            f"{path.name} holds {images.dtype} {images.shape} with {len(labels)} labels; "
            f"expected uint8 (N, {', '.join(map(str, shape))}) and N labels."
        )
    return images, labels


def score_fakes(
    judge: Judge, train: Reals, heldout: Reals, fakes: Array, size: int | None
) -> dict[str, Any]:
    """Fréchet distance to all held-out reals, and PRDC at equal counts, each with its floor.

    The floor puts as many training images where the fakes stood. size: images a distance is taken
    of; with more fakes it is the mean over up to five disjoint sets of so many, as the floor is.
    """
    n = min(size or len(fakes), len(fakes), len(train.images))
    real, _ = read_images(judge, heldout.images)
    floors = [read_images(judge, train.images[i])[0] for i in draws(len(train.images), n)]
    floor_fds = [frechet(f, real) for f in floors]
    fds = [frechet(fakes[i], real) for i in draws(len(fakes), n)]
    fd, floor = float(np.mean(fds)), float(np.mean(floor_fds))
    m = min(n, len(real), 10_000)
    near = real[draws(len(real), m)[0]]
    return {
        "fd": fd,
        "fd_draws": fds,
        "fd_floor": floor,
        "fd_floor_draws": floor_fds,
        "fd_ratio": fd / floor,
        "prdc_n": m,
        "prdc": prdc(near, fakes[:m]),
        "prdc_floor": prdc(near, floors[0][:m]),
    }


@cli.command()
def score(
    judge_file: Path,
    train: Path,
    heldout: Path,
    fakes_file: Path,
    size: Annotated[int | None, typer.Option(help="Images a Fréchet distance is of.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Say how many fakes are read as asked, and how far their features lie from held-out reals."""
    judge, meta = load_judge(judge_file)
    kept = read_reals(heldout)
    images, labels = read_fakes(fakes_file, kept.shape)
    features, classes = read_images(judge, images)
    report: dict[str, Any] = {
        "n": len(images),
        "accuracy": float((classes == labels).mean()),
        "real_accuracy": meta["heldout"],
        **score_fakes(judge, read_reals(train), kept, features, size),
    }
    typer.echo(json.dumps(report) if as_json else describe(report))


@cli.command()
def cas(
    fakes_file: Path,
    heldout: Path,
    epochs: int = 8,
    seed: int = 0,
    mirror: Annotated[bool, typer.Option(help="Flip images: not for digits.")] = False,
) -> None:
    """Train the classifier on fakes alone and print how much of the held-out reals it reads.

    Classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887).
    """
    kept = read_reals(heldout)
    images, labels = read_fakes(fakes_file, kept.shape)
    judge = train_judge(
        Reals(images, labels, kept.class_names), epochs=epochs, seed=seed, mirror=mirror
    )
    accuracy = float((read_images(judge, kept.images)[1] == kept.labels).mean())
    typer.echo(f"trained on {len(images)} fakes alone: reads {accuracy:.2%} of {len(kept.images)}")


def describe(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    lines = [
        "reads {accuracy:.2%} of {n} as asked (held-out reals: {real_accuracy:.2%})",
        "Fréchet distance {fd:.4f}, floor {fd_floor:.4f}, ratio {fd_ratio:.2f}",
    ]
    floor = report["prdc_floor"]
    rows = [f"{k:10s} {v:.3f}  (real {floor[k]:.3f})" for k, v in report["prdc"].items()]
    return "\n".join([line.format(**report) for line in lines] + rows)


if __name__ == "__main__":
    cli()
