"""Ways for weights to start, each against its closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from training.initialisation import initialise
from training.model.networks.build import build_discriminator, build_generator
from training.model.networks.config import NetworkConfig

LINEAR = nn.Linear(256, 512)
CONV = nn.Conv2d(64, 128, 4, stride=2, padding=1)
GROUPED = nn.Conv2d(512, 512, 3, padding=1, groups=32)
UP = nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1)
# How many inputs an output sees, and how many outputs an input reaches.
FANS = [
    (LINEAR, 256, 512),
    (CONV, 64 * 16, 128 * 4),
    (GROUPED, 16 * 9, 16 * 9),
    (UP, 128 * 4, 64 * 16),
]
NETWORK = NetworkConfig("strided", 8, 1, 3, 8, (8, 4), embed_dim=4)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# 73,728 weights or more: their deviation's own deviation is .26 % at most and their mean's .37 %.
# The bounds stand at 4 and 5 of these, and tell a gain of √(2/1.04) from √2.
@pytest.mark.parametrize(("layer", "fan_in", "fan_out"), FANS)
@pytest.mark.parametrize("scheme", ["he", "xavier", "normal"])
def test_weights_have_the_spread_of_their_scheme(layer, fan_in, fan_out, scheme):
    spread = {"he": (2 / 1.04 / fan_in) ** 0.5, "xavier": (2 / (fan_in + fan_out)) ** 0.5}
    initialise(layer, scheme)
    assert layer.weight.std().item() == pytest.approx(spread.get(scheme, 0.02), rel=0.0105)
    assert abs(layer.weight.mean()) < 0.0185 * layer.weight.std()
    assert not layer.bias.any()


def test_xavier_is_uniform_and_the_others_are_not_bounded():
    initialise(LINEAR, "xavier")
    bound = math.sqrt(6 / (256 + 512))
    # The largest of 131,072 draws stays below 99 % of the bound with odds of .99^131072 < 1e-571.
    assert 0.99 * bound < LINEAR.weight.abs().max().item() <= bound
    initialise(LINEAR, "he")
    assert LINEAR.weight.abs().max() > 3 * LINEAR.weight.std()


def orthonormal(matrix: Tensor) -> bool:
    """Rows where they are the fewer, else columns."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return torch.allclose(wide @ wide.T, torch.eye(len(wide)), atol=1e-5)


@pytest.mark.parametrize("layer", [LINEAR, CONV, UP])
def test_orthogonal_weights_are_orthonormal_as_a_matrix(layer):
    initialise(layer, "orthogonal")
    assert orthonormal(layer.weight.detach().flatten(1))


def test_each_group_of_a_convolution_is_orthonormal_by_itself():
    initialise(GROUPED, "orthogonal")
    for group in GROUPED.weight.detach().flatten(1).chunk(32):
        assert orthonormal(group)


@pytest.mark.parametrize("scheme", ["native", "he", "xavier", "orthogonal", "normal"])
def test_only_linear_maps_and_convolutions_are_drawn_again(scheme):
    net = nn.Sequential(nn.Embedding(4, 8), nn.BatchNorm2d(8), nn.Linear(8, 8), nn.Conv2d(8, 8, 1))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    initialise(net, scheme)
    changed = {name for name, tensor in net.state_dict().items() if not tensor.equal(before[name])}
    everything = {"2.weight", "2.bias", "3.weight", "3.bias"}
    assert changed == (set() if scheme == "native" else everything)


def test_the_same_seed_draws_the_same_weights():
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        net = build_generator(NETWORK)
        torch.manual_seed(seed)
        initialise(net, "he")
        return nn.utils.parameters_to_vector(net.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_weights_under_spectral_normalisation_are_drawn_too():
    spectral = NetworkConfig(**{**NETWORK.to_json(), "spectral_norm": True, "widths": (8, 4)})
    net = build_discriminator(spectral)
    initialise(net, "orthogonal")
    assert orthonormal(net.features.parametrizations.weight.original.detach())
