"""Owns spectral normalisation of D (Miyato et al. 2018, arXiv 1802.05957)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.model.networks.layers import LogitHead


class InFp32(nn.Module):
    """A parametrization outside autocast: u and v are kept, and bf16 would let them drift."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return self.inner(weight)


def normalise_spectra(net: nn.Module) -> nn.Module:
    """Divide every weight of `net`, as a matrix (out, rest), by its largest singular value.

    One power iteration (eq. 18) runs in each forward of training mode; u and v are buffers, kept in
    the state_dict. Class embeddings are maps of one-hot vectors, and count; a LogitHead drops its
    own scale, so that a dense D is 1-Lipschitz.
    """
    for module in [*net.modules()]:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            steps = cast(Any, spectral_norm(module)).parametrizations.weight
            steps[0] = InFp32(steps[0])
        elif isinstance(module, LogitHead):
            module.scale = 1.0
    return net
