"""Owns the memory that an importer shares with a decoder: files in, pixels and verdicts out.

Nothing in it is an object: numbers at fixed places, and bytes. The importer believes none of what
a decoder writes there beyond that it is bytes.
"""

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

from training.data.decode import Decoded, Header

BATCH_FILES = 48
BATCH_BYTES = 1 << 20
OUT_BYTES = 4 << 20  # the largest image takes 3 MiB
KEPT_BYTES = 2 * BATCH_BYTES
TEXT_BYTES = 440
DIGEST_BYTES = 32
UNTOLD, ACCEPTED, REJECTED, LOST = 0, 1, 2, 3

COMMAND = struct.Struct("<HHHH3Bx")  # slot, first file, resolution or 0, channels, background
READY = b"\xff"  # what a decoder answers first, and afterwards the number of each slot
OUT_OF_MEMORY = 3  # the exit code

_HEAD = struct.Struct("<II")  # files in the slot, and how many of them are done
_FILE = struct.Struct("<QQ")  # where it begins, and its length
_TOLD = struct.Struct("<BBHI32s")  # verdict, is it grey, length of the text, side, digest
_RECORD_BYTES = 512
_FILES_AT = 1 << 12
_IN_AT = _FILES_AT + BATCH_FILES * _RECORD_BYTES
_TEXT_AT = _FILE.size + _TOLD.size
_DONE = struct.Struct("<I")

assert _TEXT_AT + TEXT_BYTES <= _RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Told:
    """What a decoder says of one file, or the importer if that killed it (LOST).

    text: the reason, or the conversions line by line.
    """

    verdict: int
    text: bytes
    digest: bytes
    side: int
    grey: bool


class Slot:
    """Room for one batch; the importer fills it, then the decoder answers, then it is read."""

    def __init__(self, memory: mmap.mmap, number: int, in_bytes: int) -> None:
        """in_bytes: of the longest file."""
        self._memory, self._view = memory, memoryview(memory)
        self.number = number
        self._base = number * slot_bytes(in_bytes)
        self._out_at = self._base + _padded(_IN_AT + in_bytes + BATCH_BYTES)
        self.count = self._end = 0

    # The importer

    def clear(self) -> None:
        """Empty it, and give back what long files took."""
        begin = self._base + _padded(_IN_AT + KEPT_BYTES)
        if self._end > begin and hasattr(mmap, "MADV_REMOVE"):
            self._memory.madvise(mmap.MADV_REMOVE, begin, _padded(self._end) - begin)
        self.count, self._end = 0, self._base + _IN_AT
        self._write_head(0)

    def add(self, data: bytes) -> int:
        """Put in one more file; returns its place."""
        place, begin = self.count, self._end
        self.count, self._end = place + 1, begin + len(data)
        self._memory[begin : self._end] = data
        at = self._record(place)
        _FILE.pack_into(self._memory, at, begin, len(data))
        _TOLD.pack_into(self._memory, at + _FILE.size, UNTOLD, 0, 0, 0, b"")
        return place

    def seal(self) -> None:
        """Tell the decoder how many files there are."""
        self._write_head(0)

    def is_full(self) -> bool:
        """Whether so many bytes are in it that another file might find no room."""
        return self._end - self._base - _IN_AT >= BATCH_BYTES

    def told(self, place: int) -> Told:
        """The answer on one file."""
        at = self._record(place) + _FILE.size
        verdict, grey, length, side, digest = _TOLD.unpack_from(self._memory, at)
        at += _TOLD.size
        text = self._memory[at : at + min(length, TEXT_BYTES)]
        return Told(verdict, text, digest, side, bool(grey))

    def pixels(self, num_bytes: int) -> memoryview:
        """The images in the order of their files; they change when the slot is filled again."""
        return self._view[self._out_at : self._out_at + num_bytes]

    def lose(self, place: int, reason: str) -> None:
        """Reject a file that its decoder has not survived."""
        self._tell(place, LOST, reason, Header(0, grey=False), b"")

    # The decoder

    def open(self) -> None:
        """Take note of what the importer has put in."""
        self.count = min(_HEAD.unpack_from(self._memory, self._base)[0], BATCH_FILES)

    def file(self, place: int) -> bytes:
        begin, length = _FILE.unpack_from(self._memory, self._record(place))
        return self._memory[begin : begin + length]

    def accept(self, place: int, decoded: Decoded, digest: bytes) -> None:
        size = len(decoded.pixels)
        at = self._out_at + place * size
        self._memory[at : at + size] = decoded.pixels
        self._tell(place, ACCEPTED, "\n".join(decoded.conversions), Header(0, grey=False), digest)

    def accept_header(self, place: int, header: Header) -> None:
        self._tell(place, ACCEPTED, "", header, b"")

    def reject(self, place: int, reason: str) -> None:
        self._tell(place, REJECTED, reason, Header(0, grey=False), b"")

    # Both

    @property
    def done(self) -> int:
        """How many files have their answer; the next one is in work."""
        return min(_DONE.unpack_from(self._memory, self._base + _DONE.size)[0], self.count)

    @done.setter
    def done(self, count: int) -> None:
        _DONE.pack_into(self._memory, self._base + _DONE.size, count)

    def _tell(self, place: int, verdict: int, text: str, header: Header, digest: bytes) -> None:
        data = text.encode("utf-8", "backslashreplace")[:TEXT_BYTES]
        at = self._record(place) + _FILE.size
        told = (verdict, header.grey, len(data), header.side, digest)
        _TOLD.pack_into(self._memory, at, *told)
        at += _TOLD.size
        self._memory[at : at + len(data)] = data

    def _write_head(self, done: int) -> None:
        _HEAD.pack_into(self._memory, self._base, self.count, done)

    def _record(self, place: int) -> int:
        return self._base + _FILES_AT + place * _RECORD_BYTES


def slot_bytes(in_bytes: int) -> int:
    """The length of one slot for files of at most `in_bytes`."""
    return _padded(_IN_AT + in_bytes + BATCH_BYTES) + OUT_BYTES


def files_a_batch(image_bytes: int) -> int:
    """How many images of this size a slot has room for; 0 bytes: their headers are all it takes."""
    return min(BATCH_FILES, OUT_BYTES // image_bytes) if image_bytes else BATCH_FILES


def anonymous_file(size: int) -> int:
    """The descriptor of an empty file that has no name and takes no room until it is written."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("noisewell-decoder")
    else:
        with tempfile.TemporaryFile() as f:
            fd = os.dup(f.fileno())
    os.ftruncate(fd, size)
    return fd


def _padded(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
