from dataclasses import replace
from typing import Any

import pytest
import torch

from training.model.networks.build import (
    build_discriminator,
    build_generator,
    num_parameters,
    place,
)
from training.model.networks.config import NetworkConfig
from training.model.networks.layers import LogitHead, linear, to_range

STRIDED = NetworkConfig("strided", 28, 1, 10, 16, (16, 8, 4), embed_dim=4, feature_dim=8)
DENSE = NetworkConfig("dense", 28, 3, 10, 16, (32, 64), embed_dim=4, feature_dim=8)
KINDS = [STRIDED, replace(STRIDED, num_classes=0), DENSE, replace(DENSE, num_classes=0)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def batch(config: NetworkConfig, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, config.z_dim), torch.arange(n) % max(config.num_classes, 1)


@pytest.mark.parametrize("config", KINDS)
def test_a_generator_makes_images_between_minus_one_and_one(config: NetworkConfig) -> None:
    z, c = batch(config)
    images = build_generator(config)(100 * z, c)
    assert images.shape == (5, config.img_channels, 28, 28)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1


@pytest.mark.parametrize("config", KINDS)
def test_a_discriminator_gives_one_logit_an_image(config: NetworkConfig) -> None:
    images = torch.randn(5, config.img_channels, 28, 28)
    logits = build_discriminator(config)(images, batch(config)[1])
    assert (logits.shape, logits.dtype) == ((5,), torch.float32)


@pytest.mark.parametrize("config", KINDS)
def test_images_are_fp32_under_bf16_autocast(config: NetworkConfig) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        images = build_generator(config)(*batch(config))
        logits = build_discriminator(config)(images, batch(config)[1])
    assert (images.dtype, logits.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("config", KINDS)
def test_the_class_counts_exactly_where_there_are_classes(config: NetworkConfig) -> None:
    z, _ = batch(config, 2)
    zeros, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    generator = build_generator(config)
    same = torch.equal(generator(z, zeros), generator(z, ones))
    assert same == (config.num_classes == 0)


@pytest.mark.parametrize("config", KINDS)
def test_rows_of_a_batch_do_not_see_each_other(config: NetworkConfig) -> None:
    generator = build_generator(config)
    z, c = batch(config)
    before = generator(z, c)[0]
    z[1:] = 0
    assert torch.allclose(generator(z, c)[0], before, atol=1e-6)


def test_moving_a_network_changes_no_image() -> None:
    generator = build_generator(STRIDED)
    z, c = batch(STRIDED)
    before = generator(z, c)
    assert torch.allclose(place(generator, torch.device("cpu"))(z, c), before, atol=1e-5)


def test_he_initialisation_keeps_the_scale_of_activations() -> None:
    layer = linear(400, 400)
    # 160,000 weights: the standard deviation's own deviation is .18 %, so 1 % is above 5 of them.
    assert layer.weight.std().item() == pytest.approx((2 / (1 + 0.2**2) / 400) ** 0.5, rel=0.01)
    assert torch.count_nonzero(layer.bias) == 0


def test_a_logit_is_the_scaled_product_with_its_class() -> None:
    head = LogitHead(4, 3).requires_grad_(False)
    features, c = torch.randn(2, 4), torch.tensor([2, 0])
    expected = [float(f @ head.embedding.weight[k]) / 2 for f, k in zip(features, c, strict=True)]
    assert head(features, c).tolist() == pytest.approx(expected)


def test_parameters_are_counted() -> None:
    config = NetworkConfig("dense", 2, 1, 0, 3, (5,))
    assert num_parameters(build_generator(config)) == (3 * 5 + 5) + (5 * 4 + 4)


# Config


@pytest.mark.parametrize("config", KINDS)
def test_a_config_survives_json(config: NetworkConfig) -> None:
    assert NetworkConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "conv"}, "architecture is 'conv'"),
        ({"widths": []}, "widths is empty"),
        ({"widths": [4, 0]}, "below 1"),
        ({"widths": "ab"}, "widths is 'ab'"),
        ({"widths": [4, True]}, "widths is"),
        ({"widths": [4] * 9}, "cannot be halved 8 times"),
        ({"z_dim": 0}, "below 1"),
        ({"z_dim": "16"}, "z_dim is '16'"),
        ({"z_dim": 16.0}, "z_dim is 16.0"),
        ({"img_channels": True}, "img_channels is True"),
        ({"num_classes": -1}, "below 1"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_config_that_describes_no_network_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NetworkConfig.from_json({**STRIDED.to_json(), **changes})


def test_a_config_that_lacks_a_field_is_refused() -> None:
    stored = STRIDED.to_json()
    del stored["z_dim"]
    with pytest.raises(ValueError, match=r"expected \[.*'z_dim'"):
        NetworkConfig.from_json(stored)


def test_pixels_end_in_range_and_gradients_stop_only_where_they_push_outward() -> None:
    x = torch.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    pixels = to_range(x)
    assert pixels.tolist() == [-1, -1, 0.5, 1, 1]
    # Descent moves against the gradient: +1 pulls down, -1 pushes up.
    pixels.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, 1, 0]
