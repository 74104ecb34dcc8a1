"""Copies are found, and new images are not called copies."""

import numpy as np
import pytest
import torch

from training.metrics.memorisation import memorisation, nearest_training_image

CPU = torch.device("cpu")


def test_the_nearest_training_image_is_the_nearest_of_all_pairs(bars, painter):
    images = painter().from_seeds(range(20))
    distances, rows = nearest_training_image(images, bars, CPU)
    trained = np.flatnonzero(~bars.heldout)
    differences = images[:, None].astype(float) - bars.images[trained][None]
    pairs = np.sqrt((differences**2).mean(axis=(2, 3, 4)))
    assert np.array_equal(rows, trained[pairs.argmin(axis=1)])
    assert distances == pytest.approx(pairs.min(axis=1), rel=1e-4)


def test_a_generator_that_repeats_training_images_is_found_out(bars):
    trained = bars.images[~bars.heldout]
    copies = np.repeat(trained[:5], 40, axis=0)
    found = memorisation(copies, bars.images[bars.heldout], bars, CPU)
    assert found.fakes.value == 1
    assert found.reals < 0.05


def test_every_other_held_out_image_sets_the_bound_and_the_rest_are_counted(bars):
    copies, new = bars.images[~bars.heldout][:100], bars.images[bars.heldout][:100]
    copies_counted = np.stack([new, copies], axis=1).reshape(200, *new.shape[1:])
    copies_bound = np.stack([copies, new], axis=1).reshape(200, *new.shape[1:])
    assert memorisation(new, copies_counted, bars, CPU).reals == 1
    assert memorisation(new, copies_bound, bars, CPU).reals == 0


def test_new_images_are_as_rarely_near_as_held_out_ones(bars, painter):
    # About 1 in 100 with a bound learnt from 120 images: over 6 % has odds below 1 in 1000.
    new = painter().from_seeds(range(500))
    found = memorisation(new, bars.images[bars.heldout], bars, CPU)
    assert found.fakes.value < 0.06
    assert found.fakes.se == pytest.approx(
        np.sqrt(found.fakes.value * (1 - found.fakes.value) / 500)
    )


def test_the_picture_shows_the_closest_fakes_beside_what_they_are_close_to(bars, painter):
    copied = np.flatnonzero(~bars.heldout)[7]

    def paint(labels, seed):
        rng = np.random.default_rng(seed)
        noise = rng.integers(0, 256, (1, 12, 12, 1), np.uint8)
        return bars.images[copied : copied + 1] if seed == 10**6 + 53 else noise

    sampler = painter(paint)
    fakes = sampler.from_seeds(range(50, 90))
    found = memorisation(fakes, bars.images[bars.heldout], bars, CPU)
    assert (found.closest_fakes[0], found.closest_rows[0]) == (3, copied)
    picture = found.picture(sampler, bars, None, first_seed=50)
    assert picture.shape == (4 * 13, 4 * 25, 1)  # 16 pairs, four in a row, a line between them
    assert np.array_equal(picture[:12, :12], bars.images[copied])
    assert np.array_equal(picture[:12, 12:24], bars.images[copied])


def test_a_hundredth_of_few_held_out_images_is_not_made_up(bars):
    assert memorisation(bars.images[:9], bars.images[bars.heldout][:199], bars, CPU) is None
