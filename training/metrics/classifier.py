"""Owns the small CNN that judges images, and how it is trained."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from training.model.networks.build import place
from training.model.pixels import to_float

FEATURE_DIM = 64
ROTATIONS = 4
_FEWEST_STEPS = 250  # few images are taken in smaller batches
_SMALLEST_BATCH, _LARGEST_BATCH = 16, 128
_RATE_PER_IMAGE = 0.2 / 128
_SHIFT = 2


class Classifier(nn.Module):
    """images (B, C, H, W) in [-1, 1] → (features (B, 64), logits (B, outputs)), both fp32.

    width: channels at half of the resolution; they double each time it is halved again.
    """

    def __init__(self, img_channels: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (img_channels, width, 2 * width, 4 * width)
        for channels_in, channels_out in pairwise(widths):
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
        self.to_features = nn.Linear(16 * width, FEATURE_DIM)  # 4·width channels of 2×2
        self.to_logits = nn.Linear(FEATURE_DIM, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.to_features(self.pool(self.body(images)).flatten(1)).float()
        return features, self.to_logits(torch.relu(features)).float()


def fit(
    net: Classifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    rows: NDArray[np.int64],
    total_nimg: int,
    device: torch.device,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Initialise `net` and train it on `total_nimg` draws of the `rows` of images (N, H, W, C).

    Without labels it learns to tell by how many quarter turns an image was rotated (Gidaris et al.
    2018, arXiv 1803.07728). Seeded; progress gets (images seen, images in all).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    place(net, device).train()
    batch = _batch_size(total_nimg, len(rows))
    steps, rate = max(1, total_nimg // batch), _RATE_PER_IMAGE * batch
    optimizer = torch.optim.SGD(
        net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps + 1)
    rng = np.random.default_rng(seed)
    order = _epochs(rng, rows, steps * batch)
    for step in range(steps):
        chosen = np.sort(order[step * batch : (step + 1) * batch])
        x = _shifted(to_input(images[chosen], device), rng)
        if labels is None:
            x, y = _turned(x, rng)
        else:
            y = torch.from_numpy(labels[chosen]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            _, logits = net(x)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(logits, y).backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress((step + 1) * batch, steps * batch)
    net.eval()


@torch.inference_mode()
def read(
    net: Classifier, images: NDArray[np.uint8], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """uint8 (n, H, W, C) → features float64 (n, 64) and predicted outputs int64 (n,)."""
    features, predictions = [], []
    for start in range(0, len(images), 500):
        f, logits = net(to_input(images[start : start + 500], device))
        features.append(f.cpu().double().numpy())
        predictions.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(features), np.concatenate(predictions)


def to_input(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 (B, H, W, C) → fp32 in [-1, 1], (B, C, H, W), channels last in memory."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return to_float(pixels).permute(0, 3, 1, 2)


def _batch_size(total_nimg: int, num_images: int) -> int:
    fitting = max(_SMALLEST_BATCH, min(_LARGEST_BATCH, total_nimg // _FEWEST_STEPS))
    return min(fitting, num_images)


def _epochs(rng: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` of the rows, each once before any comes again."""
    return np.concatenate([rng.permutation(rows) for _ in range(-(-count // len(rows)))])[:count]


def _shifted(x: Tensor, rng: np.random.Generator) -> Tensor:
    """The batch moved by up to 2 pixels each way, its edges repeated."""
    down, right = rng.integers(2 * _SHIFT + 1, size=2)
    height, width = x.shape[2:]
    moved = pad(x, (_SHIFT,) * 4, mode="replicate")[:, :, down:, right:]
    return moved[:, :, :height, :width]


def _turned(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    turns = rng.integers(ROTATIONS, size=len(x))
    turned = [torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, turns, strict=True)]
    return torch.stack(turned), torch.from_numpy(turns).to(x.device)
