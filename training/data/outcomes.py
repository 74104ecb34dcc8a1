"""Owns what becomes of each file of a source: in its order, however many decoders are at work."""

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from training.data.decode import Header, RejectedError, Target, fit
from training.data.slots import ACCEPTED, LOST, Told, files_a_batch
from training.data.sources import Item, Source
from training.data.workers import Batch, Decoders
from training.pictures import picture_of

Numbered = tuple[int, Item]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one file: rejected for a reason, or taken, with the conversions it needed.

    pixels: uint8 (H, W, C), only until the next outcomes are asked for; digest: their SHA-256.
    Without a target there are headers instead. lost: a decoder has not survived it.
    """

    file: str
    label: int | None
    reason: str | None
    conversions: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None
    digest: bytes = b""
    header: Header | None = None
    lost: bool = False

    @property
    def verdict(self) -> str:
        if self.reason is not None:
            return "reject"
        return "convert" if self.conversions else "accept"


def outcomes(
    src: Source, decoders: Decoders, target: Target | None, known: Mapping[int, str]
) -> Generator[list[Outcome]]:
    """The outcome of every file in the order of the source, some at a time, as they come.

    Without a target only headers are read. known: reasons of files, by their numbers, that are not
    tried again. An empty list says that nothing came for a while.
    """
    numbered, waiting = enumerate(src.items), deque[_Pending]()
    while True:
        while (batch := decoders.room(target)) is not None:
            pending = _filled(batch, src, numbered, known)
            if not pending.entries:
                decoders.give_back(batch)
                break
            decoders.send(batch)
            waiting.append(pending)
        if not waiting:
            return
        while not decoders.wait(waiting[0].batch):
            yield waiting[0].take()
        yield waiting[0].take()
        decoders.give_back(waiting.popleft().batch)


@dataclass
class _Pending:
    """A batch that is out, and its files in order: those that need no decoder are decided."""

    batch: Batch
    entries: deque[Item | Outcome] = field(default_factory=deque)
    place: int = 0
    pixels: NDArray[np.uint8] | None = None  # (files, H, W, C), those that have a verdict filled in

    def take(self) -> list[Outcome]:
        """What is decided by now, and was not taken before."""
        settled, found = self.batch.settled(), list[Outcome]()
        while self.entries and (isinstance(self.entries[0], Outcome) or self.place < settled):
            entry = self.entries.popleft()
            if isinstance(entry, Item):
                entry, self.place = self._outcome(entry), self.place + 1
            found.append(entry)
        return found

    def _outcome(self, item: Item) -> Outcome:
        told, pixels = self.batch.slot.told(self.place), self.pixels
        if told.verdict != ACCEPTED:
            return Outcome(item.file, item.label, _reason(told), lost=told.verdict == LOST)
        if pixels is None:
            header = Header(told.side, told.grey)
            return Outcome(item.file, item.label, None, header=header)
        conversions = _conversions(told.text)
        return Outcome(item.file, item.label, None, conversions, pixels[self.place], told.digest)


def _filled(
    batch: Batch, src: Source, numbered: Iterator[Numbered], known: Mapping[int, str]
) -> _Pending:
    """The next files of the source, read, as many as the batch takes."""
    target, pending = batch.target, _Pending(batch)
    image_bytes = target.resolution**2 * target.channels if target else 0
    most = files_a_batch(image_bytes)
    if target is not None:
        shape = (most, target.resolution, target.resolution, target.channels)
        room = batch.slot.pixels(most * image_bytes)
        pending.pixels = np.frombuffer(room, np.uint8).reshape(shape)
    for number, item in numbered:
        pending.entries.append(_entry(batch, src, item, known.get(number)))
        if len(pending.entries) == most or batch.slot.is_full():
            break
    return pending


def _entry(batch: Batch, src: Source, item: Item, reason: str | None) -> Item | Outcome:
    """An item whose file lies in the batch, or its outcome if that needs no decoder."""
    if reason is not None:
        return Outcome(item.file, item.label, reason)
    try:
        read = src.read(item)
    except RejectedError as e:
        return Outcome(item.file, item.label, str(e))
    if isinstance(read, bytes):
        batch.slot.add(read)
        return item
    if batch.target is None:
        header = Header(side=min(read.shape[:2]), grey=read.shape[2] == 1)
        return Outcome(item.file, item.label, None, header=header)
    return _fitted(item, read, batch.target)


def _fitted(item: Item, pixels: NDArray[np.uint8], target: Target) -> Outcome:
    """The outcome of finished pixels (H, W, C)."""
    shape = (target.resolution, target.resolution, target.channels)
    conversions: tuple[str, ...] = ()
    if pixels.shape != shape:
        decoded = fit(picture_of(pixels), target)
        conversions = decoded.conversions
        pixels = np.frombuffer(decoded.pixels, np.uint8).reshape(shape)
    digest = sha256(np.ascontiguousarray(pixels).data).digest()
    return Outcome(item.file, item.label, None, conversions, pixels, digest)


@lru_cache(maxsize=256)
def _conversions(text: bytes) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", "ignore").split("\n")) if text else ()


def _reason(told: Told) -> str:
    return told.text.decode("utf-8", "ignore") or "could not be decoded"
