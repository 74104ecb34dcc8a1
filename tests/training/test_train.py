"""The train command as people run it: trains, resumes, stops, refuses."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.averages import MAX_SNAPSHOTS
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.model.checkpoint import load_generator
from training.model.registry import Registry
from training.progress import Reporter

FAST = ("--preset", "tiny", "--set", "precision=fp32", "--threads", "1")


def blobs(n: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of a bright square whose place tells the class, as uint8 (n, 28, 28)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (n, 28, 28), np.uint8)
    labels = np.arange(n) % classes
    for image, label in zip(images, labels, strict=True):
        image[4 + 8 * label : 10 + 8 * label, 6:22] = 220
    return images, labels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    images, labels = blobs(300)
    np.savez(folder / "blobs.npz", images=images, labels=labels)
    import_dataset(folder / "blobs.npz", folder / "packed", ImportOptions("blobs"))
    return folder / "packed"


def train(*args, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "training.train", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def weights_hash(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "generator.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory) -> Path:
    """A run of 2 kimg that was never disturbed, registered as `blobs`."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    data_dir = run_dir.parent / "data"
    done = train("--data", dataset, "--run-dir", run_dir, "--kimg", 2, *FAST,
                 "--model", "blobs", "--data-dir", data_dir)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run_dir


def test_a_run_leaves_weights_grids_statistics_and_a_measured_version(finished):
    registry = Registry(finished.parent / "data" / "models")
    assert registry.aliases("blobs") == {"champion": 1}
    manifest, metrics = registry.manifest("blobs", 1), registry.metrics("blobs", 1)
    assert manifest["lineage"]["dataset"] == "blobs"
    assert manifest["class_names"] == ["0", "1", "2"]
    assert metrics["fd_cnn"] >= 0
    assert metrics["fd_cnn_floor"] >= 0
    load_generator(registry.path("blobs", 1))
    load_generator(finished)
    stats = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert stats[-1]["cur_nimg"] == stats[-1]["total_nimg"] == 2000
    assert len(list((finished / "samples").glob("*.png"))) >= 20
    assert json.loads((finished / "progress.json").read_text())["phase"] == "done"


def test_a_stopped_and_resumed_run_ends_with_the_same_weights(dataset, finished, tmp_path):
    command = [sys.executable, "-m", "training.train", "--data", dataset, "--run-dir", tmp_path,
               "--kimg", 2, *FAST]  # fmt: skip
    for _ in range(2):
        with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "training" in line and "%" in line:
                    process.send_signal(signal.SIGTERM)
                    break
            rest = process.stderr.read()
        assert process.returncode == 75, rest
        assert "run the same command again" in rest
    done = train(*command[3:])
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    assert weights_hash(tmp_path) == weights_hash(finished)


def test_a_trainer_ends_when_its_parent_is_gone(dataset, tmp_path):
    command = ["--data", dataset, "--run-dir", tmp_path, "--kimg", 1000, *FAST]
    done = train(*command, "--exit-with-stdin", stdin=subprocess.DEVNULL)
    assert done.returncode == 75


def test_a_second_trainer_in_a_run_folder_is_refused(dataset, tmp_path):
    from training.model.files import locked

    with locked(tmp_path / "lock"):
        done = train("--data", dataset, "--run-dir", tmp_path, "--kimg", 1, *FAST)
    assert done.returncode == 73
    assert done.stderr.startswith("Error: another process is training")


def test_other_settings_on_resume_are_refused_with_the_difference(dataset, finished):
    done = train("--data", dataset, "--run-dir", finished, "--kimg", 2, *FAST, "--set", "gamma=2")
    assert done.returncode == 2
    assert "config.gamma was 0.05, is now 2" in done.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--kimg", "1", "--preset", "nope"], "preset 'nope' does not exist"),
        (["--kimg", "1", "--preset", "cpu32"], "use 'cpu28'"),
        (["--kimg", "1", "--minutes", "1"], "either --minutes or --kimg"),
        (["--kimg", "nan"], "expected a number above 0"),
        (["--kimg", "1", "--until", "fd=-1"], "expected fd=X"),
        (["--kimg", "1", "--promote", "maybe"], "expected if_better, never or always"),
        (["--kimg", "1", "--rule", "fd=2"], "rule 'fd' does not exist; rules: fd_errors,"),
        (["--kimg", "1", "--model", "../x"], "model name '../x' is not allowed"),
        (["--kimg", "1", "--set", "batch_size=4096"], "has 271 images to train on"),
        (["--kimg", "1", "--device", "abacus"], "'abacus' is not available"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(dataset, tmp_path, args, told):
    done = train("--data", dataset, "--run-dir", tmp_path / "run", *args)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.with_suffix(".zip").write_bytes(b"no zip"), ".zip"),
        (lambda path: np.savez(path, images=np.array([{}, {}], object)), "object"),
        (lambda path: np.savez(path, images=np.zeros((4, 28), np.uint8)), "(4, 28)"),
        (lambda path: np.savez(path, images=np.full((4, 28, 28), np.nan)), "NaN"),
    ],
    ids=["no zip", "objects", "flat", "nan"],
)
def test_images_that_are_none_get_one_line_and_leave_nothing(tmp_path, make, told):
    make(tmp_path / "images")
    (source,) = tmp_path.iterdir()
    done = train("--data", source, "--run-dir", tmp_path / "run", "--kimg", 1)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_article_preset_trains_from_an_npy_of_28_28_3(tmp_path):
    images = np.repeat(blobs(200)[0][..., None], 3, axis=3)
    np.save(tmp_path / "real_images.npy", images / np.float32(127.5) - 1)
    done = train("--data", tmp_path / "real_images.npy", "--run-dir", tmp_path / "run",
                 "--preset", "article", "--kimg", 1, "--threads", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, network = load_generator(tmp_path / "run")
    assert (network.z_dim, network.img_resolution, network.img_channels) == (100, 28, 3)
    assert network.num_classes == 0


def test_the_vae_baseline_goes_through_the_same_command_and_metrics(dataset, tmp_path):
    done = train("--data", dataset, "--run-dir", tmp_path, "--kimg", 0.2, *FAST,
                 "--set", "objective=vae")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["fd_cnn"] > 0
    stats = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert {"loss", "reconstruction", "kl"} <= stats[-1].keys()


def test_the_best_of_several_averages_is_kept(dataset, tmp_path):
    done = train("--data", dataset, "--run-dir", tmp_path, "--kimg", 0.5, *FAST,
                 "--set", "ema_fractions=0.01,0.2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "averages.json").read_text())
    assert [f["ema_fraction"] for f in found] == [0.01, 0.2]
    best = min(range(2), key=lambda i: found[i]["fd_cnn"])
    kept = (tmp_path / "generator.safetensors").read_bytes()
    assert kept == (tmp_path / "averages" / f"{best}.safetensors").read_bytes()
    lineage = json.loads((tmp_path / "manifest.json").read_text())["lineage"]
    assert lineage["average"] == found[best]


def test_a_run_that_kept_its_snapshots_chooses_among_them_too(dataset, tmp_path):
    done = train("--data", dataset, "--run-dir", tmp_path, "--kimg", 0.5, *FAST,
                 "--keep-snapshots")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "averages.json").read_text())
    snapshots = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    first, *looked_at = [f["path"] for f in found]
    assert first == "0.safetensors"
    assert len(looked_at) == MAX_SNAPSHOTS
    before = [name for name in snapshots if int(name[:12]) < found[0]["cur_nimg"]]
    assert (looked_at[0], looked_at[-1]) == (before[0], before[-1])
    (best,) = [f for f in found if f["chosen"]]
    assert best["fd_cnn"] == min(f["fd_cnn"] for f in found)
    folder = "averages" if best["path"] == "0.safetensors" else "snapshots"
    kept = (tmp_path / "generator.safetensors").read_bytes()
    assert kept == (tmp_path / folder / best["path"]).read_bytes()
    lineage = json.loads((tmp_path / "manifest.json").read_text())["lineage"]
    assert lineage["cur_nimg"] == best["cur_nimg"]
    ticks = map(json.loads, (tmp_path / "stats.jsonl").read_text().splitlines())
    assert lineage["train_sec"] in [
        tick["elapsed_sec"] for tick in ticks if tick["cur_nimg"] == best["cur_nimg"]
    ]


def test_a_run_can_be_looked_at(finished):
    assert (finished / "report.html").is_file()
    assert (finished / "samples.webp").is_file()
    assert list((finished / "plots").glob("*.png"))


def test_statistics_of_a_resumed_run_are_appended_and_those_taken_back_are_dropped(tmp_path):
    reporter = Reporter(tmp_path)
    for nimg in (100, 200, 300):
        reporter.tick(nimg, 400, 1.0, 10.0, {"loss_D": 1.0})
    with (tmp_path / "stats.jsonl").open("a") as f:
        f.write('{"cur_nimg": 40')  # torn by a kill
    Reporter(tmp_path).resume(200, 1.0)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["cur_nimg"] for line in lines] == [100, 200]
    assert "resuming at 0.2 kimg" in (tmp_path / "events.jsonl").read_text()


def test_tensorboard_writes_events_or_says_what_is_missing(dataset, tmp_path):
    done = train("--data", dataset, "--run-dir", tmp_path / "run", "--kimg", 0.1, *FAST,
                 "--tensorboard")  # fmt: skip
    if done.returncode == 2:
        assert done.stderr.splitlines()[-1].endswith("pip install 'noisewell[tensorboard]'")
        assert not (tmp_path / "run").exists()
    else:
        assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_run_that_reaches_its_target_stops_early(dataset, tmp_path):
    done = train("--data", dataset, "--run-dir", tmp_path, "--kimg", 2, *FAST, "--until", "fd=1e6")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "state.json").read_text())["cur_nimg"] < 2000


FULL_DISK = """
import errno, sys
from training import state
from training.train import cli

write, calls = state.write_atomic, []

def full(path, data):
    calls.append(path)
    if len(calls) > 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    write(path, data)

state.write_atomic = full
cli(sys.argv[1:])
"""


def test_a_full_disk_ends_a_run_with_its_last_state_and_the_bytes_it_needs(dataset, tmp_path):
    command = ["--data", dataset, "--run-dir", tmp_path, "--kimg", 0.064, *FAST, "--save-sec", 0]
    run = [sys.executable, "-c", FULL_DISK, *map(str, command)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.returncode == 74
    assert re.search(r"No space left on device, [0-9,]+ bytes are needed", done.stderr)
    state = json.loads((tmp_path / "state.json").read_text())
    assert (tmp_path / state["file"]).is_file()
    again = train(*command)
    assert again.returncode == 0, again.stderr
