import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from app import png
from app.cli import cli
from training.model.registry import Registry


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Verbs log to a stderr that ends with the test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def run(*args: object, **env: str) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], env=env)


def refused(result: Result) -> str:
    """The one line of an error a person can mend."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    return result.stderr


# serve


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.com", ""])
def test_serving_beyond_this_machine_wants_a_key(tmp_path: Path, host: str) -> None:
    told = refused(run("serve", "--host", host, "--data-dir", tmp_path / "data"))
    assert "without a key" in told
    assert f"noisewell keys create --scope admin --data-dir {tmp_path / 'data'}" in told
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_key_is_no_key(tmp_path: Path, key: str) -> None:
    result = run("serve", "--host", "0.0.0.0", "--data-dir", tmp_path, NOISEWELL_API_KEY=key)
    assert "without a key" in refused(result)


def test_a_key_that_can_be_guessed_is_none_beyond_this_machine(tmp_path: Path) -> None:
    key = {"NOISEWELL_API_KEY": "hunter2"}
    told = refused(run("serve", "--host", "0.0.0.0", "--data-dir", tmp_path / "data", **key))
    assert "fewer than 16 characters" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("args", "env", "told"),
    [
        (("--port", 70000), {}, "port is 70000"),
        (("--device", "tpu"), {}, "device is 'tpu'"),
        ((), {"NOISEWELL_MAX_BATCH_SIZE": "0"}, "max_batch_size is '0'"),
        ((), {"NOISEWELL_MAX_QUEUE_WAIT_MS": "soon"}, "max_queue_wait_ms is 'soon'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, args, env, told: str) -> None:
    assert told in refused(run("serve", "--data-dir", tmp_path, *args, **env))


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac may have the device")
def test_a_device_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    told = run_for_real("serve", "--data-dir", tmp_path, "--device", "mps", "--port", 0)
    assert "device 'mps' is not available" in told


def test_a_second_service_on_the_same_data_is_refused_in_one_line(tmp_path: Path, start) -> None:
    with start():
        told = run_for_real("serve", "--data-dir", tmp_path / "data", "--port", 0)
    assert (
        f"another service, {socket.gethostname()}:{os.getpid()} at http://127.0.0.1:8000, uses"
        in told
    )


def run_for_real(*args: object) -> str:
    """Like `refused`, in a process of its own, which may have logged before."""
    command = [sys.executable, "-m", "app.cli", *(str(arg) for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    (told,) = (line for line in done.stderr.splitlines() if not line.startswith("{"))
    assert told.startswith("Error: ")
    return told


# sample


@pytest.fixture
def data_dir(registry: Registry, make_version: Callable[..., int]) -> Path:
    """Where toy 1 (champion), 2 and 3 are."""
    for weights in range(3):
        make_version(registry, weights=weights)
    return registry.root.parent


def sample(data_dir: Path, *args: object, seeds: str = "7", **env: str) -> Result:
    options = ("--data-dir", data_dir, "--out", data_dir / "out", "--seeds", seeds)
    env = {"NOISEWELL_SERVING_THREADS": "1", **env}  # as the service of `start`
    return run("sample", "--model", "toy", *options, *args, **env)


def test_samples_are_the_bytes_that_the_service_answers(data_dir: Path, start) -> None:
    result = sample(data_dir, "--class", "cat", "--truncation", 0.5, seeds="0-99")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"100 images of toy@1 in {data_dir / 'out'}\n"
    with start() as service:
        for seed in (0, 7, 63, 64, 99):
            query = {"class": "cat", "truncation": 0.5}
            answer = service.get(f"/v1/models/toy/images/{seed}.png", params=query)
            assert (data_dir / "out" / f"seed-{seed}.png").read_bytes() == answer.content


def test_a_zip_of_samples_holds_what_the_folder_holds(data_dir: Path) -> None:
    told = sample(data_dir, "--out", data_dir / "new" / "all.ZIP", seeds="0-99").stdout
    assert told == f"100 images of toy@1 in {data_dir / 'new' / 'all.ZIP'}\n"
    sample(data_dir, seeds="0-99")
    with zipfile.ZipFile(data_dir / "new" / "all.ZIP") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [*(f"seed-{i}.png" for i in range(100)), "manifest.csv"]
        for name in archive.namelist():
            assert archive.read(name) == (data_dir / "out" / name).read_bytes()
    assert len(list((data_dir / "out").iterdir())) == 101


def test_the_same_samples_are_the_same_zip(data_dir: Path) -> None:
    for name in ("one.zip", "two.zip"):
        sample(data_dir, "--out", data_dir / name, seeds="0-99")
    assert (data_dir / "one.zip").read_bytes() == (data_dir / "two.zip").read_bytes()


def test_a_grid_shows_all_samples(data_dir: Path) -> None:
    grid = data_dir / "new" / "grid.png"
    assert sample(data_dir, "--grid", grid, seeds="0-4").exit_code == 0
    with Image.open(grid) as shown, Image.open(data_dir / "out" / "seed-4.png") as last:
        assert shown.size == (24, 16)
        assert np.array_equal(np.asarray(shown)[8:16, 8:16], np.asarray(last))


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_a_grid_of_too_many_pixels_is_refused_before_anything_is_made(
    data_dir: Path, out: str
) -> None:
    args = ("--out", data_dir / out, "--grid", data_dir / "grid.png")
    told = refused(sample(data_dir, *args, seeds="0-4", NOISEWELL_MAX_PIXELS_PER_REQUEST="319"))
    assert "5 images of 8×8 is 320 pixels; max_pixels_per_request allows 319" in told
    assert not list(data_dir.glob("*.*"))
    assert not (data_dir / "out").exists()


def test_a_folder_is_not_replaced_by_a_zip(data_dir: Path) -> None:
    (data_dir / "all.zip").mkdir()
    told = refused(sample(data_dir, "--out", data_dir / "all.zip"))
    assert "all.zip is a folder; expected the name of a file" in told


def test_ctrl_c_ends_sampling_in_one_line_and_leaves_whole_files(data_dir: Path) -> None:
    out = data_dir / "out"
    options = ("--model", "toy", "--seeds", "0-999999", "--data-dir", data_dir, "--out", out)
    command = [sys.executable, "-m", "app.cli", "sample", *(str(option) for option in options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (out / "seed-200.png").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"Stopped after \d+ of 1000000 images", told.splitlines()[-1])
    files = list(out.iterdir())
    assert len(files) > 200
    for file in files:
        assert re.fullmatch(r"seed-\d+\.png", file.name)
        assert file.read_bytes().endswith(b"IEND\xaeB`\x82")


def test_a_version_by_number_is_sampled(data_dir: Path) -> None:
    result = sample(data_dir, "--model", "toy@3")
    assert "1 images of toy@3" in result.stdout
    with Image.open(io.BytesIO((data_dir / "out" / "seed-7.png").read_bytes())) as image:
        image.load()
        assert json.loads(image.info["noisewell"])["version"] == 3


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--model", "cat"), "Model 'cat' is not registered; registered: toy."),
        (("--model", "toy@9"), "Model version 9 of 'toy' is not registered; registered: 1, 2, 3."),
        (("--model", "toy@x"), "expected a number or 'champion'"),
        (("--model", "../toy"), "is not registered"),
        (("--class", "bird"), "class 'bird' of toy@1 does not exist"),
        (("--truncation", "0"), "--truncation 0; expected above 0 and at most 1"),
        (("--truncation", "nan"), "--truncation nan"),
        (("--seeds", "3-1"), "--seeds '3-1'"),
        (("--seeds", "-1"), "--seeds '-1'"),
        (("--seeds", "x"), "--seeds 'x'"),
        (("--seeds", str(2**53)), "below 2^53"),
        (("--device", "tpu"), "device 'tpu' is not available"),
    ],
)
def test_what_cannot_be_sampled_is_named(data_dir: Path, args, told: str) -> None:
    assert told in refused(sample(data_dir, *args))
    assert not (data_dir / "out").exists()


# verify


def verify(data_dir: Path, image: Path, *args: object, **env: str) -> Result:
    env = {"NOISEWELL_SERVING_THREADS": "1", **env}
    return run("verify", image, "--data-dir", data_dir, *args, **env)


@pytest.fixture
def image(data_dir: Path) -> Path:
    """Seed 7 of the second toy."""
    assert sample(data_dir, "--model", "toy@2").exit_code == 0
    return data_dir / "out" / "seed-7.png"


def test_a_sample_matches_and_ends_with_0(data_dir: Path, image: Path) -> None:
    result = verify(data_dir, image)
    assert result.exit_code == 0, result.output
    assert result.stdout == "match: every pixel is what toy@2 makes of seed 7\n"


def test_an_image_that_the_service_made_matches(data_dir: Path, image: Path, start) -> None:
    with start() as service:
        image.write_bytes(service.get("/v1/models/toy/images/9.png?class=cat").content)
    assert verify(data_dir, image).stdout == "match: every pixel is what toy@1 makes of seed 9\n"


def test_an_image_that_was_altered_ends_with_1(data_dir: Path, image: Path) -> None:
    pixels, metadata = png.read(image.read_bytes(), max_bytes=10_000, max_pixels=64)
    pixels = pixels.copy()
    pixels[2, 5] ^= 255
    image.write_bytes(png.encode_png(pixels, metadata))
    result = verify(data_dir, image)
    assert result.exit_code == 1
    assert result.stdout.startswith("differs: 1 of 64 pixels are not what toy@2 makes of seed 7")
    assert f"x 5, y 2, is {pixels[2, 5].tolist()}" in result.stdout

    result = verify(data_dir, image, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert (said["match"], said["verdict"], said["class"]) == (False, "differs", metadata["class"])
    assert (said["first_difference"]["x"], said["first_difference"]["y"]) == (5, 2)


def test_what_cannot_be_verified_ends_with_2(
    data_dir: Path, image: Path, registry: Registry
) -> None:
    assert "No such file" in refused(verify(data_dir, data_dir / "none.png"))
    assert "Is a directory" in refused(verify(data_dir, data_dir))
    assert "is not available" in refused(verify(data_dir, image, "--device", "tpu"))
    told = refused(verify(data_dir, image, NOISEWELL_MAX_VERIFY_BYTES="100"))
    assert "over the 100 bytes that max_verify_bytes allows" in told
    told = refused(verify(data_dir, image, NOISEWELL_MAX_VERIFY_PIXELS="63"))
    assert "max_verify_pixels allows 63" in told
    (data_dir / "text.png").write_text("text")
    assert "is not a PNG" in refused(verify(data_dir, data_dir / "text.png"))
    shutil.rmtree(registry.path("toy", 2))
    told = refused(verify(data_dir, image))
    assert "Model version 2 of 'toy' is not registered; registered: 1, 3." in told


# models


def doctor(data_dir: Path) -> Result:
    return run("doctor", "--json", "--data-dir", data_dir, NOISEWELL_SERVING_THREADS="1")


def test_the_doctor_names_the_certificate_that_the_service_answers_under(
    data_dir: Path, start
) -> None:
    result = doctor(data_dir)
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)["serving"]
    with start() as service:
        certificate = service.get("/v1/models/toy").json()["certificate"]
    assert told == {"serves": "toy@1", **certificate}


def test_the_doctor_tells_a_champion_that_cannot_be_loaded(
    data_dir: Path, registry: Registry
) -> None:
    (registry.path("toy", 1) / "generator.safetensors").write_bytes(b"")
    result = doctor(data_dir)
    assert (result.exit_code, json.loads(result.stdout)["refused"]) == (1, ["toy@1"])
    assert "toy@1 is the champion and cannot be loaded" in result.stderr


def test_models_are_listed_for_programs_and_for_people(data_dir: Path) -> None:
    rows = json.loads(run("models", "list", "--json", "--data-dir", data_dir).stdout)
    assert [(row["model"], row["version"], row["champion"]) for row in rows] == [
        ("toy", 1, True),
        ("toy", 2, False),
        ("toy", 3, False),
    ]
    assert rows[0]["fd_cnn"] == 1.5
    shown = run("models", "list", "--data-dir", data_dir).stdout
    assert "toy" in shown
    assert "champion" in shown


def test_a_damaged_version_is_listed_among_the_others_and_not_promoted(
    data_dir: Path, registry: Registry
) -> None:
    (registry.path("toy", 2) / "manifest.json").write_bytes(b"{")
    rows = json.loads(run("models", "list", "--json", "--data-dir", data_dir).stdout)
    assert [row["damage"] is None for row in rows] == [True, False, True]
    assert "damaged" in run("models", "list", "--data-dir", data_dir).stdout
    told = refused(run("models", "promote", "toy@2", "--data-dir", data_dir))
    assert "toy@2 cannot be promoted" in told
    assert registry.champion("toy") == 1


def test_a_version_is_deleted_by_its_number_alone(data_dir: Path, registry: Registry) -> None:
    result = run("models", "delete", "toy@2", "--data-dir", data_dir)
    assert (result.exit_code, result.stdout) == (0, "toy@2 is deleted\n")
    assert registry.versions("toy") == [1, 3]
    for ref, told in (
        ("toy", "names no version"),
        ("toy@1", "is its champion and stays"),
        ("toy@2", "is not registered"),
    ):
        assert told in refused(run("models", "delete", ref, "--data-dir", data_dir))


def test_a_place_without_models_lists_none(tmp_path: Path) -> None:
    assert json.loads(run("models", "list", "--json", "--data-dir", tmp_path).stdout) == []


def test_a_model_is_shown_by_its_card_or_as_json(data_dir: Path) -> None:
    assert run("models", "show", "toy", "--data-dir", data_dir).stdout == "# A toy\n\n"
    shown = json.loads(run("models", "show", "toy@2", "--json", "--data-dir", data_dir).stdout)
    assert (shown["version"], shown["metrics"]) == (2, {"fd_cnn": 1.5})


def test_promotion_and_rollback_move_the_champion(data_dir: Path, registry: Registry) -> None:
    result = run("models", "promote", "toy@3", "--data-dir", data_dir)
    assert (result.exit_code, result.stdout) == (0, "toy@3 is the champion\n")
    assert registry.champion("toy") == 3
    result = run("models", "rollback", "toy", "--data-dir", data_dir)
    assert (result.exit_code, result.stdout) == (0, "toy@1 is the champion again\n")
    assert registry.champion("toy") == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("show", "cat"), "Model 'cat' is not registered"),
        (("show", "toy@9"), "version 9 of 'toy' is not registered"),
        (("promote", "toy@9"), "version 9 of 'toy' is not registered"),
        (("promote", "toy@x"), "of 'toy' is not registered"),
        (("promote", "../toy@1"), "is not registered"),
        (("rollback", "cat"), "Model 'cat' is not registered"),
        (("rollback", "toy"), "no previous version"),
    ],
)
def test_what_is_not_there_is_named(data_dir: Path, registry: Registry, args, told: str) -> None:
    assert told in refused(run("models", *args, "--data-dir", data_dir))
    assert registry.aliases("toy") == {"champion": 1}


# Verbs that run a process of training


def test_a_verb_of_training_ends_as_its_process_ended(tmp_path: Path) -> None:
    assert run("data", "inspect", tmp_path / "missing.zip").exit_code == 2


def test_every_verb_has_help() -> None:
    for verb in ("serve", "worker", "sample", "models", "data"):
        result = run(verb, "--help")
        assert (result.exit_code, "Usage" in result.stdout) == (0, True)
