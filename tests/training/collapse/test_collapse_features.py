"""What the watch sees of an image."""

import numpy as np
import pytest
import torch

from training.collapse.features import RandomFilters


def noise(count: int, resolution: int, channels: int) -> np.ndarray:
    shape = (count, resolution, resolution, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("resolution", [8, 9, 16, 28, 32, 64, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size_have_as_many_features(resolution, channels):
    seen = RandomFilters(channels, seed=0)(noise(2, resolution, channels))
    assert seen.pixels.shape == (2, 64 * channels)
    assert seen.responses.shape == (2, 1152)
    assert seen.responses.isfinite().all()


def test_an_even_image_makes_no_filter_respond():
    seen = RandomFilters(1, seed=0)(np.full((1, 16, 16, 1), 200, np.uint8))
    assert seen.responses.abs().max() < 1e-5
    assert seen.pixels.unique().tolist() == pytest.approx([200 / 127.5 - 1])


def test_brightness_changes_no_response():
    images = noise(3, 16, 1) // 2
    see = RandomFilters(1, seed=0)
    assert torch.allclose(see(images).responses, see(images + 100).responses, atol=1e-5)


def test_a_negative_answers_with_the_other_half_of_the_responses():
    images = noise(2, 16, 1)
    see = RandomFilters(1, seed=0)
    first, second = see(images).responses.chunk(2, dim=1)
    assert torch.allclose(see(255 - images).responses, torch.cat([second, first], 1), atol=1e-5)


def test_features_of_rows_are_those_of_each_row():
    images = noise(300, 8, 1)
    see = RandomFilters(1, seed=0)
    rows = np.random.default_rng(1).permutation(300)
    seen = see.of_rows(images, rows)
    for i in (0, 127, 128, 299):
        assert torch.allclose(seen.responses[i], see(images[rows[i]][None]).responses[0], atol=1e-6)


def test_a_seed_stands_for_its_filters():
    images = noise(2, 8, 3)
    first, again, other = (RandomFilters(3, seed)(images).responses for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
