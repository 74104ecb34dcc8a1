"""Owns the evaluator network: a small CNN trained on the dataset itself, whose features judge.

It needs labels, or learns by itself to tell how far an image was rotated (Gidaris et al. 2018,
arXiv 1803.07728). It downloads nothing and is cached by the hash of the dataset.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.data.dataset import Dataset
from training.model.checkpoint import load_into, parse, serialize
from training.model.files import locked, sha256_bytes, write_atomic, write_json
from training.model.networks.build import place
from training.model.pixels import to_float

FEATURE_DIM = 64
_TRAIN_IMAGES = 120_000
_BATCH = 128
_ROTATIONS = 4


class EvaluatorNet(nn.Module):
    """images (B, C, H, W) in [-1, 1] → (features (B, 64), logits (B, outputs)), both fp32."""

    def __init__(self, img_channels: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((img_channels, 24), (24, 48), (48, 96)):
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
                nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.to_features = nn.Linear(96 * 4, FEATURE_DIM)
        self.to_logits = nn.Linear(FEATURE_DIM, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.to_features(self.pool(self.body(images)).flatten(1)).float()
        return features, self.to_logits(torch.relu(features)).float()


class Evaluator:
    """A trained EvaluatorNet with the digest of its weights."""

    def __init__(self, net: EvaluatorNet, digest: str, device: torch.device) -> None:
        self._net = net.to(device).eval()
        self._device = device
        self.digest = digest
        self.name = "cnn"

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (n, H, W, C) → features float64 (n, 64) and predicted outputs int64 (n,)."""
        features, predictions = [], []
        for start in range(0, len(images), 500):
            f, logits = self._net(_to_input(images[start : start + 500], self._device))
            features.append(f.double().cpu().numpy())
            predictions.append(logits.argmax(dim=1).cpu().numpy())
        return np.concatenate(features), np.concatenate(predictions)


def load_or_train_evaluator(
    dataset: Dataset,
    cache_dir: Path,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluator:
    """The dataset's evaluator, from `cache_dir` or trained now on the images not held out.

    Training is seeded; progress gets (images seen, images in all). Raises CheckpointError if the
    cached file was altered.
    """
    path = cache_dir / f"{dataset.hash[:16]}-cnn.safetensors"
    about = path.with_suffix(".json")
    net = EvaluatorNet(dataset.channels, dataset.num_classes or _ROTATIONS)
    with locked(path.with_suffix(".lock")):  # two runs on one dataset share what the first trains
        if not about.is_file():
            _train(net, dataset, device, progress)
            data = serialize(net.state_dict())
            write_atomic(path, data)
            write_json(about, {"sha256": sha256_bytes(data)})
        digest = json.loads(about.read_text("utf-8"))["sha256"]
        load_into(net, parse(path.read_bytes(), digest, str(path)), str(path))
    return Evaluator(net, digest, device)


def _train(
    net: EvaluatorNet,
    dataset: Dataset,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    place(net, device).train()
    images, labels = dataset.split(heldout=False)
    total = min(_TRAIN_IMAGES, 20 * len(images))
    steps = max(1, total // min(_BATCH, len(images)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps + 1)
    rng = np.random.default_rng(0)
    for step in range(steps):
        index = rng.integers(len(images), size=min(_BATCH, max(2, len(images))))
        x = _to_input(images[np.sort(index)], device)
        if labels is None:
            y = torch.from_numpy(rng.integers(_ROTATIONS, size=len(x))).to(device)
            x = torch.stack(
                [torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, y, strict=True)]
            )
        else:
            y = torch.from_numpy(labels[np.sort(index)]).to(device)
            x = torch.roll(x, tuple(rng.integers(-2, 3, size=2)), dims=(2, 3))
        with torch.autocast(device.type, torch.bfloat16):
            _, logits = net(x)
        loss = cross_entropy(logits, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress((step + 1) * len(x), steps * len(x))
    net.eval()


def _to_input(images: np.ndarray, device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return to_float(pixels).permute(0, 3, 1, 2)  # (B, C, H, W), channels last in memory
