import json

import numpy as np
import pytest

from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.verdicts import first_of_each, read_verdicts


@pytest.fixture
def packed(make_zip, noise, tmp_path):
    """a: good, a copy of it, a larger one, no image; b: good, the copy once more."""
    entries = {
        "a/1.png": noise(1),
        "a/2.png": noise(1),
        "a/3.png": noise(2, side=40),
        "a/4.png": b"no image",
        "b/1.png": noise(3),
        "b/2.png": noise(1),
    }
    options = ImportOptions("x", resolution=28, channels=1)
    return import_dataset(make_zip(entries), tmp_path / "packed", options), tmp_path / "packed"


def test_every_file_has_a_line_in_the_order_of_the_source(packed):
    _, folder = packed
    lines = list(read_verdicts(folder))
    assert [v["file"] for v in lines] == [
        "a/1.png", "a/2.png", "a/3.png", "a/4.png", "b/1.png", "b/2.png",
    ]  # fmt: skip
    assert [v["verdict"] for v in lines] == ["accept", "accept", "convert", "reject"] + 2 * [
        "accept"
    ]
    assert lines[2]["conversions"] == ["resized"]
    assert "not a readable image" in lines[3]["reason"]
    assert [v["class"] for v in lines] == ["a"] * 4 + ["b"] * 2


def test_the_index_of_a_verdict_is_the_image_in_the_dataset(packed):
    dataset, folder = packed
    indices = [v.get("index") for v in read_verdicts(folder)]
    assert indices == [0, 1, 2, None, 3, 4]
    assert len(dataset.images) == 5


def test_copies_stay_and_say_which_image_came_first(packed):
    dataset, folder = packed
    copies = {v["file"]: v["duplicate_of"] for v in read_verdicts(folder) if "duplicate_of" in v}
    assert copies == {"a/2.png": 0, "b/2.png": 0}
    assert dataset.manifest["duplicates"] == 2
    assert not (folder / "verdicts.marked").exists()


def test_names_that_hold_line_ends_take_one_line_all_the_same(noise, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for i, name in enumerate(("a\nb.png", 'q"uote.png', "plain.png")):
        (source / name).write_bytes(noise(i))
    import_dataset(source, tmp_path / "packed", ImportOptions("x"))
    text = (tmp_path / "packed" / "verdicts.jsonl").read_text()
    assert len([json.loads(line) for line in text.splitlines()]) == 3


def test_the_first_of_equal_digests_is_their_first():
    digests = np.array([7, 3, 7, 9, 3, 7], np.uint64)
    assert first_of_each(digests).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_of_each(np.array([], np.uint64)).tolist() == []
