"""Owns the adversarial objectives: pure functions from logits to a scalar that D or G minimises.

Each takes D's logits of reals and of fakes, shape (B,), in fp32, and returns the batch mean.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class Loss:
    """The two players' objectives: `d(real_logits, fake_logits)`, `g(real_logits, fake_logits)`.

    `g_needs_reals`: whether G's objective looks at the reals, so that D must score them for it.
    """

    d: Callable[..., Tensor]
    g: Callable[[Tensor, Tensor], Tensor]
    g_needs_reals: bool = False


def _bce_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    # Cross-entropy with targets 1 - smoothing and 0: -log σ(t) is softplus(-t).
    on_reals = (1 - smoothing) * softplus(-real) + smoothing * softplus(real)
    return (on_reals + softplus(fake)).mean()


def _minimax_g(real: Tensor, fake: Tensor) -> Tensor:
    return -softplus(fake).mean()


def _non_saturating_g(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-fake).mean()


def _hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return (relu(1 - real) + relu(1 + fake)).mean()


def _least_squares_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    return ((real - (1 - smoothing)).square() + fake.square()).mean() / 2


def _least_squares_g(real: Tensor, fake: Tensor) -> Tensor:
    return (fake - 1).square().mean() / 2


def _wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    return (fake - real).mean()


def _raise_fakes_g(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


def _relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-(real - fake)).mean()


def _relativistic_g(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-(fake - real)).mean()


LOSSES: dict[str, Loss] = {
    # Goodfellow et al. 2014, arXiv 1406.2661: eq. 1, and G's remedy in section 3
    "minimax": Loss(_bce_d, _minimax_g),
    "non_saturating": Loss(_bce_d, _non_saturating_g),
    # Lim & Ye 2017, arXiv 1705.02894, eq. 9; Miyato et al. 2018, arXiv 1802.05957, eq. 16-17
    "hinge": Loss(_hinge_d, _raise_fakes_g),
    # Mao et al. 2016, arXiv 1611.04076, eq. 9 (a = 0, b = c = 1)
    "least_squares": Loss(_least_squares_d, _least_squares_g),
    # Arjovsky et al. 2017, arXiv 1701.07875, eq. 3
    "wasserstein": Loss(_wasserstein_d, _raise_fakes_g),
    # Relativistic pairing: Jolicoeur-Martineau 2019, arXiv 1807.00734; Huang et al. 2024,
    # arXiv 2501.05441, eq. 2 with f(t) = -log(1 + e^-t)
    "relativistic": Loss(_relativistic_d, _relativistic_g, g_needs_reals=True),
}


def make_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """The loss of this name; D's target for reals is 1 - label_smoothing (Salimans et al. 2016,
    arXiv 1606.03498, section 3.4, one-sided) where the loss has a target."""
    loss = LOSSES[name]
    if not label_smoothing:
        return loss
    return replace(loss, d=partial(loss.d, smoothing=label_smoothing))
