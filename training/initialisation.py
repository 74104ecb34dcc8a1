"""Owns the ways weights can start, for those who want another than the networks' own."""

import math

import torch
from torch import nn

from training.config import Scheme
from training.model.networks.layers import LEAK

_Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


@torch.no_grad()
def initialise(net: nn.Module, scheme: Scheme) -> None:
    """Draw the weights of all linear maps and convolutions of `net` again, from torch's global RNG.

    Biases become zero; embeddings, norms and R3GAN's bases stay as built.

    native: everything stays as built.
    he: N(0, 2/(1.04·fan_in)), for LeakyReLU .2 (He et al. 2015, arXiv 1502.01852, eq. 15).
    xavier: uniform of variance 2/(fan_in + fan_out) (Glorot & Bengio 2010, eq. 16).
    orthogonal: orthonormal rows, or columns where they are fewer (Saxe et al. 2014, arXiv
    1312.6120; as in BigGAN, arXiv 1809.11096, section 3).
    normal: N(0, .02²) (Radford et al. 2015, arXiv 1511.06434, section 4).
    """
    if scheme == "native":
        return
    for layer in net.modules():
        if isinstance(layer, _Layer):
            _draw(layer, scheme)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _draw(layer: _Layer, scheme: Scheme) -> None:
    # Under spectral normalisation `layer.weight` is computed, from the one parameter drawn here.
    weight = next(p for p in layer.parameters() if p.ndim > 1)
    fan_in, fan_out = _fans(layer)
    if scheme == "he":
        nn.init.normal_(weight, std=math.sqrt(2 / (1 + LEAK**2) / fan_in))
    elif scheme == "xavier":
        bound = math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(weight, -bound, bound)
    elif scheme == "normal":
        nn.init.normal_(weight, std=0.02)
    else:
        for group in weight.chunk(1 if isinstance(layer, nn.Linear) else layer.groups):
            nn.init.orthogonal_(group)


def _fans(layer: _Layer) -> tuple[float, float]:
    """How many inputs an output sees, and how many outputs an input reaches."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    taps = math.prod(layer.kernel_size) / layer.groups
    strided = taps / math.prod(layer.stride)
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.in_channels * strided, layer.out_channels * taps
    return layer.in_channels * taps, layer.out_channels * strided
