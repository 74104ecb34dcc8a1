"""Owns verdicts.jsonl of a packed dataset: what became of every file, a line each, in order."""

import json
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.data.names import printable
from training.data.outcomes import Outcome

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
            self._digests.append(int.from_bytes(outcome.digest[:8], "big"))
        self._file.write(json.dumps(line) + "\n")

    def finish(self) -> int:
        """Close the file, copies of earlier images marked; returns how many copies there are."""
        self._file.close()
        firsts = first_of_each(np.array(self._digests, np.uint64))
        copies = int((firsts != np.arange(len(firsts))).sum())
        if copies:
            self._mark(firsts)
        return copies

    def _mark(self, firsts: NDArray[np.int64]) -> None:
        marked = self._path.with_suffix(".marked")
        with marked.open("w", encoding="utf-8") as f:
            for line in _lines(self._path):
                index = line.get("index")
                if index is not None and firsts[index] != index:
                    line["duplicate_of"] = int(firsts[index])
                f.write(json.dumps(line) + "\n")
        marked.replace(self._path)


def first_of_each(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each of N digests the index of the first that is equal, its own if it is the first."""
    _, firsts, which = np.unique(digests, return_index=True, return_inverse=True)
    return firsts[which].astype(np.int64)


def read_verdicts(
    folder: Path, verdict: str | None = None, offset: int = 0, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """The verdicts of a packed dataset, or those of one kind, from the `offset`-th on.

    Raises FileNotFoundError for a dataset that was packed before there were any.
    """
    chosen = (v for v in _lines(folder / NAME) if verdict is None or v["verdict"] == verdict)
    return islice(chosen, offset, None if limit is None else offset + limit)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)
