"""Losses and penalties against closed forms."""

import math

import pytest
import torch
from torch import nn

from training.losses import LOSSES, make_loss
from training.penalties import exact_penalty, finite_difference_penalty, one_centred_penalty

REAL, FAKE = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.25, 1.5, -3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def pairs():
    return list(zip(REAL.tolist(), FAKE.tolist(), strict=True))


def test_relativistic_loss_is_the_formula():
    loss = LOSSES["relativistic"]
    assert loss.d(REAL, FAKE).item() == pytest.approx(mean(softplus(-(r - f)) for r, f in pairs()))
    assert loss.g(REAL, FAKE).item() == pytest.approx(mean(softplus(-(f - r)) for r, f in pairs()))


def test_non_saturating_loss_is_the_formula():
    loss = LOSSES["non_saturating"]
    expected = mean(softplus(-r) + softplus(f) for r, f in pairs())
    assert loss.d(REAL, FAKE).item() == pytest.approx(expected)
    assert loss.g(REAL, FAKE).item() == pytest.approx(mean(softplus(-f) for _, f in pairs()))


def test_hinge_loss_is_the_formula():
    loss = LOSSES["hinge"]
    expected = mean(max(0, 1 - r) + max(0, 1 + f) for r, f in pairs())
    assert loss.d(REAL, FAKE).item() == pytest.approx(expected)
    assert loss.g(REAL, FAKE).item() == pytest.approx(-mean(f for _, f in pairs()))


def test_minimax_loss_is_the_value_function_of_the_game():
    # V = E[log D(x)] + E[log(1 - D(G(z)))] with D = σ(logit): D minimises -V, G its second term.
    loss = LOSSES["minimax"]
    value = mean(math.log(1 / (1 + math.exp(-r))) for r in REAL.tolist())
    of_fakes = mean(math.log(1 - 1 / (1 + math.exp(-f))) for f in FAKE.tolist())
    assert loss.d(REAL, FAKE).item() == pytest.approx(-(value + of_fakes))
    assert loss.g(REAL, FAKE).item() == pytest.approx(of_fakes)


def test_least_squares_loss_is_the_formula():
    loss = LOSSES["least_squares"]
    expected = mean(((r - 1) ** 2 + f**2) / 2 for r, f in pairs())
    assert loss.d(REAL, FAKE).item() == pytest.approx(expected)
    assert loss.g(REAL, FAKE).item() == pytest.approx(mean((f - 1) ** 2 / 2 for _, f in pairs()))


def test_wasserstein_loss_is_the_difference_of_means():
    loss = LOSSES["wasserstein"]
    expected = mean(f for _, f in pairs()) - mean(r for r, _ in pairs())
    assert loss.d(REAL, FAKE).item() == pytest.approx(expected)
    assert loss.g(REAL, FAKE).item() == pytest.approx(-mean(f for _, f in pairs()))


def test_label_smoothing_moves_the_target_of_reals_alone():
    smoothed = make_loss("non_saturating", 0.1).d(REAL, FAKE).item()
    expected = mean(0.9 * softplus(-r) + 0.1 * softplus(r) + softplus(f) for r, f in pairs())
    assert smoothed == pytest.approx(expected)
    squares = make_loss("least_squares", 0.1).d(REAL, FAKE).item()
    assert squares == pytest.approx(mean(((r - 0.9) ** 2 + f**2) / 2 for r, f in pairs()))


# A smoothed label and a square have a bottom, beyond which the pull turns round.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "least_squares"])
def test_gradients_pull_reals_up_and_fakes_down_for_d_and_fakes_up_for_g(name):
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    LOSSES[name].d(real, fake).backward()
    assert (real.grad <= 0).all()
    assert (fake.grad >= 0).all()
    fake.grad = None
    LOSSES[name].g(REAL, fake).backward()
    assert (fake.grad <= 0).all()


class LinearD(nn.Module):
    """D(x) = ⟨w, x⟩: its gradient is w everywhere."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x, c=None):
        return (x.flatten(1) * self.w.flatten()).sum(1)


def test_exact_penalty_of_a_linear_d_is_the_squared_norm_of_its_weights():
    w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    d = LinearD(w)
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    penalty = exact_penalty(d(x), x)
    assert penalty.shape == (5,)
    assert torch.allclose(penalty, (w**2).sum().expand(5), rtol=1e-5)
    penalty.mean().backward()
    assert torch.allclose(d.w.grad, 2 * w, rtol=1e-5)  # d‖w‖²/dw


def test_one_centred_penalty_of_a_linear_d_is_the_distance_of_its_slope_from_one():
    w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    d, x = LinearD(w), torch.zeros(5, 3, 4, 4, requires_grad=True)
    penalty = one_centred_penalty(d(x), x)
    assert torch.allclose(penalty, (w.norm() - 1).square().expand(5), rtol=1e-5)


def test_one_centred_penalty_has_a_gradient_where_d_is_flat():
    d, x = LinearD(torch.zeros(1, 2, 2)), torch.zeros(2, 1, 2, 2, requires_grad=True)
    one_centred_penalty(d(x), x).mean().backward()
    assert torch.isfinite(d.w.grad).all()


def test_finite_difference_penalty_averages_to_the_exact_one():
    # For a linear D it is (⟨w, n⟩)², whose mean over n ~ N(0, I) is ‖w‖² and variance 2‖w‖⁴: the
    # mean of 40,000 draws lies within 5 standard errors but for odds of 1 in 1.7 million.
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(1, 4, 4, generator=rng)
    d, draws, epsilon = LinearD(w), 40_000, 0.05
    x = torch.randn(draws, 1, 4, 4, generator=rng)
    moved = x + epsilon * torch.randn(x.shape, generator=rng)
    penalty = finite_difference_penalty(d(x), d(moved), epsilon).detach()
    exact = (w**2).sum().item()
    error = exact * math.sqrt(2 / draws)
    assert abs(penalty.mean().item() - exact) < 5 * error
