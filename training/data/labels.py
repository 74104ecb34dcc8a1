"""Owns labels that stand in a file beside the images: CSV or JSON lines of file → class."""

import csv
import io
import json
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from training.data.dataset import DataError
from training.data.layout import NO_CLASS, Layout, checked_class_names, common_folder
from training.data.names import normal_name, printable

LABEL_FILES = ("labels.csv", "labels.jsonl", "metadata.csv", "metadata.jsonl")
FILE_FIELDS = ("file", "file_name", "filename", "path", "image")
CLASS_FIELDS = ("class", "label", "class_name", "category")
DELIMITERS = (",", ";", "\t")
MAX_TOLD = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a label file. label: the class as it stands there, None if there is none."""

    line: int
    file: str
    label: Any


def find_label_file(files: Sequence[str]) -> str | None:
    """The label file among sorted `files`: at the top, or in the folder that holds everything.

    Raises DataError if there are several.
    """
    found = label_files(files)
    if len(found) > 1:
        names = " and ".join(repr(printable(name)) for name in found)
        raise DataError(
            f"There are {names} beside the images; remove all but one, or name one with the option"
            " labels."
        )
    return found[0] if found else None


def label_files(files: Sequence[str]) -> list[str]:
    """All that have the name and the place of a label file."""
    top = common_folder(files)
    return [top + name for name in LABEL_FILES if _holds(files, top + name)]


def _holds(files: Sequence[str], name: str) -> bool:
    at = bisect_left(files, name)
    return at < len(files) and files[at] == name


def lay_out_by_rows(name: str, rows: Iterable[Row], files: Sequence[str], top: str) -> Layout:
    """The classes that the label file `name` gives to `files`, which are sorted.

    top: `common_folder` of what was there; rows may name files from there or from the root on.
    Raises DataError naming the first mistakes by their lines.
    """
    mistakes = _Mistakes(name)
    told = _by_file(rows, mistakes)
    names = _in_order(checked_class_names(f"In {name!r}, class", {c for _, c in told.values()}))
    index = {class_name: i for i, class_name in enumerate(names)}
    labels = array("i")
    for file in files:
        row = told.pop(file, None) or told.pop(file.removeprefix(top), None)
        labels.append(NO_CLASS if row is None else index[row[1]])
    for file, (line, _) in told.items():
        mistakes.add(line, f"names '{printable(file)[:200]}', which is not there")
    mistakes.check()
    if not names:
        raise DataError(f"{name!r} lists no files; give each a line with its file and its class.")
    return Layout(names, labels, f"is not listed in {name}")


def _by_file(rows: Iterable[Row], mistakes: "_Mistakes") -> dict[str, tuple[int, str]]:
    """Line and class of each file that a row names."""
    told: dict[str, tuple[int, str]] = {}
    for row in rows:
        file, class_name = normal_name(row.file.strip().replace("\\", "/")), _class_name(row.label)
        if not file:
            mistakes.add(row.line, "names no file")
        elif class_name is None:
            mistakes.add(row.line, f"has no class for '{printable(file)[:200]}'")
        elif file in told:
            mistakes.add(
                row.line, f"names '{printable(file)[:200]}' again, after line {told[file][0]:,}"
            )
        else:
            told[file] = (row.line, class_name)
    return told


def _class_name(label: Any) -> str | None:
    """Text, or a whole number, as the name of a class; None if there is none."""
    if isinstance(label, str):
        return sys.intern(label.strip()) or None
    return str(label) if type(label) is int else None


def _in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """By number if all are numbers, so that class 10 is no neighbour of 1."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return names


class _Mistakes:
    """The first few mistakes of a label file in words, and how many there are."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: list[str] = []
        self._count = 0

    def add(self, line: int, what: str) -> None:
        self._count += 1
        if len(self._told) < MAX_TOLD:
            self._told.append(f"line {line:,} {what}")

    def check(self) -> None:
        """Raise DataError if there are any."""
        if not self._count:
            return
        more = f"; and {self._count - MAX_TOLD:,} more" if self._count > MAX_TOLD else ""
        raise DataError(
            f"{self._name!r} does not fit the images: {'; '.join(self._told)}{more}. Correct these"
            " lines, or leave them out; a file that is not listed is rejected by itself."
        )


# ── reading rows ─────────────────────────────────────────────────────────────────────────────


def read_rows(name: str, data: bytes) -> Iterator[Row]:
    """The rows of a CSV with a header or of JSON lines, by the name; raises DataError."""
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
    try:
        yield from _json_rows(name, text) if _is_json(name) else _csv_rows(name, text)
    except UnicodeDecodeError as e:
        raise DataError(f"{name!r} is not UTF-8 ({e.reason}); save it as UTF-8.") from e
    except csv.Error as e:
        raise DataError(f"{name!r} is not a readable CSV ({e}); save it again.") from e


def _is_json(name: str) -> bool:
    return name.lower().endswith((".jsonl", ".ndjson", ".json"))


def _csv_rows(name: str, text: TextIO) -> Iterator[Row]:
    header = text.readline()
    delimiter = max(DELIMITERS, key=header.count)
    titles = [t.strip().lower() for t in next(csv.reader([header], delimiter=delimiter), [])]
    at_file, at_class = (
        next((titles.index(field) for field in fields if field in titles), None)
        for fields in (FILE_FIELDS, CLASS_FIELDS)
    )
    if at_file is None or at_class is None:
        raise DataError(
            f"Line 1 of {name!r} is '{printable(header.strip())[:200]}'; expected a header such as"
            f" file,class ({_fields()})."
        )
    reader = csv.reader(text, delimiter=delimiter)
    for cells in reader:
        if any(cells):
            file, label = (cells[i] if i < len(cells) else "" for i in (at_file, at_class))
            yield Row(reader.line_num + 1, file, label)


def _json_rows(name: str, text: TextIO) -> Iterator[Row]:
    for line, content in enumerate(text, 1):
        if content.strip():
            yield _json_row(name, line, content)


def _json_row(name: str, line: int, content: str) -> Row:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise DataError(f"Line {line:,} of {name!r} is not JSON ({e}); write it again.") from e
    if not isinstance(told, dict):
        raise DataError(f"Line {line:,} of {name!r} is not a JSON object; expected {_fields()}.")
    file, label = (
        next((told[field] for field in fields if field in told), None)
        for fields in (FILE_FIELDS, CLASS_FIELDS)
    )
    if label is None and not any(field in told for field in CLASS_FIELDS):
        raise DataError(
            f"Line {line:,} of {name!r} has no class; expected {_fields()}. To import without"
            " classes, take the file away."
        )
    return Row(line, file if isinstance(file, str) else "", label)


def _fields() -> str:
    return f"one of {', '.join(FILE_FIELDS)} and one of {', '.join(CLASS_FIELDS)}"
