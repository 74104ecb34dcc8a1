"""Owns the step from a NetworkConfig to freshly initialised networks."""

from typing import TypeVar

import torch
from torch import nn

from training.model.networks.config import NetworkConfig
from training.model.networks.dense import DenseDiscriminator, DenseGenerator
from training.model.networks.strided import StridedDiscriminator, StridedGenerator

NetT = TypeVar("NetT", bound=nn.Module)


def build_generator(config: NetworkConfig) -> nn.Module:
    """G: z (B, z_dim) float, c (B,) int64 → (B, img_channels, R, R); c is ignored if unlabelled."""
    return StridedGenerator(config) if config.architecture == "strided" else DenseGenerator(config)


def build_discriminator(config: NetworkConfig) -> nn.Module:
    """D: images (B, img_channels, R, R), c (B,) int64 → logits (B,) in fp32."""
    if config.architecture == "strided":
        return StridedDiscriminator(config)
    return DenseDiscriminator(config)


def place(net: NetT, device: torch.device) -> NetT:
    """Move `net`, with convolution weights channels last, as their kernels like them."""
    net.to(device)
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def num_parameters(module: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in module.parameters())
