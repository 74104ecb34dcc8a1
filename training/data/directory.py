"""Owns the central directory of a zip: read strictly, into a table of some 60 bytes an entry.

Python's zipfile takes what it can make sense of, and 540 bytes an entry. What two readers could
understand in two ways is refused here: bytes in front of the first entry or behind the end, two
ends, counts and places that disagree, entries that share bytes.
"""

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
UNTOLD = 0xFFFFFFFF  # a field of 32 bits whose value stands in the entry's zip64 field

_END, _END_SIGNATURE = struct.Struct("<4s4H2LH"), b"PK\x05\x06"
_END64, _END64_SIGNATURE = struct.Struct("<4sQ2H2L4Q"), b"PK\x06\x06"
_LOCATOR, _LOCATOR_SIGNATURE = struct.Struct("<4sLQL"), b"PK\x06\x07"
_RECORD, _RECORD_SIGNATURE = struct.Struct("<4s6H3L5H2L"), b"PK\x01\x02"
_MOST_COMMENT = 0xFFFF
_ZIP64_FIELD = 0x0001
_LARGEST = (0xFFFF, UNTOLD, UNTOLD)  # count, size and start that the zip64 end tells


class DamagedError(Exception):
    """What a zip says of itself cannot be so; the message goes on after its name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of one entry.

    at: of this record in the file. name: as stored. mode: the kind of file and rights, as Unix has
    them. packed, size: bytes, as stored and unpacked. offset: of the local header.
    """

    at: int
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int


@dataclass(frozen=True)
class End:
    """Where the directory lies and how many entries it says it has; exact: not modulo 65,536."""

    start: int
    size: int
    count: int
    exact: bool


def find_end(f: BinaryIO) -> End | None:
    """What the end of a zip says of its directory, None if there is no end.

    Raises DamagedError if it can be read in two ways, or not at all.
    """
    length = f.seek(0, 2)
    tail_at = max(0, length - _END.size - _MOST_COMMENT)
    f.seek(tail_at)
    tail = f.read()
    places = [at for at in _places_of(_END_SIGNATURE, tail) if _ends_at(tail, at)]
    if len(places) > 1:
        raise DamagedError("has two ends, one of them in its comment")
    if not places:
        return None
    return _read_end(f, tail_at + places[0])


def _places_of(signature: bytes, data: bytes) -> Iterator[int]:
    at = data.find(signature)
    while at >= 0:
        yield at
        at = data.find(signature, at + 1)


def _ends_at(tail: bytes, at: int) -> bool:
    """Whether the end record at `at`, with its comment, is the last of the file."""
    if at + _END.size > len(tail):
        return False
    return at + _END.size + _END.unpack_from(tail, at)[7] == len(tail)


def _read_end(f: BinaryIO, at: int) -> End:
    f.seek(at)
    _, disk, first_disk, here, count, size, start, _ = _END.unpack(f.read(_END.size))
    if disk or first_disk or here != count:
        raise DamagedError("is one part of several; join them to one zip")
    end, exact, told = at, False, (count, size, start)
    if (found := _read_end64(f, at)) is not None:
        end, exact, (count, size, start) = found[0], True, found[1]
        if any(a not in (b, c) for a, b, c in zip(told, found[1], _LARGEST, strict=True)):
            raise DamagedError("has two ends that disagree (zip64)")
    if start + size != end:
        raise DamagedError(
            f"says that its directory ends at byte {start + size:,}, but it ends at {end:,}: there"
            " are bytes in front of the zip, or some are missing"
        )
    return End(start, size, count, exact)


def _read_end64(f: BinaryIO, end: int) -> tuple[int, tuple[int, int, int]] | None:
    """Where the zip64 end record begins, and its count, size and start; None if there is none."""
    locator_at = end - _LOCATOR.size
    if locator_at < 0:
        return None
    f.seek(locator_at)
    signature, disk, at, disks = _LOCATOR.unpack(f.read(_LOCATOR.size))
    if signature != _LOCATOR_SIGNATURE:
        return None
    if at + _END64.size > locator_at or disk or disks > 1:
        raise DamagedError("has a zip64 end that is not where it says")
    f.seek(at)
    record = _END64.unpack(f.read(_END64.size))
    if record[0] != _END64_SIGNATURE or at + 12 + record[1] != locator_at:
        raise DamagedError("has a zip64 end that is not where it says")
    return at, (record[7], record[8], record[9])


def read_entries(f: BinaryIO, end: End) -> Iterator[Entry]:
    """The entries of the directory, one after another; raises DamagedError."""
    at, count = end.start, 0
    while at < end.start + end.size:
        entry, at = read_entry(f, at, end.start + end.size)
        yield entry
        count += 1
    if count != end.count and (end.exact or count % 65536 != end.count):
        raise DamagedError(f"says that it holds {end.count:,} entries, but lists {count:,}")


def read_entry(f: BinaryIO, at: int, end: int) -> tuple[Entry, int]:
    """The entry whose record begins at `at`, and where the next begins; end: of the directory."""
    f.seek(at)
    data = f.read(_RECORD.size)
    if len(data) < _RECORD.size or data[:4] != _RECORD_SIGNATURE:
        raise DamagedError("has a directory that is not one from beginning to end")
    (_, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length,
     disk, _, attributes, offset) = _RECORD.unpack(data)  # fmt: skip
    following = at + _RECORD.size + name_length + extra_length + comment_length
    if following > end:
        raise DamagedError("has a directory that is cut short")
    if disk not in (0, 0xFFFF):
        raise DamagedError("is one part of several; join them to one zip")
    name, extra = f.read(name_length), f.read(extra_length)
    told = (size, packed, offset)
    if UNTOLD in told:
        size, packed, offset = _zip64_values(told, extra)
    mode = attributes >> 16
    return Entry(at, name, flags, method, crc, packed, size, mode, offset), following


def _zip64_values(told: tuple[int, ...], extra: bytes) -> list[int]:
    """Size, packed size and offset, those that did not fit taken from the zip64 field."""
    values = iter(_zip64_field(extra))
    try:
        return [next(values) if value == UNTOLD else value for value in told]
    except StopIteration:
        raise DamagedError("has an entry without the zip64 sizes that it announces") from None


def _zip64_field(extra: bytes) -> list[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_FIELD:
            field = extra[at + 4 : at + 4 + length]
            return list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
        at += 4 + length
    return []


class Places:
    """Where entries lie, gathered one by one, to find the end of each and those that overlap."""

    def __init__(self) -> None:
        self._offsets, self._lengths = array("Q"), array("Q")

    def add(self, entry: Entry) -> None:
        if entry.offset >= 1 << 63 or entry.packed >= 1 << 63:
            raise DamagedError("has an entry that lies beyond its end")
        self._offsets.append(entry.offset)
        # At least so long: what the local header adds to it is only seen when it is read.
        self._lengths.append(LOCAL_HEADER.size + len(entry.name) + entry.packed)

    def ends(self, directory: int) -> NDArray[np.uint64]:
        """Where the next entry begins, for each; directory: where that begins, after the last.

        Raises DamagedError if entries share bytes, lie in the directory or leave the start free.
        """
        offsets = np.frombuffer(self._offsets, np.uint64)
        order = np.argsort(offsets, kind="stable")
        first = offsets[order]
        following = np.append(first[1:], np.uint64(directory))
        if first[0] != 0:
            raise DamagedError(f"has {first[0]:,} bytes in front of its first entry")
        if (first + np.frombuffer(self._lengths, np.uint64)[order] > following).any():
            raise DamagedError("has entries that overlap")
        ends = np.empty_like(following)
        ends[order] = following
        return ends
