"""Labels in a CSV or JSON lines: found, matched, and each mistake named with its line."""

import json
from pathlib import Path

import pytest

from training.data.dataset import DataError
from training.data.decode import RejectedError
from training.data.sources import Source, open_source

FILES = ("1.png", "2.png", "sub/3.png")


def opened(path: Path, **options) -> Source:
    bounds = {"max_files": 100, "max_bytes": 10**6, "scratch": path.parent}
    with open_source(path, **bounds, **options) as source:
        return source


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "images"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"pixels")
    return root


def labels_of(source: Source) -> dict[str, str | None]:
    names = source.class_names
    return {i.file: None if i.label is None else names[i.label] for i in source.items}


CAT_CAT_DOG = dict(zip(FILES, ("cat", "cat", "dog"), strict=True))
ROWS = [{"file": file, "class": name} for file, name in CAT_CAT_DOG.items()]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,class\n1.png,cat\n2.png,cat\nsub/3.png,dog\n"),
        (
            "labels.csv",
            "\ufefffile_name;width;label\r\n1.png;9;cat\r\n2.png;9;cat\r\nsub/3.png;9;dog",
        ),
        ("labels.csv", "Label\tFilename\ncat\t./1.png\ncat\t2.png\n\ndog\tsub\\3.png\n"),
        ("metadata.csv", 'path,category\n"1.png","cat"\n2.png, cat \nsub//3.png,dog\n'),
        ("labels.jsonl", "\n".join(json.dumps(row) for row in ROWS)),
        (
            "metadata.jsonl",
            "".join(
                json.dumps({"file_name": row["file"], "label": row["class"], "x": [1]}) + "\n\n"
                for row in ROWS
            ),
        ),
    ],
)
def test_a_label_file_at_the_top_gives_the_classes(folder, name, text):
    (folder / name).write_text(text, "utf-8", newline="")
    source = opened(folder)
    assert labels_of(source) == CAT_CAT_DOG
    assert source.class_names == ("cat", "dog")


def test_labels_win_over_folders_and_reach_through_a_wrapping_one(make_zip):
    rows = "file,class\na/1.png,x\nb/2.png,x\nimages/b/3.png,y\n"
    files = {f"images/{name}": b"pixels" for name in ("a/1.png", "b/2.png", "b/3.png")}
    source = opened(make_zip({**files, "images/labels.csv": rows.encode()}))
    assert list(labels_of(source).values()) == ["x", "x", "y"]


def test_a_label_file_can_be_named(folder, tmp_path):
    (folder / "labels.csv").write_text("nothing of use")
    (tmp_path / "mine.csv").write_text("file,class\n1.png,a\n2.png,b\nsub/3.png,a\n")
    assert opened(folder, labels=tmp_path / "mine.csv").class_names == ("a", "b")


def test_classes_that_are_numbers_are_in_the_order_of_numbers(folder):
    rows = zip(FILES, (10, 9, 100), strict=True)
    lines = [json.dumps({"file": file, "label": number}) for file, number in rows]
    (folder / "labels.jsonl").write_text("\n".join(lines))
    assert opened(folder).class_names == ("9", "10", "100")


def test_a_file_that_is_not_listed_is_rejected_by_itself(folder):
    (folder / "labels.csv").write_text("file,class\n1.png,cat\n2.png,dog\n")
    source = opened(folder)
    [third] = [item for item in source.items if item.file == "sub/3.png"]
    with pytest.raises(RejectedError, match=r"is not listed in labels\.csv"):
        source.read(third)


def test_accents_match_in_either_spelling(folder):
    (folder / "e\u0301.png").write_bytes(b"pixels")  # as macOS writes é
    (folder / "labels.csv").write_text("file,class\n\u00e9.png,cat\n", "utf-8")
    assert labels_of(opened(folder))["\u00e9.png"] == "cat"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,class\n1.png,a\n9.png,a\n", r"line 3 names '9\.png', which is not there"),
        ("file,class\n1.png,a\n\n./1.png,b\n", r"line 4 names '1\.png' again, after line 2"),
        ("file,class\n1.png,a\n2.png, \n", r"line 3 has no class for '2\.png'"),
        ("file,class\n1.png\n", r"line 2 has no class for '1\.png'"),
        ("file,class\n,a\n", "line 2 names no file"),
        ("file,class\n../images/1.png,a\n", r"line 2 names '\.\./images/1\.png', which is not"),
        ("file,class\n/etc/passwd,a\n", "line 2 names '/etc/passwd', which is not there"),
        ("1.png,cat\n2.png,dog\n", r"Line 1 of 'labels\.csv' is '1\.png,cat'; expected a header"),
        ("\n", "Line 1 of .* is ''; expected a header such as file,class"),
        ("", r"The label file 'labels\.csv' is empty"),
        ("file,class\n", "lists no files"),
        ("file,class\n1.png,a\x1b[2J\n", "cannot be a class name"),
        ("file,class\n1.png," + "x" * 101, "cannot be a class name"),
        ("file,class\n1.png," + "x" * 200_000, "is not a readable CSV"),
        (
            "file,class\n" + "".join(f"{i}.bmp,a\n" for i in range(9)),
            r"line 6 names '4\.bmp', which is not there; and 4 more\. Correct these lines",
        ),
    ],
)
def test_each_mistake_of_a_csv_is_named_with_its_line(folder, text, said):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        opened(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"file": "1.png"}', "Line 1 of .* has no class; .* take the file away"),
        ('{"file": "1.png", "class": "a"}\nnot json', "Line 2 of .* is not JSON"),
        ('{"file": "1.png", "class": "a"}\n[1]', "Line 2 of .* is not a JSON object"),
        ('{"file": "1.png", "class": null}', r"line 1 has no class for '1\.png'"),
        ('{"file": "1.png", "class": true}', r"line 1 has no class for '1\.png'"),
        ('{"file": "1.png", "class": 1.5}', r"line 1 has no class for '1\.png'"),
        ('{"file": 7, "class": "a"}', "line 1 names no file"),
        ("[" * 100_000, "Line 1 of .* is not JSON"),
    ],
)
def test_each_mistake_of_json_lines_is_named_with_its_line(folder, text, said):
    (folder / "labels.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        opened(folder)


def test_labels_that_are_not_utf_8_are_refused(folder):
    (folder / "labels.csv").write_bytes(b"file,class\n1.png,\xe9\n")
    with pytest.raises(DataError, match=r"'labels\.csv' is not UTF-8 .* save it as UTF-8"):
        opened(folder)


def test_two_label_files_are_refused(folder):
    for name in ("labels.csv", "metadata.jsonl"):
        (folder / name).write_text("")
    with pytest.raises(DataError, match=r"'labels\.csv' and 'metadata\.jsonl'.*option labels"):
        opened(folder)


def test_labels_for_an_array_are_refused(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(3073))
    with pytest.raises(DataError, match="labels is for folders and zips"):
        opened(path, labels=path)


@pytest.mark.parametrize("kind", ["missing", "pipe", "folder"])
def test_a_label_file_that_is_no_file_is_refused(folder, tmp_path, kind):
    import os

    path = tmp_path / "mine.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match=r"mine\.csv"):
        opened(folder, labels=path)
