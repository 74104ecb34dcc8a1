import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "training.data"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_import_prints_its_manifest_as_one_line_of_json(make_zip, two_classes, tmp_path):
    path = make_zip(two_classes)
    done = run("import", path, "--out", tmp_path / "out", "--name", "x", "--json")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == json.loads((tmp_path / "out/manifest.json").read_text())
    assert 1 <= done.stderr.count("\n") <= 10


def test_progress_comes_as_lines_of_json_and_the_manifest_is_the_last(
    make_zip, two_classes, tmp_path
):
    path = make_zip(two_classes | {"a/notes.txt": b"x"})
    done = run("import", path, "--out", tmp_path / "out", "--name", "x", "--json-progress")
    *steps, manifest = map(json.loads, done.stdout.splitlines())
    assert steps
    assert all(step.keys() == {"done", "total", "accepted", "rejected"} for step in steps)
    assert steps[-1] == {"done": steps[-1]["total"]} | steps[-1]
    assert (steps[-1]["accepted"], steps[-1]["rejected"]) == (10, 1)
    assert manifest == json.loads((tmp_path / "out/manifest.json").read_text())
    assert done.stderr == ""


def test_transparent_pixels_lie_on_the_colour_that_is_asked_for(make_zip, encode, tmp_path):
    clear = encode(Image.new("RGBA", (8, 8), (1, 2, 3, 0)))
    path = make_zip({"1.png": clear, "2.png": clear})
    args = ("--resolution", "8", "--background", "#102030")
    assert run("import", path, "--out", tmp_path / "out", "--name", "x", *args).returncode == 0
    images = np.load(tmp_path / "out/images.npy", allow_pickle=False)
    assert np.unique(images.reshape(-1, 3), axis=0).tolist() == [[0x10, 0x20, 0x30]]


def test_the_licence_of_the_images_is_kept(make_zip, two_classes, tmp_path):
    args = ("--out", tmp_path / "out", "--name", "x", "--licence", "CC BY 4.0", "--json")
    manifest = json.loads(run("import", make_zip(two_classes), *args).stdout)
    assert manifest["licence"] == "CC BY 4.0"


def test_bad_input_is_one_line_and_exit_code_2(make_zip, tmp_path):
    done = run("import", make_zip({}), "--out", tmp_path / "out", "--name", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Zip 'images.zip' is empty")
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["images.zip"]


def test_inspect_tells_what_an_import_would_do_and_writes_nothing(make_zip, two_classes, tmp_path):
    path = make_zip(two_classes | {"a/notes.txt": b"x"})
    facts = json.loads(run("inspect", path, "--json").stdout)
    assert facts["counts"] == {"a": 5, "b": 5}
    assert (facts["resolution"], facts["channels"]) == (28, 1)
    assert [r["file"] for r in facts["rejections"]] == ["a/notes.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["images.zip"]
    assert "2 classes: a (5), b (5)" in run("inspect", path).stdout


def test_inspect_shows_a_packed_dataset(make_zip, two_classes, tmp_path):
    made = run("import", make_zip(two_classes), "--out", tmp_path / "out", "--name", "letters")
    shown = run("inspect", tmp_path / "out")
    assert "letters: 10 images of 28×28×1" in shown.stdout
    assert made.stdout == shown.stdout


@pytest.mark.parametrize("how", ["terminate", "end of input"])
def test_a_stopped_import_leaves_nothing_behind(make_zip, noise, tmp_path: Path, how):
    path = make_zip({f"{i}.png": noise(i % 10) for i in range(10_000)})
    arguments = ["import", path, "--out", tmp_path / "sets/out", "--name", "x", "--exit-with-stdin"]
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert child.stdin is not None
        assert "10 %" in child.stderr.readline()
        if how == "terminate":
            child.terminate()
        else:
            child.stdin.close()
        assert child.wait(timeout=30) == 143
    assert list((tmp_path / "sets").iterdir()) == []


def test_labels_and_a_choice_of_images_can_be_asked_for(make_zip, noise, tmp_path):
    rows = "".join(f"{i}.png,{['cat', 'dog', 'eel'][i % 3]}\n" for i in range(30))
    (tmp_path / "rows.csv").write_text(f"file,class\n{rows}")
    path = make_zip({f"{i}.png": noise(i) for i in range(30)})
    args = ("--labels", tmp_path / "rows.csv", "--classes", "eel, cat", "--max-per-class", "4")
    done = run("import", path, "--out", tmp_path / "out", "--name", "x", *args, "--json")
    manifest = json.loads(done.stdout)
    assert manifest["class_names"] == ["cat", "eel"]
    assert manifest["counts"] == {"cat": 4, "eel": 4}
    assert manifest["rejected"] == 0


def test_the_ratio_of_a_zip_is_a_setting(make_zip, noise, tmp_path):
    files = {f"{i}.png": noise(i) for i in range(9)} | {"zeros.png": bytes(5_000_000)}
    path = make_zip(files, compression=8)
    args = ("--out", tmp_path / "out", "--name", "x")
    assert "max_zip_ratio allows 100" in run("import", path, *args).stderr
    done = run("import", path, *args, "--max-zip-ratio", "2000")
    assert "zeros.png is not a readable image" in done.stdout
