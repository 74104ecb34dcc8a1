"""Owns R3GAN's pair: residual blocks of grouped convolutions, and no normalisation anywhere.

Huang et al. 2024 (arXiv 2501.05441). Weights start with gain 1, std 1/√fan_in, where nothing else
is said; a class embedding is a linear map of a one-hot vector, whose fan-in is the classes.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from training.model.networks.config import NetworkConfig, PixelOutput
from training.model.networks.layers import LEAK, LatentInput, LogitHead, as_pixels, init_he, lrelu


def _pointwise(channels_in: int, channels_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    init_he(layer, channels_in, gain=1.0)
    return layer


def _unbiased(in_dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, bias=False)
    init_he(layer, in_dim, gain=1.0)
    return layer


class Blur(nn.Module):
    """Every channel of (B, C, H, W) smoothed by [1, 2, 1]/4 both ways; black beyond the border.

    [1, 2, 1] ∗ [1, 1] = [1, 3, 3, 1]: with doubling or halving by neighbours it makes the paper's
    filter, out of operators that are fast in bf16 forward and backward. The same filter as one
    depthwise convolution with a stride takes ten times as long on a CPU.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels  # the kernel's length, which tracing would not know for constant
        taps = torch.tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(taps, taps).repeat(channels, 1, 1, 1)  # (C, 1, 3, 3)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel, padding=1, groups=self.channels)


class Up(nn.Module):
    """(B, low, H, W) → (B, high, 2H, 2W): a 1×1 where the widths differ, then [1, 3, 3, 1]/4."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.project = _pointwise(low, high) if low != high else nn.Identity()
        self.blur = Blur(high)

    def forward(self, x: Tensor) -> Tensor:
        return self.blur(interpolate(self.project(x), scale_factor=2, mode="nearest"))


class Down(nn.Module):
    """(B, high, 2H, 2W) → (B, low, H, W): [1, 3, 3, 1]/8, then a 1×1 where the widths differ."""

    def __init__(self, high: int, low: int) -> None:
        super().__init__()
        self.blur = Blur(high)
        self.project = _pointwise(high, low) if high != low else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.project(avg_pool2d(self.blur(x), 2))


class ResidualBlock(nn.Module):
    """x + f(x), with f: 1×1 to twice the channels, grouped 3×3, 1×1 back.

    depth: blocks in the whole network, L. f starts at zero, and the other two convolutions with
    He's gain times L^(-¼), so that one step moves the output as far at any depth (Fixup: Zhang et
    al. 2019, arXiv 1901.09321, section 3.2 with m = 3).
    """

    def __init__(self, channels: int, group_size: int, depth: int) -> None:
        super().__init__()
        inner = 2 * channels
        group_size = group_size or inner
        self.expand = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_size)
        self.project = nn.Conv2d(inner, channels, 1, bias=False)
        gain = math.sqrt(2 / (1 + LEAK**2)) * depth**-0.25
        init_he(self.expand, channels, gain)
        init_he(self.mix, group_size * 9, gain)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(lrelu(self.mix(lrelu(self.expand(x)))))


def _stages(config: NetworkConfig, widths: tuple[int, ...]) -> nn.ModuleList:
    depth = config.blocks * len(widths)

    def stage(width: int) -> nn.Sequential:
        blocks = (ResidualBlock(width, config.group_size, depth) for _ in range(config.blocks))
        return nn.Sequential(*blocks)

    return nn.ModuleList(stage(width) for width in widths)


class R3GANGenerator(nn.Module):
    """z (B, z_dim), c (B,) int64 → images (B, img_channels, R, R), fp32."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, side = config.widths, config.start_resolution
        self.output: PixelOutput = config.pixel_output
        self.input = LatentInput(config.z_dim, config.num_classes, config.embed_dim)
        if self.input.embedding is not None:
            nn.init.normal_(self.input.embedding.weight, std=config.num_classes**-0.5)
        self.scales = _unbiased(self.input.out_dim, widths[0])
        self.basis = nn.Parameter(torch.randn(1, widths[0], side, side))
        self.stages = _stages(config, widths)
        self.ups = nn.ModuleList(Up(low, high) for low, high in pairwise(widths))
        self.to_pixels = _pointwise(widths[-1], config.img_channels)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x = self.scales(self.input(z, c))[:, :, None, None] * self.basis  # (B, C, 4, 4)
        x = self.stages[0](x)
        for up, stage in zip(self.ups, self.stages[1:], strict=True):
            x = stage(up(x))  # (B, C, 2R, 2R)
        return as_pixels(self.to_pixels(x), self.output)


class R3GANDiscriminator(nn.Module):
    """images (B, img_channels, R, R), c (B,) int64 → logits (B,) in fp32."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, side = config.widths[::-1], config.start_resolution  # high → low resolution
        dim, conditional = widths[-1], config.num_classes > 0
        self.from_pixels = _pointwise(config.img_channels, widths[0])
        self.stages = _stages(config, widths)
        self.downs = nn.ModuleList(Down(high, low) for high, low in pairwise(widths))
        self.basis = nn.Parameter(torch.randn(1, dim, side, side) / side)  # the depthwise 4×4
        self.features = _unbiased(dim, dim) if conditional else nn.Identity()
        self.head = LogitHead(dim, config.num_classes, scale=None if conditional else 1.0)
        fan_in = config.num_classes if conditional else dim
        nn.init.normal_(self.head.embedding.weight, std=fan_in**-0.5)

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        x = self.stages[0](self.from_pixels(images))
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            x = stage(down(x))
        x = (x.float() * self.basis).sum(dim=(2, 3))  # (B, C)
        return self.head(self.features(x), c)
