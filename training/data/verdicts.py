"""Owns verdicts.jsonl of a packed dataset: what became of every file, a line each, in order."""

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.data.names import printable
from training.data.outcomes import Outcome
from training.data.rows import open_rows
from training.data.similar import NONE, near_duplicates
from training.data.survey import survey

NAME = "verdicts.jsonl"


class VerdictLog:
    """Writes `folder`/verdicts.jsonl line by line, so that memory does not grow with it.

    Of an image it keeps eight bytes of its digest; two different ones share them once in sixty
    million million pairs.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self._path = folder / NAME
        self._class_names = class_names
        self._digests = array("Q")
        self._file = self._path.open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def expect(self, digest: bytes) -> None:
        """An image that is there already, from another import; it has the next index."""
        self._digests.append(int.from_bytes(digest[:8], "big"))

    def add(self, outcome: Outcome) -> None:
        """One more file; an accepted one has the next index in images.npy."""
        line: dict[str, Any] = {"file": outcome.file, "verdict": outcome.verdict}
        if outcome.label is not None:
            line["class"] = self._class_names[outcome.label]
        if outcome.reason is not None:
            line["reason"] = printable(outcome.reason)
        else:
            line["index"] = len(self._digests)
            if outcome.conversions:
                line["conversions"] = outcome.conversions
            self.expect(outcome.digest)
        self._file.write(json.dumps(line) + "\n")

    def finish(self, images: Path) -> dict[str, Any]:
        """Close the file, images marked that are or nearly are an earlier one of `images`.npy.

        Returns how many there are of each, and the statistics of all: a part of the manifest.
        """
        self._file.close()
        firsts = first_of_each(np.array(self._digests, np.uint64))
        copies = firsts != np.arange(len(firsts))
        with open_rows(images) as rows:
            looked = survey(rows, images.parent)
            near = near_duplicates(rows, looked, copies)
        if copies.any() or (near != NONE).any():
            self._mark(firsts, near)
        return {
            "duplicates": int(copies.sum()),
            "near_duplicates": int((near != NONE).sum()),
            "statistics": looked.to_json(),
        }

    def _mark(self, firsts: NDArray[np.int64], near: NDArray[np.int32]) -> None:
        marked = self._path.with_suffix(".marked")
        with marked.open("w", encoding="utf-8") as f:
            for line in read_verdicts(self._path.parent):
                index = line.get("index")
                if index is not None and firsts[index] != index:
                    line["duplicate_of"] = int(firsts[index])
                if index is not None and near[index] != NONE:
                    line["near_duplicate_of"] = int(near[index])
                f.write(json.dumps(line) + "\n")
        marked.replace(self._path)


def first_of_each(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each of N digests the index of the first that is equal, its own if it is the first."""
    _, firsts, which = np.unique(digests, return_index=True, return_inverse=True)
    return firsts[which].astype(np.int64)


def read_verdicts(folder: Path) -> Iterator[dict[str, Any]]:
    """The verdicts of a packed dataset, in the order of its source.

    Raises FileNotFoundError for a dataset that was packed before there were any.
    """
    with (folder / NAME).open(encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)
