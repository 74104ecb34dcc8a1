"""Augmentation: what each operation does, how often, and that gradients of gradients pass.

Geometry is held against cosines that are even about the outermost pixels, cos(πmx/(R - 1)): they
equal their own reflection, so every pixel of the result has a closed form, the edges too.
"""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from training.augment.ada import Ada, Strengths
from training.augment.adaptive import adjust
from training.augment.augmentation import AugmentationName, make_augmentation
from training.augment.draws import Draws

KINDS = get_args(AugmentationName)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_images(count: int, channels: int = 3, size: int = 12) -> Tensor:
    return torch.rand(count, channels, size, size, generator=rng(1)) * 2 - 1


def changed(images: Tensor, kind: AugmentationName = "ada_full", **groups: list[float]) -> Tensor:
    """The images, all of them under one and the same row of each group named."""
    rows = {name: torch.tensor([row] * len(images)).float() for name, row in groups.items()}
    return make_augmentation(kind).apply(images, Draws(len(images), rows))


def cosine(x: Tensor, y: Tensor, m: int, n: int, size: int) -> Tensor:
    return torch.cos(math.pi * m * x / (size - 1)) * torch.cos(math.pi * n * y / (size - 1))


def grid(size: int) -> tuple[Tensor, Tensor]:
    """x, y (R, R) of the pixels, from the first one."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return x.double(), y.double()


# Nothing drawn


@pytest.mark.parametrize("kind", KINDS)
def test_with_p_0_images_come_back_bit_for_bit_and_nothing_is_drawn(kind):
    augmentation, images, chance = make_augmentation(kind), noise_images(4), rng()
    draws = augmentation.draw(4, 0.0, 12, 3, chance)
    assert draws.groups == {}
    assert torch.equal(augmentation.apply(images, draws), images)
    assert torch.equal(chance.get_state(), rng().get_state())


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_whose_draws_are_zero_comes_back_bit_for_bit(kind):
    augmentation, images = make_augmentation(kind), noise_images(64)
    draws = augmentation.draw(64, 0.1, 12, 3, rng())
    spared = ~torch.stack([g.flatten(1).any(1) for g in draws.groups.values()]).any(0)
    assert 0 < spared.sum() < 64
    augmented = augmentation.apply(images, draws)
    assert torch.equal(augmented[spared], images[spared])
    assert not any(
        torch.equal(a, b) for a, b in zip(augmented[~spared], images[~spared], strict=True)
    )


def test_a_group_of_strength_0_is_not_drawn():
    off = Ada(Strengths(blit=0, geometry=0, colour=0, cutout=0))
    assert off.draw(4, 1.0, 12, 3, rng()).groups == {}


def test_the_set_of_r3gan_has_neither_bands_nor_noise():
    drawn = make_augmentation("ada").draw(4, 1.0, 12, 3, rng())
    assert set(drawn.groups) == {"blit", "geometry", "colour", "cutout"}
    everything = make_augmentation("ada_full").draw(4, 1.0, 12, 3, rng())
    assert set(everything.groups) == {*drawn.groups, "bands", "noise"}


# Pixel blitting


def test_a_flip_is_torch_flip():
    images = noise_images(2)
    assert torch.equal(changed(images, blit=[1, 0, 0, 0]), images.flip(3))


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_rot90_clockwise(size, turns):
    images = noise_images(2, size=size)
    assert torch.equal(changed(images, blit=[0, turns, 0, 0]), images.rot90(-turns, (2, 3)))


def test_a_whole_shift_moves_every_pixel_and_reflects_at_the_edge():
    images = noise_images(2)
    reflected = np.pad(images.numpy(), ((0, 0), (0, 0), (0, 2), (3, 0)), mode="reflect")
    shifted = changed(images, blit=[0, 0, 3, -2])
    assert np.array_equal(shifted.numpy(), reflected[:, :, 2:, :12])


def test_blits_come_in_the_order_flip_turn_shift():
    images = noise_images(2)
    one_by_one = changed(images, blit=[1, 0, 0, 0])
    one_by_one = changed(one_by_one, blit=[0, 1, 0, 0])
    one_by_one = changed(one_by_one, blit=[0, 0, 2, 1])
    assert torch.equal(changed(images, blit=[1, 1, 2, 1])[..., 1:, 2:], one_by_one[..., 1:, 2:])


# Geometry


def forward_matrix(
    scale: float, before: float, stretch: float, after: float, dx: float, dy: float
) -> np.ndarray:
    """Where a position goes, one factor after the other, angles clockwise as y points down."""

    def turn(t: float) -> np.ndarray:
        return np.array([[math.cos(t), -math.sin(t), 0], [math.sin(t), math.cos(t), 0], [0, 0, 1]])

    shift = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]])
    zoom, aspect = np.diag([2**scale, 2**scale, 1]), np.diag([2**stretch, 2**-stretch, 1])
    return shift @ turn(after) @ aspect @ turn(before) @ zoom


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([0.4, 0, 0, 0, 0, 0], id="zoom in"),
        pytest.param([-0.4, 0, 0, 0, 0, 0], id="zoom out"),
        pytest.param([0, 0.5, 0, 0, 0, 0], id="turn"),
        pytest.param([0, 0, 0.3, 0, 0, 0], id="stretch"),
        pytest.param([0, 0, 0, 0, 2.5, -1.3], id="shift"),
        pytest.param([-0.2, 2.2, -0.3, -0.7, 40.4, 3.1], id="all, far outside"),
    ],
)
@pytest.mark.parametrize("size", [31, 32])
def test_a_cosine_is_where_its_map_puts_it(row, size):
    x, y = grid(size)
    images = cosine(x, y, 3, 2, size)[None, None]
    centre = (size - 1) / 2
    inverse = torch.from_numpy(np.linalg.inv(forward_matrix(*row)))
    there = torch.stack([x - centre, y - centre, torch.ones_like(x)])
    from_x, from_y, _ = torch.einsum("ij,jhw->ihw", inverse, there)
    expected = cosine(from_x + centre, from_y + centre, 3, 2, size)
    # The filter ripples by .5 % and the line between samples of a cosine sags by (ω/2)²/8 = .3 %.
    torch.testing.assert_close(changed(images, geometry=row)[0, 0], expected, atol=0.02, rtol=0)


def test_blit_and_geometry_are_one_map_with_one_reflection():
    x, y = grid(32)
    images = cosine(x, y, 3, 2, 32)[None, None]
    geometry = [0.1, 0.3, 0, 0, 0, 0]
    both = changed(images, blit=[1, 1, 3, 0], geometry=geometry)
    apart = changed(changed(images, blit=[1, 1, 3, 0]), geometry=geometry)
    # The far corner is the one place that knows the edge was reflected in between.
    torch.testing.assert_close(both[..., 8:, 12:20], apart[..., 8:, 12:20], atol=0.01, rtol=0)
    assert (both - apart).abs().max() > 0.1


def test_turning_there_and_back_gives_a_smooth_image_back():
    x, y = grid(32)
    images = torch.exp(-((x - 17).square() + (y - 14).square()) / 18)[None, None]
    there = changed(images, geometry=[0, 0.6, 0, 0, 0, 0])
    back = changed(there, geometry=[0, -0.6, 0, 0, 0, 0])
    # The corners left the image, and what is reflected there did not come back.
    within = slice(4, -4)
    torch.testing.assert_close(
        back[..., within, within], images[..., within, within], atol=0.02, rtol=0
    )


def test_zooming_out_leaves_no_false_patterns():
    x, y = grid(32)
    fine = cosine(x, y, 26, 0, 32)[None, None]  # .84 of what the grid holds; halved, 1.68
    assert changed(fine, geometry=[-1, 0, 0, 0, 0, 0]).abs().max() < 0.05


def test_a_flat_image_stays_flat_wherever_it_goes():
    images = torch.full((1, 3, 12, 12), 0.7)
    turned = changed(images, geometry=[0.3, 1.0, 0.2, 0.4, 5.5, -3.2])
    torch.testing.assert_close(turned, images)


# Colour


def test_brightness_adds_and_contrast_scales_about_zero():
    images = noise_images(2)
    torch.testing.assert_close(changed(images, colour=[0.3, 0, 0, 0, 0]), images + 0.3)
    torch.testing.assert_close(changed(images, colour=[0, 1, 0, 0, 0]), images * 2)


def test_saturation_scales_the_distance_from_grey_and_hue_turns_it():
    images = noise_images(2)
    grey = images.mean(1, keepdim=True)
    vivid = changed(images, colour=[0, 0, 0, 0, 1])
    torch.testing.assert_close(vivid, grey + 2 * (images - grey))
    third = changed(images, colour=[0, 0, 0, 2 * math.pi / 3, 0])
    torch.testing.assert_close(third, images.roll(1, dims=1))  # red becomes green


def test_colour_is_the_papers_product_of_4_by_4_matrices():
    b, k, flip, hue, s = 0.2, 0.4, 1, 0.9, -0.6
    v = np.array([1, 1, 1, 0]) / math.sqrt(3)
    onto_grey, eye = np.outer(v, v), np.eye(4)
    cross = np.array([[0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0] * 4]) / math.sqrt(3)
    colours = np.diag([1, 1, 1, 0])
    bright = eye + np.outer([b, b, b, 0], [0, 0, 0, 1])
    contrast = np.diag([2**k, 2**k, 2**k, 1])
    luma = eye - 2 * flip * onto_grey
    turn = eye + math.sin(hue) * cross + (1 - math.cos(hue)) * (onto_grey - colours)
    saturate = onto_grey + np.diag([0, 0, 0, 1]) + (colours - onto_grey) * 2**s
    product = torch.from_numpy(saturate @ turn @ luma @ contrast @ bright).float()
    images = noise_images(2)
    expected = torch.einsum("ij,bjhw->bihw", product[:3, :3], images) + product[:3, 3:, None]
    torch.testing.assert_close(changed(images, colour=[b, k, flip, hue, s]), expected)


def test_grey_images_know_brightness_contrast_and_luma_flip_only():
    drawn = make_augmentation("ada_full").draw(100, 1.0, 12, 1, rng()).groups["colour"]
    assert drawn[:, :3].any(0).all()
    assert not drawn[:, 3:].any()
    images = noise_images(2, channels=1)
    both = changed(images, colour=[0.3, 1, 1, 0, 0])
    torch.testing.assert_close(both, -2 * (images + 0.3))


# Bands, noise, cutout


@pytest.mark.parametrize(("band", "m"), [(0, 1), (1, 12), (2, 24), (3, 47)])
def test_a_band_is_amplified_and_the_expected_power_kept(band, m):
    x, y = grid(64)
    images = cosine(x, y, m, 0, 64)[None, None]  # in the middle of its band; no change downwards
    share = 10 / 13 if band == 0 else 1 / 13
    power = 1 + share * (4**1.5 - 1)
    boosts = [0.0] * 4
    boosts[band] = 1.5
    across = 2**1.5 / math.sqrt(power)
    down = across if band == 0 else 1 / math.sqrt(power)  # the lowest band holds the constant
    expected = images * across * down
    # Octave filters overlap: what is in the middle of a band is in it by nine tenths.
    torch.testing.assert_close(changed(images, bands=boosts), expected, atol=0.2, rtol=0)


def test_noise_is_added_as_drawn_with_the_papers_strength():
    augmentation, images = Ada(Strengths(0, 0, 0, 0, noise=1, cutout=0)), noise_images(4000, 1, 8)
    added = augmentation.apply(images, augmentation.draw(4000, 1.0, 8, 1, rng())) - images
    # σ ~ |N(0, .1²)|: the mean of 4000 σ² is .01 to 2.2 %, and 5 of those miss once in 10⁶.
    assert added.square().mean().item() == pytest.approx(0.01, rel=0.12)
    per_image = added.square().mean(dim=(1, 2, 3))
    assert per_image.max() > 10 * per_image.median()


def test_cutout_zeroes_a_square_of_half_the_side():
    images = torch.ones(1, 3, 8, 8)
    middle = changed(images, cutout=[1, 0.5, 0.5])
    expected = images.clone()
    expected[..., 2:6, 2:6] = 0
    assert torch.equal(middle, expected)
    corner = changed(images, cutout=[1, 0.999, 0.001])
    expected = images.clone()
    expected[..., :2, 6:] = 0
    assert torch.equal(corner, expected)


# Gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_first_and_second_derivatives_are_right(kind, channels):
    augmentation = make_augmentation(kind)
    draws = augmentation.draw(4, 0.7, 8, channels, rng(3))
    images = noise_images(4, channels, 8).double().requires_grad_()

    def curved(images: Tensor) -> Tensor:  # linear maps alone would have no second derivative
        return augmentation.apply(images, draws).sin()

    assert gradcheck(curved, images, fast_mode=True)
    assert gradgradcheck(curved, images, fast_mode=True)


def test_every_entry_of_both_derivatives_of_the_resampling_is_right():
    draws = Draws(1, {"geometry": torch.tensor([[0.1, 0.5, 0.2, -0.3, 1.3, -2.7]])})
    images = noise_images(1, 1, 8).double().requires_grad_()

    def curved(images: Tensor) -> Tensor:
        return make_augmentation("ada").apply(images, draws).square()

    assert gradcheck(curved, images)
    assert gradgradcheck(curved, images)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rounds_neither_the_images_nor_their_gradient(kind):
    augmentation, images = make_augmentation(kind), noise_images(16).requires_grad_()
    draws = augmentation.draw(16, 0.7, 12, 3, rng())

    def penalty_gradient(autocast: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            augmented = augmentation.apply(images, draws)
            squares = augmented.square().sum()
            return augmented, torch.autograd.grad(squares, images, create_graph=True)[0]

    for under, plain in zip(penalty_gradient(True), penalty_gradient(False), strict=True):
        assert under.dtype == torch.float32
        assert torch.equal(under, plain)


# Draws


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_the_draws_changes_its_part_of_the_batch_as_the_whole_would(kind):
    augmentation, images = make_augmentation(kind), noise_images(16)
    draws = augmentation.draw(16, 0.7, 12, 3, rng())
    whole = augmentation.apply(images, draws)
    parts = [draws[0:5], draws[5:16]]
    assert [len(part) for part in parts] == [5, 11]
    cut = [
        augmentation.apply(i, part) for i, part in zip(images.split([5, 11]), parts, strict=True)
    ]
    torch.testing.assert_close(torch.cat(cut), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_state_draws_the_same(kind):
    first, again = (make_augmentation(kind).draw(8, 0.5, 12, 3, rng(5)) for _ in range(2))
    assert all(torch.equal(first.groups[name], again.groups[name]) for name in first.groups)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_bytes_does_not_matter(kind):
    augmentation, images = make_augmentation(kind), noise_images(8)
    draws = augmentation.draw(8, 0.7, 12, 3, rng())
    channels_last = images.to(memory_format=torch.channels_last)
    plain = augmentation.apply(images, draws)
    torch.testing.assert_close(augmentation.apply(channels_last, draws), plain)


N = 20_000


def fires(column: Tensor) -> float:
    return (column != 0).float().mean().item()


def test_each_operation_fires_as_often_as_p_and_its_strength_say():
    p = 0.3
    groups = make_augmentation("ada").draw(N, p, 64, 3, rng()).groups
    flip, turns, x, _ = groups["blit"].unbind(1)
    scale, before, stretch, after, drift, _ = groups["geometry"].unbind(1)
    brightness, contrast, luma, hue, saturation = groups["colour"].unbind(1)
    expected = [
        (flip, p / 2),  # half of those asked to flip may stay
        (turns, p * 3 / 4),
        (x, p * 15 / 16),  # ± 8 pixels, rounded: one in sixteen is a shift by none
        (scale, p),
        (before, 1 - math.sqrt(1 - p)),
        (before.abs() + after.abs(), p),
        (stretch, p),
        (drift, p),
        *((column, p / 2) for column in (brightness, contrast, hue, saturation)),
        (luma, p / 4),
        (groups["cutout"][:, 0], p),
    ]
    # Five standard errors of the widest: each of the fourteen misses once in 1.7·10⁶ or rarer.
    for column, odds in expected:
        assert fires(column) == pytest.approx(odds, abs=5 * math.sqrt(p * (1 - p) / N))


def test_what_is_drawn_spreads_as_in_the_paper():
    groups = make_augmentation("ada_full").draw(N, 1.0, 8, 3, rng()).groups
    _, turns, x, y = groups["blit"].unbind(1)
    scale, before, stretch, after, *drift = groups["geometry"].unbind(1)
    brightness, contrast, _, hue, saturation = groups["colour"].unbind(1)
    uniform = math.pi / math.sqrt(3)
    spreads = [
        (scale, 0.2),
        (stretch, 0.2),
        (before, uniform),
        (after, uniform),
        *((d, 0.125 * 8) for d in drift),
        (brightness, 0.2),
        (contrast, 0.5),
        (hue, uniform),
        (saturation, 1.0),
        *((band, 1.0) for band in groups["bands"].unbind(1)),
    ]
    # A standard deviation of 20,000 normals is known to .5 %; five of those miss once in 10⁶.
    for column, std in spreads:
        assert column.std().item() == pytest.approx(std, rel=0.025)
        assert abs(column.mean().item()) < 5 * std / math.sqrt(N)
    assert turns.unique().tolist() == [0, 1, 2, 3]
    assert x.unique().tolist() == y.unique().tolist() == [-1, 0, 1]
    centres = groups["cutout"][:, 1:]
    assert centres.min() >= 0
    assert centres.max() <= 1
    assert centres.mean().item() == pytest.approx(0.5, abs=0.01)


# DiffAugment


def test_diffaugment_colours_as_published():
    images = noise_images(2)
    torch.testing.assert_close(changed(images, "diffaugment", **diff([0.3, 0, 0])), images + 0.3)
    grey = images.mean(1, keepdim=True)
    faded = changed(images, "diffaugment", **diff([0, -1, 0]))
    torch.testing.assert_close(faded, grey.expand_as(images))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    flatter = changed(images, "diffaugment", **diff([0, 0, -0.5]))
    torch.testing.assert_close(flatter, (images + mean) / 2)


def diff(
    colour: tuple[float, ...] | list[float] = (0, 0, 0),
    shift: tuple[float, ...] | list[float] = (0, 0),
) -> dict[str, list[float]]:
    return {"colour": list(colour), "shift": list(shift), "cutout": [0, 0, 0]}


def test_diffaugment_shifts_zeros_in():
    images = noise_images(2)
    padded = torch.nn.functional.pad(images, (3, 0, 0, 2))[:, :, 2:, :12]
    assert torch.equal(changed(images, "diffaugment", **diff(shift=[3, -2])), padded)


@pytest.mark.parametrize("size", [9, 28, 32])
def test_diffaugment_draws_as_published(size):
    groups = make_augmentation("diffaugment").draw(N, 1.0, size, 3, rng()).groups
    farthest = {9: 1, 28: 4, 32: 4}[size]
    assert groups["shift"].unique().tolist() == list(range(-farthest, farthest + 1))
    for column, most in zip(groups["colour"].unbind(1), (0.5, 1, 0.5), strict=True):
        assert column.abs().max() <= most
        # Uniform: known to .3 %, and six of those miss less than once in 10⁶.
        assert column.std().item() == pytest.approx(most / math.sqrt(3), rel=0.02)
    images = torch.ones(N // 100, 1, size, size)
    cutout = {"colour": torch.zeros(N, 3), "shift": torch.zeros(N, 2), "cutout": groups["cutout"]}
    left = make_augmentation("diffaugment").apply(images, Draws(N, cutout)[: N // 100])
    side = (size + 1) // 2
    assert (left == 0).sum(dim=(1, 2, 3)).max() == side**2


# The adaptive controller


@pytest.mark.parametrize(
    ("p", "sign_mean", "expected"),
    [
        (0.2, 0.9, 0.21),
        (0.2, 0.1, 0.19),
        (0.2, 0.6, 0.2),
        (0.995, 0.9, 1.0),
        (0.005, -1.0, 0.0),
    ],
)
def test_p_moves_towards_the_target_one_step_at_a_time_and_stays_a_probability(
    p, sign_mean, expected
):
    assert adjust(p, sign_mean, 0.6, images=5_000, adapt_nimg=500_000) == pytest.approx(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_does_the_same_to_the_same_draws(kind):
    augmentation, images = make_augmentation(kind), noise_images(16)
    draws = augmentation.draw(16, 0.5, 12, 3, rng())
    there = Draws(16, {name: values.cuda() for name, values in draws.groups.items()})
    augmented = augmentation.apply(images.cuda(), there).cpu()
    # TF32 would show here; positions on a seam may fall to either side of it.
    torch.testing.assert_close(augmented, augmentation.apply(images, draws), atol=1e-4, rtol=1e-4)
