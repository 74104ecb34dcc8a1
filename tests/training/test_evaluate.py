"""The evaluate command: one generator, two side by side, a run over time; and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.comparison import comparison_table, difference, shared_numbers
from training.data.importing import import_dataset
from training.data.options import ImportOptions


def run_module(module: str, *args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", module, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def evaluate(*args) -> subprocess.CompletedProcess:
    return run_module("training.evaluate", *args, "--threads", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """`packed`: bars in two classes. `run`: a short run that kept its snapshots."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 60, (400, 28, 28), np.uint8), np.arange(400) % 2
    for image, label in zip(images, labels, strict=True):
        image[6 + 12 * label : 10 + 12 * label, rng.integers(2, 8) : rng.integers(16, 26)] = 220
    np.savez(folder / "bars.npz", images=images, labels=labels)
    import_dataset(folder / "bars.npz", folder / "packed", ImportOptions("bars"))
    done = run_module(
        "training.train", "--data", folder / "packed", "--run-dir", folder / "run", "--preset",
        "tiny", "--kimg", 1, "--keep-snapshots", "--threads", 1, "--data-dir", folder,
        "--model", "bars",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_one_generator_is_measured_with_its_closest_pairs_as_a_picture(place):
    done = evaluate("--data", place / "packed", "--model", "bars", "--data-dir", place,
                    "--num-samples", 80, "--json", "--closest", place / "pairs.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert {"fd_cnn", "fd_cnn_floor", "fd_cnn_se", "coverage", "coverage_reals"} <= metrics.keys()


def test_a_folder_is_compared_with_a_version_and_the_gate_has_a_word(place):
    done = evaluate("--data", place / "packed", "--compare", "bars@1", place / "run",
                    "--data-dir", place, "--num-samples", 80)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fd_cnn" in done.stdout
    assert "+0.0000" in done.stdout
    assert "would not replace bars@1: fd_cnn" in " ".join(done.stdout.split())


def test_a_run_is_measured_over_time_and_its_report_gets_the_curves(place):
    done = evaluate("--data", place / "packed", "--run", place / "run", "--num-samples", 80,
                    "--data-dir", place)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(x) for x in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(list((place / "run" / "snapshots").iterdir())) >= 20
    assert all(row["elapsed_sec"] > 0 and row["num_samples"] == 80 for row in rows)
    with Image.open(place / "run" / "plots" / "fd_cnn_by_seconds.png") as picture:
        assert picture.width > 100


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "give one of --model NAME, --compare A B and --run FOLDER"),
        (["--model", "bars", "--run", "x"], "give one of --model NAME"),
        (["--run", "x", "--closest", "x.png"], "--closest and --inception go with --model"),
        (["--run", "nowhere"], "nowhere holds no run; give the --run-dir of a training"),
        (["--model", "parts"], "'parts'"),
        (["--model", "bars", "--inception", "no.safetensors"], "no.safetensors"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(place, args, told):
    done = evaluate("--data", place / "packed", "--data-dir", place, *args)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert done.stdout == ""


def test_a_run_without_snapshots_says_how_to_keep_them(place, tmp_path):
    (tmp_path / "run.json").write_text((place / "run" / "run.json").read_text())
    done = evaluate("--data", place / "packed", "--run", tmp_path, "--data-dir", place)
    assert done.returncode == 2
    assert "holds no snapshots; train it with --keep-snapshots" in done.stderr


A = {"num_samples": 9, "evaluator": "e", "fd_cnn": 3.0, "fd_cnn_se": 0.3, "fd_cnn_floor": 1.0,
     "coverage": 0.5, "coverage_se": 0.03, "coverage_reals": 0.9, "cas": 0.7}  # fmt: skip
B = {**A, "fd_cnn": 1.0, "fd_cnn_se": 0.4, "cas": 0.9, "cas_se": 0.1}


def test_only_numbers_with_an_error_in_both_reports_are_compared():
    assert shared_numbers(A, B) == ["fd_cnn", "coverage"]
    assert difference(A, B, "fd_cnn") == (-2.0, pytest.approx(0.5))
    assert comparison_table(A, B, ("a", "b")).columns[-1]._cells == ["*", ""]
