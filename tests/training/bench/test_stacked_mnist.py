"""Stacked-MNIST: counting against closed forms and known floors, and the whole command, small."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from training.bench.__main__ import cli
from training.bench.stacked_mnist import count_modes, pack_stacks, perfect_floor, read_codes
from training.data.dataset import load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions

# Digits of each kind among MNIST's 60,000 training images.
MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize(
    ("num_samples", "kl"), [(10_000, 0.0549), (26_000, 0.0237), (50_000, 0.0143), (100_000, 0.0093)]
)
def test_a_perfect_generator_shows_the_known_floor(num_samples, kl):
    # The mean of 200 draws against the known figure, in standard deviations of one draw.
    floor = perfect_floor(np.array(MNIST_COUNTS) / 60_000, num_samples)
    assert abs(floor.kl - kl) < 3 * floor.kl_sd
    assert floor.modes > 999


def test_each_mode_once_is_kl_zero_and_one_mode_is_log_1000():
    even = count_modes(np.arange(1000))
    assert even.modes == 1000
    assert even.kl == pytest.approx(0, abs=1e-12)
    single = count_modes(np.full(500, 7))
    assert (single.modes, single.kl) == (1, pytest.approx(np.log(1000)))


def test_red_counts_hundreds_green_tens_and_blue_ones():
    images = np.array([[[[3, 1, 4]]], [[[0, 0, 9]]]], np.uint8)
    codes = read_codes(images, lambda x: (None, x[:, 0, 0, 0].astype(np.int64)))
    assert codes.tolist() == [314, 9]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty small grey images of each of ten kinds, packed."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for kind in range(10):
        (folder / "images" / str(kind)).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(25 * kind + rng.normal(0, 5, (28, 28)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / str(kind) / f"{i}.png")
    import_dataset(folder / "images", folder / "packed", ImportOptions("digits"))
    return folder / "packed"


def test_stacks_are_made_of_training_digits_alone_and_the_same_again(digits, tmp_path):
    dataset = load_dataset(digits)
    trained_on = {image.tobytes() for image in dataset.split(heldout=False)[0]}
    for name in ("one", "two"):
        pack_stacks(dataset, tmp_path / name, 50)
    stacks = load_dataset(tmp_path / "one")
    assert stacks.hash == load_dataset(tmp_path / "two").hash
    assert (stacks.images.shape, stacks.num_classes) == ((50, 28, 28, 3), 0)
    assert all(im[..., c].tobytes() in trained_on for im in stacks.images for c in range(3))


def test_the_command_trains_counts_at_every_snapshot_and_says_the_floor(digits, tmp_path):
    args = ("--data", digits, "--out", tmp_path, "--preset", "tiny", "--kimg", 0.32,
            "--stacks", 100, "--num-samples", 1000, "--threads", 1)  # fmt: skip
    result = CliRunner().invoke(cli, ["stacked-mnist", *map(str, args)])
    assert result.exit_code == 0, result.output
    assert "perfect generator" in result.output
    report = json.loads((tmp_path / "stacked-mnist.json").read_text())
    assert [row["cur_nimg"] for row in report["curve"]] == list(range(16, 321, 16))
    assert all(row["elapsed_sec"] > 0 and row["num_samples"] == 1000 for row in report["curve"])


def test_colour_images_are_no_digits(tmp_path):
    images = np.zeros((40, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(40)
    np.savez(tmp_path / "colour.npz", images=images, labels=np.arange(40) % 10)
    args = ["stacked-mnist", "--data", str(tmp_path / "colour.npz"), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert "made from grey digits in ten" in result.output
