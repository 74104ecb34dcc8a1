"""The bench command: what it prints, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from training.bench.__main__ import cli
from training.bench.speed import _Flops
from training.data.importing import import_dataset
from training.data.options import ImportOptions


def bench(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "training.bench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_bench_train_stands_the_engine_beside_a_plain_loop():
    done = bench("train", "--preset", "tiny", "--seconds", 0.1, "--rounds", 1, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "as set" in done.stdout
    assert "plain loop" in done.stdout
    assert "1.00" in done.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--preset", "nope"], "preset 'nope' does not exist"),
        (["--set", "gama=1"], "setting 'gama' does not exist"),
        (["--resolution", "30"], "cannot be halved"),
        (["--device", "abacus"], "'abacus' is not available"),
    ],
)
def test_a_bench_of_what_cannot_be_is_refused_in_one_line(args, told):
    result = CliRunner().invoke(cli, ["train", *args])
    assert result.exit_code == 2
    assert told in result.output
    assert result.output.startswith("Error: ")


def test_operations_of_a_product_are_two_for_each_multiplication():
    with _Flops() as counter:
        torch.ones(3, 5) @ torch.ones(5, 7)
        torch.ones(3, 5) + 1
    assert counter.total == 2 * 3 * 5 * 7


def test_bench_seeds_tells_the_spread(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    import_dataset(tmp_path / "noise.npz", tmp_path / "packed", ImportOptions("noise"))
    args = ("seeds", "--data", tmp_path / "packed", "--out", tmp_path / "out", "--seeds", 2,
            "--preset", "tiny", "--kimg", 0.1, "--threads", 1)  # fmt: skip
    done = bench(*args)
    assert done.returncode == 0, done.stderr
    assert "standard deviation" in done.stdout
    assert (tmp_path / "out" / "seed-1" / "metrics.json").is_file()


def test_bench_seeds_names_the_seed_that_failed(tmp_path):
    done = bench("seeds", "--data", tmp_path / "no", "--out", tmp_path / "out", "--kimg", 1)
    assert done.returncode == 2
    assert "Error: seed 0: " in done.stderr
