"""Owns what the architectures share: He-scaled maps, class input, class head, the way to pixels."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.model.networks.config import PixelOutput

LEAK = 0.2


def lrelu(x: Tensor) -> Tensor:
    """LeakyReLU with slope .2, the one non-linearity of every network here; overwrites x.

    x must be the fresh output of a linear map, which needs it no more: a copy of it would cost a
    twelfth of a training step on a CPU.
    """
    return nn.functional.leaky_relu(x, LEAK, inplace=True)


class _Clamp(torch.autograd.Function):
    """Clamp to [-1, 1]; gradients pass, but for those that push a value further out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore
        (x,) = ctx.saved_tensors
        outward = ((x > 1) & (gradient < 0)) | ((x < -1) & (gradient > 0))
        return gradient.masked_fill(outward, 0)


def to_range(x: Tensor) -> Tensor:
    """Pre-activations → pixels in [-1, 1], in fp32, with exact black and exact white.

    D then sees what is served. Unbounded, it tells fakes by values no real pixel has; behind a
    tanh, pixels saturate before D has taught anything: docs/log.md, 2026-11-23, has the comparison.
    """
    x = x.float()
    if torch.is_grad_enabled() and x.requires_grad:
        return cast(Tensor, _Clamp.apply(x))
    return x.clamp(-1, 1)  # the same pixels, and an operator that every exporter knows


def as_pixels(x: Tensor, output: PixelOutput) -> Tensor:
    """What G's last layer gives → pixels in fp32: in [-1, 1], but for `linear`."""
    if output == "clamp":
        return to_range(x)
    return x.float().tanh() if output == "tanh" else x.float()


def init_he(module: nn.Module, fan_in: int, gain: float = math.sqrt(2 / (1 + LEAK**2))) -> None:
    """Normal weights of std gain/√fan_in, zero bias: keeps activations at unit scale without
    normalisation layers (He et al. 2015, arXiv 1502.01852, eq. 10 and 15)."""
    for name, parameter in module.named_parameters():
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=gain / math.sqrt(fan_in))


def linear(in_dim: int, out_dim: int, gain: float = math.sqrt(2 / (1 + LEAK**2))) -> nn.Linear:
    """A He-initialised nn.Linear."""
    layer = nn.Linear(in_dim, out_dim)
    init_he(layer, in_dim, gain)
    return layer


class LatentInput(nn.Module):
    """Joins a latent with the embedding of its class: (B, z_dim), c → (B, out_dim).

    c: class indices (B,) int64, or float weights (B, num_classes) that mix the embeddings. One-hot
    weights give the index's embedding to the bit: every other term of the sum is zero.
    """

    def __init__(self, z_dim: int, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embed_dim) if num_classes else None
        self.out_dim = z_dim + (embed_dim if num_classes else 0)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        if self.embedding is None:
            return z
        embedded = self._mix(c) if c.is_floating_point() else self.embedding(c)
        return torch.cat([z, embedded], dim=1)

    def _mix(self, weights: Tensor) -> Tensor:
        # One small product a row: in weights @ embeddings, the order of a sum hangs on B.
        rows = weights.unsqueeze(1)  # (B, 1, num_classes)
        embeddings = cast(nn.Embedding, self.embedding).weight.expand(rows.shape[0], -1, -1)
        return torch.bmm(rows, embeddings).squeeze(1)


class LogitHead(nn.Module):
    """Features (B, F) and classes (B,) → logits (B,), always in fp32.

    With `classes`, a linear map of the features, the pair (logits, class logits (B, num_classes)).

    Conditional: ⟨features, embedding(c)⟩/√F (Miyato & Koyama 2018, arXiv 1802.05637, eq. 3, without
    its unconditional term, as in R3GAN). Unconditional: one linear map. `scale` replaces 1/√F.
    """

    def __init__(self, feature_dim: int, num_classes: int, scale: float | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max(num_classes, 1), feature_dim)
        self.scale = 1 / math.sqrt(feature_dim) if scale is None else scale
        self.classes: nn.Linear | None = None

    def forward(self, features: Tensor, c: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = features.float()
        logits = (features * self.embedding(c).float()).sum(dim=1) * self.scale
        if self.classes is None:
            return logits
        with torch.autocast(features.device.type, enabled=False):
            return logits, self.classes(features)
