"""Owns which images of a source are taken: of some of its classes, and not too many of each."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from training.data.dataset import DataError

LISTED = 20


def wanted_classes(
    shown: str, class_names: Sequence[str], classes: Collection[str]
) -> tuple[int, ...]:
    """The indices of `classes` among `class_names`, in their order there; raises DataError."""
    if not class_names:
        raise DataError(f"{shown!r} has no classes, so that the option classes has none to choose.")
    unknown = sorted(set(classes) - set(class_names))
    if unknown or not classes:
        there = ", ".join(map(repr, class_names[:LISTED]))
        more = f" and {len(class_names) - LISTED:,} more" if len(class_names) > LISTED else ""
        named = f"names {unknown[0]!r}, which {shown!r} does not have" if unknown else "is empty"
        raise DataError(f"classes {named}; it has {there}{more}.")
    return tuple(i for i, name in enumerate(class_names) if name in set(classes))


def chosen(labels: Sequence[int], name_of: Callable[[int], str], most: int) -> list[int]:
    """At most `most` of each label, by number and in order: those whose hashed names are lowest.

    So the same images are chosen each time, and a larger `most` chooses these and others.
    """
    if most < 1:
        raise DataError(f"max_per_class {most} is not allowed; expected 1 or more.")
    lowest: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i, label in enumerate(labels):
        heap, found = lowest[label], (-_rank(name_of(i)), i)
        (heapq.heappush if len(heap) < most else heapq.heappushpop)(heap, found)
    return sorted(i for heap in lowest.values() for _, i in heap)


def _rank(name: str) -> int:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
