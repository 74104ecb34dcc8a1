import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from training.model.networks import layers
from training.model.networks.build import (
    build_discriminator,
    build_encoder,
    build_generator,
    num_parameters,
    place,
)
from training.model.networks.config import NetworkConfig
from training.model.networks.layers import LogitHead, as_pixels, linear, to_range
from training.model.networks.r3gan import Down, ResidualBlock, Up
from training.model.networks.spectral import InFp32, normalise_spectra

STRIDED = NetworkConfig("strided", 28, 1, 10, 16, (16, 8, 4), embed_dim=4, feature_dim=8)
DENSE = NetworkConfig("dense", 28, 3, 10, 16, (32, 64), embed_dim=4, feature_dim=8)
DCGAN = NetworkConfig("dcgan", 28, 1, 10, 16, (16, 8), embed_dim=4)
R3GAN = NetworkConfig("r3gan", 28, 3, 10, 16, (16, 16, 8), embed_dim=4)
LABELLED = [STRIDED, DENSE, DCGAN, R3GAN]
KINDS = [*LABELLED, *(replace(config, num_classes=0) for config in LABELLED)]
NORMALISED = [replace(config, spectral_norm=True) for config in (STRIDED, DENSE, DCGAN)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def batch(config: NetworkConfig, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, config.z_dim), torch.arange(n) % max(config.num_classes, 1)


def trained(net: nn.Module) -> nn.Module:
    """`net` as training might leave it: what starts at zero is not."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return net


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("output", ["native", "clamp", "tanh", "linear"])
def test_a_generator_makes_images_in_range_unless_its_output_is_linear(
    config: NetworkConfig, output: Any
) -> None:
    config = replace(config, output=output)
    generator = trained(build_generator(config))
    with torch.no_grad():
        for parameter in generator.to_pixels.parameters():
            parameter.mul_(1000)
    images = generator(*batch(config))
    assert images.shape == (5, config.img_channels, 28, 28)
    assert images.dtype == torch.float32
    assert (images.abs().max().item() <= 1) == (config.pixel_output != "linear")


def test_each_architecture_has_an_output_of_its_own() -> None:
    native = {config.architecture: config.pixel_output for config in LABELLED}
    assert native == {"strided": "clamp", "dense": "tanh", "dcgan": "tanh", "r3gan": "linear"}


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


@pytest.mark.parametrize("config", [*KINDS, replace(STRIDED, modulation=True)])
def test_a_whole_weight_on_one_class_gives_its_image_to_the_bit(config: NetworkConfig) -> None:
    generator = trained(build_generator(config)).eval()
    z, c = batch(config, 64)
    one_hot = nn.functional.one_hot(c, max(config.num_classes, 1)).float()
    assert torch.equal(generator(z, one_hot), generator(z, c))


@pytest.mark.parametrize("config", LABELLED)
def test_weights_mix_the_embeddings_of_their_classes(config: NetworkConfig) -> None:
    generator = build_generator(config)
    z, weights = torch.randn(1, config.z_dim), torch.zeros(1, config.num_classes)
    weights[0, 2], weights[0, 7] = 0.25, 0.75
    mixed = generator.input(z, weights)[0]
    embeddings = generator.input.embedding.weight
    assert torch.equal(mixed[: config.z_dim], z[0])
    assert torch.allclose(mixed[config.z_dim :], 0.25 * embeddings[2] + 0.75 * embeddings[7])


def test_a_mix_of_embeddings_does_not_depend_on_its_batch() -> None:
    join = layers.LatentInput(1, 100, 32)
    z, weights = torch.zeros(64, 1), torch.rand(64, 100)
    together = join(z, weights)
    for size in (1, 2, 3, 32):
        apart = [join(z[i : i + size], weights[i : i + size]) for i in range(0, 64, size)]
        assert torch.equal(torch.cat(apart), together)


@pytest.mark.parametrize("config", LABELLED)
def test_a_trace_made_with_weights_gives_the_same_images(config: NetworkConfig) -> None:
    generator = trained(build_generator(config)).eval()
    z, weights = torch.randn(4, config.z_dim), torch.rand(4, config.num_classes)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.trace", DeprecationWarning)
        traced = torch.jit.trace(generator, (z, weights / weights.sum(dim=1, keepdim=True)))
        for asked in (weights, torch.eye(config.num_classes)[:4]):
            assert torch.equal(traced(z, asked), generator(z, asked))
            assert torch.equal(traced(z[:3], asked[:3]), generator(z[:3], asked[:3]))


@pytest.mark.parametrize("config", KINDS)
def test_images_of_a_batch_do_not_see_each_other_when_served(config: NetworkConfig) -> None:
    generator = trained(build_generator(config)).eval()
    z, c = batch(config)
    before = generator(z, c)[0]
    z[1:] = 0
    assert torch.allclose(generator(z, c)[0], before, atol=1e-6)


@pytest.mark.parametrize("config", [*KINDS, *NORMALISED])
def test_a_logit_depends_on_its_own_image_alone(config: NetworkConfig) -> None:
    discriminator = trained(build_discriminator(config))
    images, c = torch.randn(5, config.img_channels, 28, 28), batch(config)[1]
    for _ in range(100 if config.spectral_norm else 0):
        discriminator(images, c)  # until u and v stand still
    before = discriminator(images, c)[0]
    images[1:] = 0
    assert discriminator(images, c)[0].item() == pytest.approx(before.item(), rel=1e-3)


@pytest.mark.parametrize("config", LABELLED)
def test_moving_a_network_changes_no_image(config: NetworkConfig) -> None:
    generator = build_generator(config)
    z, c = batch(config)
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


# R3GAN


@pytest.mark.parametrize(
    ("resolution", "num_classes", "widths", "counts"),
    [
        (32, 0, (768,) * 4, (20_732_160, 20_683_776)),  # Stacked-MNIST
        (32, 10, (768,) * 4, (20_781_952, 21_280_512)),  # CIFAR-10
        (64, 0, (768,) * 4 + (384,), (22_429_824, 22_381_440)),  # FFHQ-64
        (256, 0, (768,) * 4 + (384, 192, 96), (23_057_952, 23_009_568)),  # FFHQ-256
    ],
)
def test_r3gan_has_the_published_number_of_parameters(
    resolution: int, num_classes: int, widths: tuple[int, ...], counts: tuple[int, int]
) -> None:
    config = NetworkConfig("r3gan", resolution, 3, num_classes, 64, widths, embed_dim=64)
    with torch.device("meta"):
        nets = build_generator(config), build_discriminator(config)
    assert tuple(num_parameters(net) for net in nets) == counts


@pytest.mark.parametrize(
    ("resolution", "widths", "start"),
    [(28, (8,) * 3, 7), (32, (8,) * 4, 4), (64, (8,) * 5, 4), (128, (8,) * 6, 4)],
)
@pytest.mark.parametrize("group_size", [0, 4])
def test_r3gan_makes_any_resolution_that_its_halvings_fit(
    resolution: int, widths: tuple[int, ...], start: int, group_size: int
) -> None:
    config = NetworkConfig("r3gan", resolution, 1, 2, 8, widths, blocks=1, group_size=group_size)
    images = build_generator(config)(*batch(config, 2))
    assert (config.start_resolution, images.shape) == (start, (2, 1, resolution, resolution))
    assert build_discriminator(config)(images, batch(config, 2)[1]).shape == (2,)


def filter_matrix(low: int) -> torch.Tensor:
    """M (2·low, low): column j holds [1, 3, 3, 1] around the two pixels that halve to j."""
    padded = torch.zeros(2 * low + 2, low)
    for j in range(low):
        padded[2 * j : 2 * j + 4, j] = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return padded[1:-1]


def test_resampling_is_the_published_filter_with_black_beyond_the_border() -> None:
    m = filter_matrix(5)
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(Up(3, 3)(x), m / 4 @ x @ m.T / 4, atol=1e-6)
    x = torch.randn(2, 3, 10, 10)
    assert torch.allclose(Down(3, 3)(x), m.T / 8 @ x @ m / 8, atol=1e-6)


def test_widths_change_by_a_pointwise_map_on_the_low_resolution_side() -> None:
    assert isinstance(Up(4, 4).project, nn.Identity)
    up, down, x = Up(4, 2), Down(2, 4), torch.randn(1, 4, 3, 3)
    assert torch.allclose(up(x), Up(2, 2)(up.project(x)))
    x = torch.randn(1, 2, 6, 6)
    assert torch.allclose(down(x), down.project(Down(2, 2)(x)))


def test_the_state_of_r3gan_is_its_parameters() -> None:
    for net in (build_generator(R3GAN), build_discriminator(R3GAN)):
        assert list(net.state_dict()) == [name for name, _ in net.named_parameters()]


def test_a_block_starts_as_the_identity_with_the_published_spread_within() -> None:
    block = ResidualBlock(128, group_size=16, depth=8)
    x = torch.randn(1, 128, 4, 4)
    assert torch.equal(block(x), x)
    # 32,768 and 36,864 weights: the deviation's own deviation is .4 %, so 2 % is 5 of them.
    gain = (2 / 1.04) ** 0.5 * 8**-0.25
    assert block.expand.weight.std().item() == pytest.approx(gain / 128**0.5, rel=0.02)
    assert block.mix.weight.std().item() == pytest.approx(gain / (16 * 9) ** 0.5, rel=0.02)
    assert block.mix.weight.shape == (256, 16, 3, 3)


def test_all_else_in_r3gan_starts_with_gain_one() -> None:
    config = NetworkConfig("r3gan", 16, 3, 100, 64, (512, 256), embed_dim=36, blocks=1)
    g, d = build_generator(config), build_discriminator(config)
    # At least 3,600 weights each but for the 768 of a map from pixels: 10 % is above 3.9 deviations
    # of the smallest and 8 of the others (seeded, so that it holds always or never).
    for weight, fan_in in [
        (g.input.embedding.weight, 100),
        (g.scales.weight, 100),
        (g.basis, 1),
        (g.ups[0].project.weight, 512),
        (d.from_pixels.weight, 3),
        (d.basis, 64),
        (d.features.weight, 512),
        (d.head.embedding.weight, 100),
    ]:
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.1)


def test_an_unconditional_logit_of_r3gan_is_a_plain_linear_map() -> None:
    config = replace(R3GAN, num_classes=0)
    discriminator = trained(build_discriminator(config))
    maps: list[torch.Tensor] = []
    discriminator.features.register_forward_hook(lambda _, __, out: maps.append(out))
    logits = discriminator(torch.randn(3, 3, 28, 28), torch.zeros(3, dtype=torch.int64))
    weight = discriminator.head.embedding.weight[0]
    assert torch.allclose(logits, maps[0] @ weight)


@pytest.mark.parametrize(
    "layer", [Up(2, 3), Down(2, 3), ResidualBlock(2, group_size=2, depth=2)], ids=lambda m: type(m)
)
def test_layers_of_r3gan_have_right_first_and_second_derivatives(layer: nn.Module) -> None:
    layer = trained(layer).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, x)
    assert gradgradcheck(layer, x)


# DCGAN


@pytest.mark.parametrize(
    ("resolution", "widths", "start"), [(28, (8, 4), 7), (32, (8,) * 3, 4), (128, (8,) * 5, 4)]
)
def test_a_dcgan_has_one_width_below_full_resolution_for_each_step_up(
    resolution: int, widths: tuple[int, ...], start: int
) -> None:
    config = NetworkConfig("dcgan", resolution, 3, 0, 8, widths)
    images = build_generator(config)(*batch(config, 2))
    assert (config.start_resolution, images.shape) == (start, (2, 3, resolution, resolution))
    assert build_discriminator(config)(images, batch(config, 2)[1]).shape == (2,)


def test_dcgan_starts_from_the_published_distribution() -> None:
    config = replace(DCGAN, widths=(64, 32))
    layers = [m for m in build_generator(config).modules() if isinstance(m, nn.ConvTranspose2d)]
    layers += [m for m in build_discriminator(config).modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:  # 512 weights or more: 15 % is 4.8 deviations (seeded)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)


# Spectral normalisation


def settled(config: NetworkConfig) -> nn.Module:
    """A D whose power iterations have converged."""
    discriminator = build_discriminator(config)
    images, c = torch.randn(2, config.img_channels, 28, 28), batch(config, 2)[1]
    for _ in range(300):
        discriminator(images, c)
    return discriminator.eval()


@pytest.mark.parametrize("config", NORMALISED)
def test_every_map_of_a_normalised_discriminator_has_spectral_norm_one(
    config: NetworkConfig,
) -> None:
    maps = [m for m in settled(config).modules() if hasattr(m, "parametrizations")]
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    assert len(maps) == sum(isinstance(m, kinds) for m in build_discriminator(config).modules())
    for layer in maps:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, abs=0.01)


def test_a_normalised_dense_discriminator_is_lipschitz() -> None:
    config = replace(DENSE, spectral_norm=True)
    discriminator, (_, c) = settled(config), batch(config, 64)
    x, y = torch.randn(2, 64, 3, 28, 28)
    moved = (discriminator(x, c) - discriminator(y, c)).abs()
    assert (moved <= 1.01 * (x - y).flatten(1).norm(dim=1)).all()
    assert moved.max() > 0.01


def test_a_normalised_head_scales_features_by_one() -> None:
    head = normalise_spectra(LogitHead(6, 0))
    features = torch.randn(1, 6)
    direction = head.embedding(torch.tensor([0]))
    assert direction.norm().item() == pytest.approx(1)
    logit = head(features.norm() * direction, torch.tensor([0]))
    assert logit.item() == pytest.approx(features.norm().item())


def test_the_norm_is_computed_outside_autocast() -> None:
    class Square(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight @ weight

    with torch.autocast("cpu", torch.bfloat16):
        assert Square()(torch.eye(2)).dtype == torch.bfloat16
        assert InFp32(Square())(torch.eye(2)).dtype == torch.float32


@pytest.mark.parametrize("config", NORMALISED)
def test_a_normalised_discriminator_survives_its_state_dict(config: NetworkConfig) -> None:
    first, second = settled(config), build_discriminator(config).eval()
    second.load_state_dict(first.state_dict())
    images, c = torch.randn(5, config.img_channels, 28, 28), batch(config)[1]
    assert torch.equal(first(images, c), second(images, c))
    assert torch.equal(first.train()(images, c), second.train()(images, c))


@pytest.mark.parametrize("config", [*LABELLED, *NORMALISED])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_gradient_penalty_reaches_the_weights_of_every_discriminator(
    config: NetworkConfig, bf16: bool
) -> None:
    discriminator = trained(build_discriminator(config))
    images = torch.randn(5, config.img_channels, 28, 28, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = discriminator(images, batch(config)[1])
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradient.square().sum().backward()
    first = next(p for p in discriminator.parameters() if p.ndim > 1)
    assert first.grad is not None
    assert first.grad.isfinite().all()
    assert first.grad.any()


# A VAE's encoder


@pytest.mark.parametrize("num_classes", [0, 10])
def test_an_encoder_gives_a_mean_and_a_log_variance_an_image(num_classes: int) -> None:
    config = replace(STRIDED, num_classes=num_classes)
    encoder, images = build_encoder(config), torch.randn(2, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        moments = encoder(images[:1].repeat(2, 1, 1, 1), torch.arange(2) % max(num_classes, 1))
    for moment in moments:
        assert (moment.shape, moment.dtype) == ((2, 16), torch.float32)
        assert torch.equal(moment[0], moment[1]) == (num_classes == 0)


@pytest.mark.parametrize("config", [DENSE, DCGAN, R3GAN])
def test_only_strided_networks_have_an_encoder(config: NetworkConfig) -> None:
    with pytest.raises(ValueError, match=f"architecture '{config.architecture}' has no encoder"):
        build_encoder(config)


# Config


@pytest.mark.parametrize("config", [*KINDS, *NORMALISED, replace(R3GAN, output="clamp", blocks=3)])
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
        ({"architecture": ["dense"]}, "architecture is"),
        ({"output": "sigmoid"}, "output is 'sigmoid'; expected one of native, clamp, tanh, linear"),
        ({"output": None}, "output is None"),
        ({"spectral_norm": 1}, "spectral_norm is 1; expected true or false"),
        ({"blocks": 0}, "below 1"),
        ({"blocks": "2"}, "blocks is '2'"),
        ({"group_size": False}, "group_size is False"),
        ({"architecture": "r3gan", "group_size": -1}, "group_size is -1"),
        ({"architecture": "r3gan"}, "group_size 16 does not divide the 8 channels that width 4"),
        ({"architecture": "r3gan", "widths": [8], "spectral_norm": True}, "spectral_norm is True"),
        ({"architecture": "dcgan"}, "cannot be halved 3 times"),
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


def test_a_config_older_than_a_setting_takes_its_default() -> None:
    optional = ("embed_dim", "feature_dim", "blocks", "group_size", "output", "spectral_norm")
    stored = {k: v for k, v in STRIDED.to_json().items() if k not in optional}
    assert NetworkConfig.from_json(stored) == NetworkConfig("strided", 28, 1, 10, 16, (16, 8, 4))


def test_pixels_end_in_range_and_gradients_stop_only_where_they_push_outward() -> None:
    x = torch.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    pixels = to_range(x)
    assert pixels.tolist() == [-1, -1, 0.5, 1, 1]
    # Descent moves against the gradient: +1 pulls down, -1 pushes up.
    pixels.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, 1, 0]


def test_pixels_without_gradients_are_the_same_and_need_no_operator_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.tensor([-3.0, 0.5, 3.0], requires_grad=True)
    taught = to_range(x)
    monkeypatch.delattr(layers, "_Clamp")
    with torch.no_grad():
        assert torch.equal(to_range(x), taught)
    assert torch.equal(to_range(x.detach()), taught)


def test_a_linear_output_is_left_as_it_is_and_tanh_bends_it() -> None:
    x = torch.tensor([-3.0, 0.5])
    assert torch.equal(as_pixels(x, "linear"), x)
    assert as_pixels(x.bfloat16(), "tanh").tolist() == pytest.approx(x.tanh().tolist())
