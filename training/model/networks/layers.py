"""Owns the layers both architectures share: He-scaled linear maps, class input and class head."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

LEAK = 0.2


def lrelu(x: Tensor) -> Tensor:
    """LeakyReLU with slope .2, the one non-linearity of every network here."""
    return nn.functional.leaky_relu(x, LEAK)


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
    return cast(Tensor, _Clamp.apply(x.float()))


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
    """Joins a latent with the embedding of its class: (B, z_dim), (B,) → (B, out_dim)."""

    def __init__(self, z_dim: int, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embed_dim) if num_classes else None
        self.out_dim = z_dim + (embed_dim if num_classes else 0)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        if self.embedding is None:
            return z
        return torch.cat([z, self.embedding(c)], dim=1)


class LogitHead(nn.Module):
    """Features (B, F) and classes (B,) → logits (B,), always in fp32.

    Conditional: ⟨features, embedding(c)⟩/√F (Miyato & Koyama 2018, arXiv 1802.05637, eq. 3, without
    its unconditional term, as in R3GAN). Unconditional: one linear map.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max(num_classes, 1), feature_dim)
        self.scale = 1 / math.sqrt(feature_dim)

    def forward(self, features: Tensor, c: Tensor) -> Tensor:
        return (features.float() * self.embedding(c).float()).sum(dim=1) * self.scale
