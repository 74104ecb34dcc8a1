"""Thumbnails: large images are averaged, small ones stay as they are."""

import numpy as np

from training.metrics.thumbnails import SIDE, thumbnails


def test_an_image_of_twice_the_size_becomes_the_means_of_its_squares():
    images = np.random.default_rng(0).integers(0, 256, (3, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    means = images.reshape(3, SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4))
    found = thumbnails(images)
    assert found.dtype == np.uint8
    assert np.abs(found - means).max() <= 0.5


def test_a_size_that_does_not_divide_is_made_small_too():
    assert (
        thumbnails(np.full((2, 50, 50, 1), 77, np.uint8)).tolist() == [[[[77]] * SIDE] * SIDE] * 2
    )


def test_small_images_stay_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    assert np.array_equal(thumbnails(images), images)
