"""Owns the step from a NetworkConfig to freshly initialised networks."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
from torch import nn

from training.model.networks.config import Architecture, NetworkConfig
from training.model.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from training.model.networks.dense import DenseDiscriminator, DenseGenerator
from training.model.networks.layers import LogitHead, linear
from training.model.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from training.model.networks.spectral import normalise_spectra
from training.model.networks.strided import (
    StridedDiscriminator,
    StridedEncoder,
    StridedGenerator,
)

NetT = TypeVar("NetT", bound=nn.Module)
Builders = Mapping[Architecture, Callable[[NetworkConfig], nn.Module]]

_GENERATORS: Builders = {
    "dense": DenseGenerator,
    "dcgan": DCGANGenerator,
    "strided": StridedGenerator,
    "r3gan": R3GANGenerator,
}
_DISCRIMINATORS: Builders = {
    "dense": DenseDiscriminator,
    "dcgan": DCGANDiscriminator,
    "strided": StridedDiscriminator,
    "r3gan": R3GANDiscriminator,
}


def build_generator(config: NetworkConfig) -> nn.Module:
    """G: z (B, z_dim) float, c → (B, img_channels, R, R).

    c: class indices (B,) int64 or weights (B, num_classes) float, whose rows sum to 1; ignored if
    unlabelled.
    """
    return _GENERATORS[config.architecture](config)


def build_discriminator(config: NetworkConfig, classifies: bool = False) -> nn.Module:
    """D: images (B, img_channels, R, R), c (B,) int64 → logits (B,) in fp32.

    classifies: D also says what it takes an image for, logits (B, num_classes), beside the first
    (AC-GAN, Odena et al. 2017, arXiv 1610.09585). Of no effect where there are no classes.
    """
    net = _DISCRIMINATORS[config.architecture](config)
    if classifies and config.num_classes:
        head = cast(LogitHead, net.head)
        head.classes = linear(head.embedding.embedding_dim, config.num_classes, gain=1.0)
    return normalise_spectra(net) if config.spectral_norm else net


def build_encoder(config: NetworkConfig) -> nn.Module:
    """A VAE's encoder: images, c (B,) int64 → (mean, log_variance), each (B, z_dim) in fp32.

    Raises ValueError for an architecture that has none.
    """
    if config.architecture != "strided":
        raise ValueError(
            f"architecture {config.architecture!r} has no encoder for a VAE; use 'strided'"
        )
    return StridedEncoder(config)


def place(net: NetT, device: torch.device) -> NetT:
    """Move `net`, with convolution weights channels last, as their kernels like them."""
    net.to(device)
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def num_parameters(module: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in module.parameters())
