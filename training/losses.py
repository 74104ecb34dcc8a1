"""Owns the adversarial objectives: pure functions from logits to a scalar that D or G minimises.

Each takes D's logits of reals and of fakes, shape (B,), in fp32, and returns the batch mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class Loss:
    """The two players' objectives: `d(real_logits, fake_logits)`, `g(real_logits, fake_logits)`.

    `g_needs_reals`: whether G's objective looks at the reals, so that D must score them for it.
    """

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor], Tensor]
    g_needs_reals: bool = False


def _non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    return (softplus(-real) + softplus(fake)).mean()


def _non_saturating_g(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-fake).mean()


def _hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return (relu(1 - real) + relu(1 + fake)).mean()


def _hinge_g(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


def _relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-(real - fake)).mean()


def _relativistic_g(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-(fake - real)).mean()


LOSSES: dict[str, Loss] = {
    # Goodfellow et al. 2014, arXiv 1406.2661, section 3
    "non_saturating": Loss(_non_saturating_d, _non_saturating_g),
    # Lim & Ye 2017, arXiv 1705.02894, eq. 9; Miyato et al. 2018, arXiv 1802.05957, eq. 16-17
    "hinge": Loss(_hinge_d, _hinge_g),
    # Relativistic pairing: Jolicoeur-Martineau 2019, arXiv 1807.00734; Huang et al. 2024,
    # arXiv 2501.05441, eq. 2 with f(t) = -log(1 + e^-t)
    "relativistic": Loss(_relativistic_d, _relativistic_g, g_needs_reals=True),
}
