"""Owns the small networks of the 2-D toys: many independent ones held as one.

A weight has shape (S, in, out). Net s of S reads and writes slice s alone, so that one batched
matrix product serves all of them and each trains as if it were by itself.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

_WIDTH = 64
_DEPTH = 3  # inner layers
_SPREAD = 0.15  # half the width of z's uniform numbers
_OCTAVES = 6
_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # keeps the variance through a leaky ReLU (He et al. 2015)


class Draws:
    """A random stream a net: what net s draws does not depend on its neighbours."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), shape (S, *shape)."""
        return torch.stack([torch.randn(shape, generator=stream) for stream in self._streams])

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1), shape (S, *shape)."""
        return torch.stack([torch.rand(shape, generator=stream) for stream in self._streams])


class Linear(nn.Module):
    """S affine maps: (S, B, in) → (S, B, out), in the precision of the input."""

    def __init__(self, draws: Draws, fan_in: int, fan_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(draws.normal(fan_in, fan_out) * (gain / math.sqrt(fan_in)))
        self.bias = nn.Parameter(torch.zeros(len(self.weight), 1, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias.to(x.dtype), x, self.weight.to(x.dtype))


class Body(nn.Module):
    """Leaky-ReLU layers: (S, B, in) → (S, B, 64) in the precision of x.

    The inner layers compute in `dtype`. The first stays in fp32: a mode of grid25 is 1/160 of the
    range wide, which is below bf16's step.
    """

    def __init__(self, draws: Draws, fan_in: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = Linear(draws, fan_in, _WIDTH, _GAIN)
        self.inner = nn.ModuleList(Linear(draws, _WIDTH, _WIDTH, _GAIN) for _ in range(_DEPTH))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.first(x), _SLOPE).to(self.dtype)
        for layer in self.inner:
            h = leaky_relu(layer(h), _SLOPE)
        return h.to(x.dtype)


class Generator(nn.Module):
    """z (S, B, 2 + coins) → points (S, B, 2), of deviation about `scale`.

    z holds `coins` fair coins and two small uniform numbers, and the last hidden layer is tanh with
    a linear way round it. The modes are islands, and a continuous G of a connected z must lay
    bridges between them: coins need none, and a tanh that saturates makes the others thin. The
    uniform numbers are small so that a fresh G spreads the points of one draw of coins over less
    than the way between two modes.
    """

    def __init__(self, draws: Draws, coins: int, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.coins, self.scale = coins, scale
        self.body = Body(draws, 2 + coins, dtype)
        self.steps = Linear(draws, _WIDTH, _WIDTH)
        self.from_steps = Linear(draws, _WIDTH, 2, gain=0.3)
        self.straight = Linear(draws, _WIDTH, 2)

    def forward(self, z: Tensor) -> Tensor:
        h = self.body(z)
        return self.scale * (self.from_steps(self.steps(h).tanh()) + self.straight(h))

    def draw_z(self, draws: Draws, batch: int) -> Tensor:
        """Latents, shape (S, batch, 2 + coins)."""
        z = 2 * draws.uniform(batch, 2 + self.coins) - 1
        return torch.cat([_SPREAD * z[..., :2], z[..., 2:].sign()], dim=-1)


class Discriminator(nn.Module):
    """Points (S, B, 2) → logits (S, B).

    It sees the points over `scale` and their sines and cosines in octaves of wavelength from
    4 scale down: a small net by itself learns fine structure late (Tancik et al. 2020, arXiv
    2006.10739).
    """

    def __init__(self, draws: Draws, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.wavenumbers = [math.pi / 2 * 2**i for i in range(_OCTAVES)]
        self.scale = scale
        self.body = Body(draws, 2 + 4 * _OCTAVES, dtype)
        self.logit = Linear(draws, _WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x / self.scale
        waves = torch.cat([x * k for k in self.wavenumbers], dim=-1)
        seen = torch.cat([x, waves.sin(), waves.cos()], dim=-1)
        return self.logit(self.body(seen)).squeeze(-1)
