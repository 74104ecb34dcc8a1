"""Owns what a hand-made file is, and what the builders of all formats share."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# taken: accepted or converted. any: whichever, but a verdict, in time and within memory.
Expected = Literal["taken", "convert", "reject", "any"]
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """A file, what must become of it, and a pattern for the words of its verdict."""

    name: str
    data: bytes
    expected: Expected
    said: str = ""


Cases = Iterator[Case]


def deflated_zeros(count: int) -> bytes:
    """`count` zero bytes in zlib's format, a thousandth of that: one block, again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(BLOCK_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % BLOCK_BYTES)) + packer.flush()
    adler = struct.pack(">HH", count % 65_521, 1)
    return b"\x78\xda" + block * (count // BLOCK_BYTES) + rest + adler


def cuts(name: str, data: bytes, whole_from: int) -> Cases:
    """`data` cut at every 1 % of its length; rejected, unless `whole_from` percent are there."""
    stem, _, suffix = name.rpartition(".")
    for percent in range(1, 100):
        expected: Expected = "reject" if percent < whole_from else "any"
        cut = data[: len(data) * percent // 100]
        yield Case(f"{stem}-cut{percent:02}.{suffix}", cut, expected)
