from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import DataError
from training.data.sources import Source, open_source


def opened(path: Path, **options) -> Source:
    bounds = {"max_files": 1000, "max_bytes": 10**6, "scratch": path.parent}
    with open_source(path, **bounds, **options) as source:
        return source


def files_of(source: Source) -> list[str]:
    return [item.file for item in source.items]


@pytest.fixture
def animals(make_zip) -> Path:
    """30 cats, 20 dogs, 2 eels and a stray file."""
    counts = {"cat": 30, "dog": 20, "eel": 2}
    files = {f"{name}/{i:02d}.png": b"x" for name, n in counts.items() for i in range(n)}
    return make_zip({**files, "readme.txt": b"x"})


def test_only_the_classes_asked_for_are_taken_and_numbered_anew(animals):
    source = opened(animals, classes=("eel", "cat"))
    assert source.class_names == ("cat", "eel")
    labels = {item.file.partition("/")[0]: item.label for item in source.items}
    assert labels == {"cat": 0, "eel": 1, "readme.txt": None}
    assert len(source.items) == 33


def test_what_is_left_out_is_not_what_is_read(animals):
    with open_source(
        animals, max_files=1000, max_bytes=10**6, scratch=animals.parent, classes=["eel"]
    ) as source:
        assert [source.read(item) for item in source.items if item.label == 0] == [b"x", b"x"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "cow"], r"classes names 'cow', .* it has 'cat', 'dog', 'eel'\."),
        ([], "classes is empty; it has 'cat'"),
    ],
)
def test_a_class_that_is_not_there_is_refused_with_those_that_are(animals, classes, said):
    with pytest.raises(DataError, match=said):
        opened(animals, classes=classes)


def test_classes_of_images_that_have_none_are_refused(make_zip):
    with pytest.raises(DataError, match="has no classes"):
        opened(make_zip({"1.png": b"x", "2.png": b"x"}), classes=["cat"])


def test_at_most_so_many_of_each_class_are_taken_and_the_same_each_time(animals):
    few, more = (files_of(opened(animals, max_per_class=n)) for n in (5, 10))
    assert [sum(file.startswith(name) for file in few) for name in ("cat", "dog", "eel")] == [
        5,
        5,
        2,
    ]
    assert few == files_of(opened(animals, max_per_class=5))
    assert set(few) < set(more)
    assert few == sorted(few)


def test_the_choice_goes_by_the_name_whatever_wraps_it_or_is_added(animals, make_zip):
    few = files_of(opened(animals, max_per_class=5))
    names = [
        f"{c}/{i:02d}.png" for c, n in {"cat": 30, "dog": 20, "eel": 2}.items() for i in range(n)
    ]
    wrapped = make_zip({f"zoo/{name}": b"y" for name in names}, name="wrapped.zip")
    chosen = files_of(opened(wrapped, max_per_class=5))
    assert [name.removeprefix("zoo/") for name in chosen] == few[:-1]  # no stray there


def test_the_choice_is_no_run_of_neighbours(animals):
    cats = [f for f in files_of(opened(animals, max_per_class=5)) if f.startswith("cat")]
    assert cats != sorted(f"cat/{i:02d}.png" for i in range(30))[:5]


def test_images_without_classes_are_counted_as_one(make_zip):
    path = make_zip({f"{i}.png": b"x" for i in range(9)})
    assert len(opened(path, max_per_class=4).items) == 4


def test_a_choice_from_an_array_outlives_another_name_of_the_file(tmp_path):
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    chosen = []
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, images=images, labels=labels)
        source = opened(tmp_path / name, max_per_class=3, classes=["1"])
        assert source.class_names == ("1",)
        assert {item.label for item in source.items} == {0}
        chosen.append([item.key for item in source.items])
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 3


def test_none_of_each_class_is_refused(animals):
    with pytest.raises(DataError, match="max_per_class 0 is not allowed; expected 1 or more"):
        opened(animals, max_per_class=0)
