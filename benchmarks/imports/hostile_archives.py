"""Owns the proof that no hostile archive or folder is taken for what it is not.

    python -m benchmarks.imports.hostile_archives

Each case is built from scratch, the same on every machine, and imported; what must become of it
stands beside it:

- `refuse`: one sentence of refusal, and nothing written;
- `reject`: the good images are taken, the hostile file is rejected with this reason;
- `accept`: odd, but harmless: all its images are taken;
- `sound`: damaged at random: any of these, but never another pixel than those of the good images.

A canary, an image of a grey that no other image has, lies outside of what is imported, where the
cases point at it. It must keep its bytes and its times, no packed pixel may have its grey, and no
file may appear or vanish anywhere. What is WRONG ends the command with 1.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from training.data.dataset import DataError, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions, Limits

SIDE = 8
CANARY_GREY = 0xC7  # every other image is darker than 0x80
MAX_SECONDS = 60
MAX_FILES, MAX_BYTES = 2_000, 200_000_000
SEED = 7

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
UTF8, STREAMED = 0x800, 0x8
MOST16, MOST32 = 0xFFFF, 0xFFFFFFFF


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def picture(seed: int) -> np.ndarray:
    """One of the images that may be in a pack."""
    return np.random.default_rng(seed).integers(0, 0x80, (SIDE, SIDE), np.uint8)


CANARY = png(np.full((SIDE, SIDE), CANARY_GREY, np.uint8))
GOOD = {f"{name}/{i}.png": picture(i + 10 * k) for k, name in enumerate("ab") for i in range(3)}
EXTRA = picture(99)  # what a hostile entry holds where it holds an image
EXTRA_PNG = png(EXTRA)


# ── zips, field by field ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Piece:
    """An entry. local, central: fields of those records that say something else."""

    name: bytes
    data: bytes = EXTRA_PNG
    method: int = 0
    packed: bytes | None = None
    flags: int = 0
    system: int = 3
    mode: int = 0
    central_extra: bytes = b""
    local_extra: bytes = b""
    local: dict[str, int | bytes] = field(default_factory=dict)
    central: dict[str, int | bytes] = field(default_factory=dict)

    def deflated(self) -> "Piece":
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return replace(self, method=8, packed=packer.compress(self.data) + packer.flush())

    @property
    def fields(self) -> dict[str, Any]:
        stored = self.data if self.packed is None else self.packed
        return {
            "signature": b"", "flags": self.flags, "method": self.method, "name": self.name,
            "crc": zlib.crc32(self.data), "packed": len(stored), "size": len(self.data),
            "disk": 0, "stored": stored,
        }  # fmt: skip

    def local_bytes(self) -> bytes:
        f = {**self.fields, "signature": b"PK\3\4", "extra": self.local_extra, **self.local}
        name_length = f.get("name_length", len(f["name"]))
        extra_length = f.get("extra_length", len(f["extra"]))
        head = LOCAL.pack(
            f["signature"],
            20,
            f["flags"],
            f["method"],
            0,
            0x21,
            f["crc"],
            f["packed"],
            f["size"],
            name_length,
            extra_length,
        )
        return head + f["name"] + f["extra"] + f["stored"]

    def central_bytes(self, offset: int) -> bytes:
        f = {
            **self.fields,
            "signature": b"PK\1\2",
            "offset": offset,
            "extra": self.central_extra,
            "comment": b"",
            **self.central,
        }
        name_length = f.get("name_length", len(f["name"]))
        extra_length = f.get("extra_length", len(f["extra"]))
        head = CENTRAL.pack(
            f["signature"],
            self.system << 8 | 20,
            20,
            f["flags"],
            f["method"],
            0,
            0x21,
            f["crc"],
            f["packed"],
            f["size"],
            name_length,
            extra_length,
            len(f["comment"]),
            f["disk"],
            0,
            self.mode << 16,
            f["offset"],
        )
        return head + f["name"] + f["extra"] + f["comment"]


GOOD_PIECES = [Piece(name.encode(), png(image)) for name, image in GOOD.items()]


def build(
    pieces: list[Piece],
    *,
    prefix: bytes = b"",
    shift: int = 0,
    comment: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    between: bytes = b"",
    suffix: bytes = b"",
) -> bytes:
    """A zip of `pieces`. shift: added to all offsets. end, end64: fields that tell otherwise."""
    body, directory = bytearray(prefix), bytearray()
    for piece in pieces:
        directory += piece.central_bytes(len(body) - len(prefix) + shift)
        body += piece.local_bytes()
    start = len(body) - len(prefix) + shift
    told = {
        "disk": 0,
        "first": 0,
        "here": len(pieces),
        "count": len(pieces),
        "size": len(directory),
        "start": start,
        "comment_length": len(comment),
    }
    data = bytes(body + directory) + between
    if end64 is not None:
        data += _end64(len(data), {**told, **end64})
        told |= {"here": MOST16, "count": MOST16, "size": MOST32, "start": MOST32}
    told |= end or {}
    data += END.pack(
        b"PK\5\6",
        told["disk"],
        told["first"],
        told["here"],
        told["count"],
        told["size"],
        told["start"],
        told["comment_length"],
    )
    return data + comment + suffix


def _end64(at: int, told: dict[str, int]) -> bytes:
    record = END64.pack(
        b"PK\6\6",
        told.get("length", END64.size - 12),
        45,
        45,
        told["disk"],
        told["first"],
        told["here"],
        told["count"],
        told["size"],
        told["start"],
    )
    locator = LOCATOR.pack(b"PK\6\7", 0, told.get("at", at), told.get("disks", 1))
    return record + locator


def with_good(*pieces: Piece, **how: Any) -> bytes:
    """A zip of the good images and, last, of `pieces`."""
    return build([*GOOD_PIECES, *pieces], **how)


# ── cases ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """make: writes the source below a folder and returns its path. extra: images beside the good.

    expected: refuse, reject, accept or sound. said: a pattern of the sentence or the reason.
    """

    family: str
    name: str
    make: Callable[[Path], Path]
    expected: str
    said: str = ""
    extra: int = 0


def zipped(
    family: str, name: str, data: bytes, expected: str, said: str = "", extra: int = 0
) -> Case:
    return case_of_bytes(family, name, "x.zip", data, expected, said, extra)


def case_of_bytes(
    family: str, name: str, file: str, data: bytes, expected: str, said: str = "", extra: int = 0
) -> Case:
    def make(root: Path) -> Path:
        (root / file).write_bytes(data)
        return root / file

    return Case(family, name, make, expected, said, extra)


ABSOLUTE = (
    b"/etc/passwd",
    b"/x.png",
    b"//x.png",
    b"///a/x.png",
    b"C:/x.png",
    b"c:x.png",
    b"Z:",
    b"/",
)
CLIMBING = (
    b"..", b"../x.png", b"a/..", b"a/../../x.png", b"./../x.png", b"a/b/../../../x.png", b"../",
    b"a/../", b"x/../../outside/canary.png", b"..//x.png", b"a/./../x.png",
)  # fmt: skip
BACKSLASHED = (
    b"..\\x.png",
    b"a\\x.png",
    b"\\\\server\\share\\x.png",
    b"C:\\x.png",
    b"\\",
    b"a/\\..\\x",
)
NUL = (b"\0", b"a/x.png\0", b"a/x.png\0.txt", b"\0/etc/passwd", b"a/\0/x.png", b"..\0/x.png")
NAMELESS = (b".", b"./.", b"././.")
ODD = (
    b"~/x.png", b"$HOME/x.png", b"%2e%2e/x.png", b"a/CON.png", b"a/-rf.png", b"a/x.png\n",
    b"a/\x1b[2J.png", "a/\u202egnp.exe".encode(), "a/\uff0e\uff0e\uff0fx.png".encode(),
    b"a/`id`.png", b"a/;rm.png", b"a/|x.png", b"a/<script>.png", b"a/'\"&.png", b"a/x.png ",
    b"a/" + b"x" * 255 + b".png", b"a/" + b"y/" * 2000 + b"x.png", b"a/\xc0\xae\xc0\xae/x.png",
    b"a/\xff.png", b"a/\xed\xa0\x80.png", "a/\U0001f480.png".encode(), b"a//x.png", b"a/./x.png",
    b"a/x", b"a/x.exe", b"a/0.PNG", b"A/0.png", b"a/0.png/x.png", b"a/%s.png", b"a/{0}.png",
)  # fmt: skip
LEFT_OUT = (b"....", b"a/...png", b"a/.x.png", b"__MACOSX/a/0.png", b"a/Thumbs.db", b".git/x.png")
NOT_UTF8 = (b"a/\xff.png", b"a/\xc0\xae\xc0\xae/x.png", b"a/\xed\xa0\x80.png", b"\xf5\x80\x80\x80")


def names() -> Iterator[Case]:
    faults = [
        (ABSOLUTE, "absolute path"),
        (CLIMBING, "points outside"),
        (BACKSLASHED, "backslash|absolute"),
        (NUL, "NUL"),
        (NAMELESS, "has no name"),
    ]
    for group, said in faults:
        for name in group:
            for flags in (0, UTF8):
                data = b"" if name.endswith(b"/") else EXTRA_PNG
                piece = Piece(name, data, flags=flags)
                yield zipped(
                    "names", f"{name!r} flags {flags:#x}", with_good(piece), "refuse", said
                )
    for name in NOT_UTF8:
        piece = Piece(name, flags=UTF8)
        yield zipped("names", f"{name!r} as UTF-8", with_good(piece), "refuse", "it is not")
    for length in (4097, 20_000, 65_535):
        piece = Piece(b"a/" + b"x" * (length - 2))
        yield zipped("names", f"{length} bytes", with_good(piece), "refuse", "has a name of")
    yield zipped("names", "none", with_good(Piece(b"")), "refuse", "has a name of 0 bytes")
    for name in ODD:
        yield zipped("odd names", repr(name)[:60], with_good(Piece(name)), "accept", extra=1)
    for name in LEFT_OUT:
        yield zipped("odd names", repr(name), with_good(Piece(name)), "accept")


def kinds() -> Iterator[Case]:
    target = b"../../outside/canary.png"
    for kind in (
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        0xE000,
        0x3000,
    ):
        for system in (0, 3, 19):
            for name in (b"a/x.png", b"canary.png"):
                piece = Piece(name, target, mode=kind | 0o777, system=system)
                said = "symbolic link" if kind == stat.S_IFLNK else "not a plain file"
                label = f"{name!r} of mode {kind:#o} by system {system}"
                yield zipped("kinds", label, with_good(piece), "refuse", said)
    for name, data, mode in (
        (b"c/", EXTRA_PNG, 0),
        (b"c/", EXTRA_PNG, stat.S_IFDIR | 0o755),
        (b"c/", b"", stat.S_IFREG | 0o644),
        (b"c", EXTRA_PNG, stat.S_IFDIR | 0o755),
        (b"c", b"", stat.S_IFDIR | 0o755),
    ):
        label = f"{name!r} of mode {mode:#o} with {len(data)} bytes"
        yield zipped(
            "kinds", label, with_good(Piece(name, data, mode=mode)), "refuse", "is a folder"
        )
    link = Piece(b"a/link", b"../../outside", mode=stat.S_IFLNK | 0o777)
    through = Piece(b"a/link/canary.png")
    yield zipped(
        "kinds", "a file below a link", with_good(link, through), "refuse", "symbolic link"
    )


def encryption() -> Iterator[Case]:
    for flags in (0x1, 0x41, 0x2000, 0x2041, 0x40):
        piece = Piece(b"a/x.png", flags=flags)
        yield zipped("encryption", f"flags {flags:#x}", with_good(piece), "refuse", "encrypted")
        piece = Piece(b"a/x.png", central={"flags": flags})
        yield zipped("encryption", f"{flags:#x} in one", with_good(piece), "refuse", "encrypted")
        piece = Piece(b"a/x.png", local={"flags": flags})
        yield zipped("encryption", f"{flags:#x} in file", with_good(piece), "reject", "disagrees")


def methods() -> Iterator[Case]:
    packers = {9: zlib.compress, 12: bz2.compress, 14: lzma.compress, 95: lzma.compress}
    for method in (*range(1, 8), *range(9, 21), *range(93, 100), MOST16):
        piece = Piece(b"a/x.png", method=method, packed=packers.get(method, bytes)(EXTRA_PNG))
        said = f"packed by method {method} "
        yield zipped("methods", f"method {method}", with_good(piece), "reject", said)
    for central, local in ((0, 8), (8, 0), (0, 12), (8, 12)):
        piece = Piece(b"a/x.png", central={"method": central}, local={"method": local})
        yield zipped(
            "methods", f"{central}, in file {local}", with_good(piece), "reject", "disagrees"
        )


def disagreements() -> Iterator[Case]:
    length, crc = len(EXTRA_PNG), zlib.crc32(EXTRA_PNG)
    lies: list[dict[str, int | bytes]] = [
        {"name": b"a/y.png"}, {"name": b"../x.pn"}, {"name": b"a/x.pngx"},
        {"name": b"a/X.png"}, {"packed": 0}, {"packed": length + 1}, {"packed": length - 1},
        {"packed": 0x7FFFFFFF}, {"size": 0}, {"size": length + 1}, {"size": length - 1},
        {"size": 0x7FFFFFFF}, {"crc": crc ^ 1}, {"crc": 0},
    ]  # fmt: skip
    for lie in lies:
        piece = Piece(b"a/x.png", local=lie)
        yield zipped("disagreements", f"in file {lie}", with_good(piece), "reject", "disagrees")
    for lie, said in (
        ({"signature": b"PK\1\2"}, "is not where"),
        ({"signature": b"\0\0\0\0"}, "is not where"),
        ({"name_length": MOST16}, "disagrees"),
        ({"extra_length": MOST16}, "shares bytes"),
        ({"extra_length": 1}, "shares bytes"),
    ):
        piece = Piece(b"a/x.png", local=lie)
        yield zipped("disagreements", f"in file {lie}", with_good(piece), "reject", said)
    for flags in (0, STREAMED):  # a stream's local header does not know its sizes, and says 0
        unknown: dict[str, int | bytes] = {"crc": 0, "packed": 0, "size": 0}
        piece = Piece(b"a/x.png", flags=flags, local=unknown)
        what = ("accept", "") if flags else ("reject", "disagrees")
        yield zipped(
            "disagreements", f"no sizes, {flags}", with_good(piece), *what, extra=bool(flags)
        )
    for lie, said in (({"crc": crc ^ 1}, "checksum"), ({"crc": 0}, "checksum")):
        piece = Piece(b"a/x.png", local=lie, central=lie)
        yield zipped("damage", f"both say {lie}", with_good(piece), "reject", said)


def places() -> Iterator[Case]:
    last = len(build(GOOD_PIECES)) - sum(len(p.central_bytes(0)) for p in GOOD_PIECES) - END.size
    for offset, said in (
        (0, "overlap"), (1, "overlap"), (last - 1, "overlap"), (last + 1, "overlap"),
        (last + 40, "overlap"), (10**6, "overlap"), (MOST32 - 1, "overlap"), (MOST32, "zip64"),
    ):  # fmt: skip
        piece = Piece(b"a/x.png", central={"offset": offset})
        yield zipped("places", f"offset {offset}", with_good(piece), "refuse", said)
    for packed in (len(EXTRA_PNG) + 1, 10**6, MOST32 - 1):
        piece = Piece(b"a/x.png", central={"packed": packed})
        yield zipped("places", f"{packed} packed", with_good(piece), "refuse", "overlap")
    for count in (2, 50, 1000):
        shared = GOOD_PIECES[0]
        copies = [
            replace(shared, name=b"a/%d.png" % (i + 10), central={"offset": 0}, local={})
            for i in range(count)
        ]
        yield zipped("places", f"{count} at one place", with_good(*copies), "refuse", "overlap")
    yield zipped("places", "inside another", _inside(), "refuse", "overlap")
    for count in (5, 60):
        yield zipped(
            "places", f"{count} quoted", _quoted(count), "refuse", "overlap|times its size"
        )


def _inside() -> bytes:
    """An entry that lies in the stored bytes of another."""
    inner = Piece(b"a/inner.png")
    outer = Piece(b"a/outer.png", inner.local_bytes())
    at = sum(len(p.local_bytes()) for p in GOOD_PIECES) + LOCAL.size + len(outer.name)
    good = build([*GOOD_PIECES, outer, replace(inner, central={"offset": at})])
    return good


def _quoted(count: int) -> bytes:
    """Fifield 2019: each entry quotes the next one's header as data, and shares the rest."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    kernel = packer.compress(bytes(10_000)) + packer.flush()
    tail, data, records = kernel, bytes(10_000), b""
    body = b""
    entries: list[tuple[bytes, int, int, int, int]] = []
    for i in reversed(range(count)):
        name = b"a/%d.png" % i
        head = (
            LOCAL.pack(
                b"PK\3\4", 20, 0, 8, 0, 0x21, zlib.crc32(data), len(tail), len(data), len(name), 0
            )
            + name
        )
        entries.append((name, zlib.crc32(data), len(tail), len(data), len(head) + len(tail)))
        body = head + tail
        quote = struct.pack("<BHH", 0, len(head), len(head) ^ MOST16) + head
        tail, data = quote + tail, head + data
    for name, crc, packed, size, from_end in entries:
        piece = Piece(name, b"", 8, central={"crc": crc, "packed": packed, "size": size})
        records += piece.central_bytes(len(body) - from_end)
    tail_of = END.pack(b"PK\5\6", 0, 0, count, count, len(records), len(body), 0)
    return body + records + tail_of


def ends() -> Iterator[Case]:
    count, whole = len(GOOD_PIECES), build(GOOD_PIECES)
    directory = sum(len(p.central_bytes(0)) for p in GOOD_PIECES)
    start = len(whole) - END.size - directory
    for lie, said in (
        ({"count": count + 1}, "part of several"), ({"here": count - 1}, "part of several"),
        ({"count": 0, "here": 0}, "entries, but lists"),
        ({"count": count + 1, "here": count + 1}, "entries, but lists"),
        ({"count": count - 1, "here": count - 1}, "entries, but lists"),
        ({"count": MOST16, "here": MOST16}, "entries, but lists"),
        ({"disk": 1}, "part of several"), ({"first": 3}, "part of several"),
        ({"size": directory + 1}, "bytes in front"), ({"size": directory - 1}, "bytes in front"),
        ({"size": 0}, "bytes in front"), ({"size": MOST32}, "bytes in front"),
        ({"start": start + 1}, "bytes in front"), ({"start": start - 1}, "bytes in front"),
        ({"start": 0}, "bytes in front"), ({"start": MOST32}, "bytes in front"),
        ({"start": start + 10, "size": directory - 10}, "from beginning to end"),
        ({"start": start - 10, "size": directory + 10}, "from beginning to end"),
        ({"start": 0, "size": start + directory}, "from beginning to end"),
        ({"comment_length": 1}, "not a zip"), ({"comment_length": MOST16}, "not a zip"),
    ):  # fmt: skip
        yield zipped("ends", f"end says {lie}", build(GOOD_PIECES, end=lie), "refuse", said)
    for name, front in (
        ("a program", b"MZ" + bytes(500)), ("a script", b"#!/bin/sh\nrm -rf /\n"),
        ("a JPEG", b"\xff\xd8\xff\xe0" + bytes(99)), ("a PDF", b"%PDF-1.7\n"), ("a byte", b"\0"),
        ("a zip", build([Piece(b"other.png")])),
    ):  # fmt: skip
        said = "bytes in front|is not something"
        yield zipped("ends", f"{name} in front", build(GOOD_PIECES, prefix=front), "refuse", said)
        data = build(GOOD_PIECES, prefix=front, shift=len(front))
        said = "in front of its first entry"
        yield zipped("ends", f"{name} in front, counted", data, "refuse", said)
        yield zipped(
            "ends",
            f"{name} behind",
            build(GOOD_PIECES, suffix=front),
            "refuse",
            "not a zip|bytes in front",
        )
    for name, comment, *what in (
        ("of 65,535 bytes", b"x" * MOST16, "accept"),
        ("with an end that is not one", b"PK\5\6" * 100, "accept"),
        ("with a second end", END.pack(b"PK\5\6", 0, 0, 0, 0, 0, 0, 0), "refuse", "two ends"),
        ("with a whole zip", build([Piece(b"other.png")]), "refuse", "two ends"),
    ):
        yield zipped("ends", f"a comment {name}", build(GOOD_PIECES, comment=comment), *what)
    for disk in (1, MOST16 - 1):
        piece = Piece(b"a/x.png", central={"disk": disk})
        yield zipped("ends", f"an entry on disk {disk}", with_good(piece), "refuse", "several")
    data = build(GOOD_PIECES, between=b"x")
    yield zipped("ends", "a byte before the end", data, "refuse", "bytes in front")
    yield zipped("ends", "no entry", build([]), "refuse", "is empty")
    yield zipped("ends", "an empty file", b"", "refuse", "not a zip")
    for i in range(40):
        at = i * len(whole) // 40
        yield zipped("cuts", f"cut at byte {at}", whole[:at], "refuse", "not a zip|bytes in front")
    for i in range(20):
        at = i * len(whole) // 20
        data = whole[:at] + bytes(7) + whole[at:]
        yield zipped(
            "cuts", f"seven bytes more at {at}", data, "refuse", "bytes in front|not a zip"
        )


def zip64() -> Iterator[Case]:
    count, whole = len(GOOD_PIECES), build(GOOD_PIECES)
    yield zipped("zip64", "an honest end", build(GOOD_PIECES, end64={}), "accept")
    for lie in (
        {"at": 0}, {"at": len(whole)}, {"at": 2**63}, {"disks": 2}, {"length": 43},
        {"length": 2**63},
        {"count": 2**64 - 1}, {"count": 300_000}, {"count": 0}, {"count": count + 65_536},
        {"size": 2**63}, {"size": 0}, {"start": 2**63}, {"start": 0},
    ):  # fmt: skip
        said = "zip64|max_files|bytes in front|entries, but|is empty"
        yield zipped("zip64", f"end says {lie}", build(GOOD_PIECES, end64=lie), "refuse", said)
    for lie in ({"count": count + 1, "here": count + 1}, {"size": 1}, {"start": 5}):
        data = build(GOOD_PIECES, end64={}, end=lie)
        yield zipped("zip64", f"ends disagree {lie}", data, "refuse", "two ends that disagree")
    length = len(EXTRA_PNG)
    honest = struct.pack("<HHQQ", 1, 16, length, length)
    big: dict[str, int | bytes] = {"size": MOST32, "packed": MOST32}
    piece = Piece(b"a/x.png", central=big, central_extra=honest, local=big, local_extra=honest)
    yield zipped("zip64", "an honest entry", with_good(piece), "accept", extra=1)
    for name, extra, said in (
        ("no field", b"", "without the zip64 sizes"),
        ("half a field", honest[:12], "without the zip64 sizes"),
        ("an empty field", struct.pack("<HH", 1, 0), "without the zip64 sizes"),
        ("one size", struct.pack("<HHQ", 1, 8, length), "without the zip64 sizes"),
        ("another field", struct.pack("<HHQQ", 2, 16, length, length), "without the zip64 sizes"),
        ("a field that is too long", struct.pack("<HH", 1, MOST16), "without the zip64 sizes"),
        ("2^63 unpacked", struct.pack("<HHQQ", 1, 16, 2**63, length), "max_bytes"),
        ("2^63 packed", struct.pack("<HHQQ", 1, 16, length, 2**63), "beyond its end"),
        ("2^64 - 1", struct.pack("<HHQQ", 1, 16, 2**64 - 1, 2**64 - 1), "beyond its end"),
        ("2^40 packed", struct.pack("<HHQQ", 1, 16, length, 2**40), "overlap"),
    ):
        piece = Piece(b"a/x.png", central=big, central_extra=extra)
        yield zipped("zip64", name, with_good(piece), "refuse", said)
    for offset in (2**40, 2**63, 2**64 - 1, 0):
        extra = struct.pack("<HHQ", 1, 8, offset)
        piece = Piece(b"a/x.png", central={"offset": MOST32}, central_extra=extra)
        yield zipped("zip64", f"offset {offset}", with_good(piece), "refuse", "overlap|beyond")


def bombs() -> Iterator[Case]:
    for size in (2_000_000, 30_000_000):
        bomb = Piece(b"a/x.png", bytes(size)).deflated()
        ballast = [Piece(b"b/%d.bin" % i, random.Random(i).randbytes(size // 90)) for i in range(1)]
        yield zipped("bombs", f"{size:,} zeros", with_good(bomb), "refuse", "times its size")
        data = with_good(bomb, *ballast)
        yield zipped(
            "bombs",
            f"{size:,} zeros and ballast",
            data,
            "reject",
            "times its size",
        )
    yield zipped(
        "bombs",
        "longer than an image",
        with_good(Piece(b"a/x.png", bytes(50_000_001))),
        "reject",
        "max_image_bytes allows 50,000,000",
    )
    yield zipped(
        "bombs",
        "more than max_bytes",
        with_good(Piece(b"a/x.png", central={"size": MAX_BYTES + 1})),
        "refuse",
        "max_bytes",
    )
    zeros = Piece(b"a/x.png", bytes(10_000_000)).deflated()
    for size in (0, 1, 100, 999_999):
        lie: dict[str, int | bytes] = {"size": size}
        said = "is empty|not as long"
        piece = replace(zeros, local=lie, central=lie)
        yield zipped("bombs", f"10 MB that say {size}", with_good(piece), "reject", said)
    longer: dict[str, int | bytes] = {"size": 5000}
    piece = replace(Piece(b"a/x.png").deflated(), local=longer, central=longer)
    yield zipped("bombs", "less than it says", with_good(piece), "reject", "not as long")
    many = [Piece(b"a/%d.png" % i, b"") for i in range(MAX_FILES + 1)]
    yield zipped("bombs", "more entries than max_files", build(many), "refuse", "max_files")
    folders = [Piece(b"%d/" % i, b"") for i in range(MAX_FILES)]
    yield zipped("bombs", "as many folders", with_good(*folders), "refuse", "max_files")
    long = [Piece(b"a/" + b"%04d" % i * 1000, b"") for i in range(400)]
    yield zipped("bombs", "a directory of long names", build(long), "refuse", "max_files")
    classes = [Piece(b"%d/x.png" % i) for i in range(1500)]
    yield zipped("bombs", "a class of one for each", with_good(*classes), "accept", extra=1500)


def nested() -> Iterator[Case]:
    inner = build(GOOD_PIECES)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.png"))
    for kind, data in (
        ("zip", inner), ("empty zip", build([])), ("tar", tar.getvalue()),
        ("gzip", gzip.compress(inner)),
        ("bzip2", bz2.compress(inner)), ("xz", lzma.compress(inner)),
        ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(60)), ("rar", b"Rar!\x1a\x07\x01\0" + bytes(60)),
        ("zstd", b"\x28\xb5\x2f\xfd" + bytes(60)), ("gzipped PNG", gzip.compress(EXTRA_PNG)),
    ):  # fmt: skip
        for name in (b"a/x.png", b"a/x.zip"):
            piece = Piece(name, data)
            yield zipped(
                "nested", f"{kind} as {name!r}", with_good(piece), "reject", "is an archive"
            )
    matroshka = inner
    for _ in range(50):
        matroshka = build([Piece(b"a/x.zip", matroshka)])
    yield zipped(
        "nested", "fifty deep", with_good(Piece(b"a/x.zip", matroshka)), "reject", "archive"
    )
    yield zipped(
        "nested",
        "a PNG with a zip behind",
        with_good(Piece(b"a/x.png", EXTRA_PNG + inner)),
        "sound",
        extra=1,
    )


def damage() -> Iterator[Case]:
    whole = Piece(b"a/x.png", png(picture(5).repeat(4, 0).repeat(4, 1))).deflated()
    packed = whole.packed or b""
    for i in range(24):
        at = i * len(packed) // 24
        flipped = packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]
        piece = replace(whole, packed=flipped)
        yield zipped(
            "damage",
            f"byte {at} of the packed flipped",
            with_good(piece),
            "reject",
            "damaged|cut short|not as long|no part",
        )
    for i in range(8):
        piece = replace(whole, packed=packed[: i * len(packed) // 8])
        said = "cut short|not as long|damaged"
        yield zipped("damage", f"packed cut to {i}/8", with_good(piece), "reject", said)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    endless = packer.compress(whole.data) + packer.flush(zlib.Z_SYNC_FLUSH)
    piece = replace(whole, packed=endless)
    yield zipped("damage", "a stream without an end", with_good(piece), "reject", "cut short")
    for name, extra in (("zeros", bytes(9)), ("another entry", packed)):
        piece = replace(whole, packed=packed + extra)
        yield zipped(
            "damage", f"{name} behind the packed", with_good(piece), "reject", "no part of it"
        )
    for at in (0, 20, len(EXTRA_PNG) - 1):
        data = EXTRA_PNG[:at] + bytes([EXTRA_PNG[at] ^ 1]) + EXTRA_PNG[at + 1 :]
        piece = Piece(b"a/x.png", EXTRA_PNG, packed=data)
        yield zipped(
            "damage", f"byte {at} of the stored flipped", with_good(piece), "reject", "checksum"
        )


def twice() -> Iterator[Case]:
    for first, second in (
        (b"a/x.png", b"a/x.png"), (b"a/x.png", b"a/./x.png"), (b"a/x.png", b"a//x.png"),
        (b"a/x.png", b"./a/x.png"), (b"a/x.png", b"././a/././x.png"), (b"a/c", b"a/c/"),
        ("a/\u00e9.png".encode(), "a/e\u0301.png".encode()),
        ("a/\u1e69.png".encode(), "a/s\u0307\u0323.png".encode()),
        ("a/\uac00.png".encode(), "a/\u1100\u1161.png".encode()),
    ):  # fmt: skip
        pieces = [
            Piece(name, b"" if name.endswith(b"/") else EXTRA_PNG) for name in (first, second)
        ]
        label = f"{first.decode()!a} and {second.decode()!a}"
        yield zipped("twice", label, with_good(*pieces), "refuse", "appears twice")


def at_random() -> Iterator[Case]:
    """Any byte of directory and end, and some of the rest, flipped or replaced."""
    whole = with_good(Piece(b"a/x.png").deflated())
    rng = random.Random(SEED)
    first = whole.index(b"PK\1\2")
    for i in range(300):
        data = bytearray(whole)
        for _ in range(1 + i % 3):
            at = rng.randrange(first, len(data)) if i % 4 else rng.randrange(len(data))
            data[at] = rng.choice((data[at] ^ 1 << rng.randrange(8), 0, 0xFF, rng.randrange(256)))
        yield zipped("at random", f"mutation {i}", bytes(data), "sound", extra=1)


def other_files() -> Iterator[Case]:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        link = tarfile.TarInfo("a/x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../outside/canary.png"
        archive.addfile(link)
    inner = build(GOOD_PIECES)
    images = struct.pack(">HBB3I", 0, 8, 3, 9, 28, 28)
    for file, data, said in (
        ("x.tar", tar.getvalue(), "tar archive"),
        ("x.tar.gz", gzip.compress(tar.getvalue()), "tar archive"),
        ("x.tgz", b"", "tar archive"), ("x.tar.xz", lzma.compress(tar.getvalue()), "tar archive"),
        ("x.gz", gzip.compress(inner), "not something"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c", "not something"),
        ("x.rar", b"Rar!\x1a\x07", "not something"), ("x.zip", gzip.compress(inner), "not a zip"),
        ("x.zip", tar.getvalue(), "not a zip"), ("x.zip", EXTRA_PNG, "not a zip"),
        ("x.pkl", b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "not something"),
        ("x.npy", b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "not a whole"),
        ("x.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (9,)}"), "Python objects"),
        ("x.npy", npy("__import__('os').system('id')"), "not a whole"),
        ("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9, 9, " + "9," * 900),
         "not a whole"),
        ("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10**12, 8, 8)}"),
         "not a whole"),
        ("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8)}"),
         "not a whole"),
        ("x.npy", npy("(" * 5000), "not a whole"),
        ("x.npz", with_good(), "no arrays"),
        ("x.npz", build([Piece(b"images.npy", EXTRA_PNG)]), "not a whole"),
        ("x.npz", build([Piece(b"../images.npy", b"")]), "points outside"),
        ("x.npz", build([Piece(b"a.npy"), Piece(b"b.npy")]), "name the array"),
        ("train-images-idx3-ubyte", struct.pack(">HBB3I", 0, 8, 3, *[MOST32] * 3), "max_files"),
        ("train-images-idx3-ubyte", struct.pack(">HBB3I", 0, 8, 3, 9, MOST32, MOST32), "max_bytes"),
        ("train-images-idx3-ubyte", images, "shorter"),
        ("train-images-idx3-ubyte.gz",
         gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 9, 28, 28) + bytes(50_000_000)), "longer"),
        ("train-images-idx3-ubyte.gz", gzip.compress(gzip.compress(bytes(99))), "not an IDX"),
        ("data_batch_1.bin", bytes(3072), "expected a multiple"),
        ("data_batch_1.bin", tar.getvalue(), "expected a multiple"),
    ):  # fmt: skip
        label = f"{file}: {said} ({hashlib.sha256(data).hexdigest()[:6]})"
        yield case_of_bytes("other files", label, file, data, "refuse", said)


def npy(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(64)


def label_files() -> Iterator[Case]:
    good = "".join(f"{name},{name[0]}\n" for name in GOOD)
    for row, said in (
        ("../../outside/canary.png,a", "is not there"), ("/etc/passwd,a", "is not there"),
        ("..\\..\\outside\\canary.png,a", "is not there"), ("a/0.png,b", "again"),
        ("a/\0.png,a", "is not there"), ("labels.csv,a", "is not there"),
    ):  # fmt: skip
        piece = Piece(b"labels.csv", f"file,class\n{good}{row}\n".encode())
        yield zipped("label files", repr(row), with_good(piece), "refuse", said)
    for name in ("../../x", "a\x1b[2J", "x" * 101, "\u202e", "a\0b"):
        rows = good.replace(",a", f",{name}")
        piece = Piece(b"labels.csv", f"file,class\n{rows}".encode())
        what = ("accept",) if name == "../../x" else ("refuse", "cannot be a class name")
        yield zipped("label files", f"class {name!a}"[:40], with_good(piece), *what)
    link = Piece(b"labels.csv", b"../outside/canary.png", mode=stat.S_IFLNK | 0o777)
    yield zipped("label files", "a link", with_good(link), "refuse", "symbolic link")
    unlisted = Piece(b"labels.csv", f"file,class\n{good}".encode())
    yield zipped(
        "label files",
        "a file that is not listed",
        with_good(unlisted, Piece(b"a/x.png")),
        "reject",
        "is not listed",
    )


def folders() -> Iterator[Case]:
    def case(name: str, dress: Callable[[Path], object], expected: str, said: str = "") -> Case:
        def make(root: Path) -> Path:
            folder = root / "images"
            for file, image in GOOD.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(png(image))
            dress(folder)
            return folder

        return Case("folders", name, make, expected, said)

    canary = "../../../../outside/canary.png"
    yield case(
        "a link to the canary", lambda f: (f / "a/x.png").symlink_to(canary), "refuse", "link"
    )
    yield case(
        "an absolute link", lambda f: (f / "a/x.png").symlink_to("/etc/passwd"), "refuse", "link"
    )
    yield case(
        "a link to a folder outside",
        lambda f: (f / "c").symlink_to("../../../outside"),
        "refuse",
        "link",
    )
    yield case(
        "a link to nothing", lambda f: (f / "a/x.png").symlink_to("nothing"), "refuse", "link"
    )
    yield case("a link to itself", lambda f: (f / "a/x.png").symlink_to("x.png"), "refuse", "link")
    yield case("a link to its own folder", lambda f: (f / "a/c").symlink_to(".."), "refuse", "link")
    yield case(
        "labels that are a link",
        lambda f: (f / "labels.csv").symlink_to("../../../outside/canary.png"),
        "refuse",
        "link",
    )
    yield case("a pipe", lambda f: os.mkfifo(f / "a/x.png"), "reject", "not a regular file")
    yield case("a socket", _socket, "reject", "not a regular file")
    yield case("a device", _device, "reject", "not a regular file")
    yield case(
        "labels that are a pipe", lambda f: os.mkfifo(f / "labels.csv"), "refuse", "not a regular"
    )
    yield case(
        "folders without end",
        lambda f: (f.joinpath(*"d" * 99)).mkdir(parents=True),
        "refuse",
        "folders deep",
    )
    yield case(
        "a name that is not UTF-8",
        lambda f: (f / "a" / os.fsdecode(b"\xff\x1b.txt")).write_bytes(b"x"),
        "reject",
        "readable",
    )
    yield case(
        "a class that is not UTF-8",
        lambda f: (f / "a").rename(f / os.fsdecode(b"\xff")),
        "refuse",
        "cannot be a class",
    )
    yield case(
        "one name twice",
        lambda f: [(f / "a" / n).write_bytes(EXTRA_PNG) for n in ("\u00e9.png", "e\u0301.png")],
        "refuse",
        "twice",
    )
    yield case(
        "an archive",
        lambda f: (f / "a/x.png").write_bytes(build(GOOD_PIECES)),
        "reject",
        "is an archive",
    )
    yield case("an empty file", lambda f: (f / "a/x.png").touch(), "reject", "is empty")
    yield case(
        "50 MB of holes", lambda f: _sparse(f / "a/x.png", 50_000_001), "reject", "max_image_bytes"
    )
    yield case(
        "a terabyte of holes", lambda f: _sparse(f / "a/x.png", 10**12), "refuse", "max_bytes"
    )


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder / "a")  # a socket's path has to be short
        server.bind("x.png")
        os.chdir(here)


def _device(folder: Path) -> None:
    try:
        os.mknod(folder / "a/x.png", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        os.mkfifo(folder / "a/x.png")


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as f:
        f.truncate(size)


FAMILIES = (
    names, kinds, encryption, methods, disagreements, places, ends, zip64, bombs, nested, damage,
    twice, at_random, other_files, label_files, folders,
)  # fmt: skip


def all_cases() -> Iterator[Case]:
    for family in FAMILIES:
        yield from family()


# ── judging ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Finding:
    """What became of a case: the outcome, its words, and what is wrong with it."""

    case: Case
    outcome: str
    words: str
    wrong: str | None


class Yard:
    """A place with a canary outside of what is imported, which notices any change around it."""

    def __init__(self, root: Path) -> None:
        self.inside, self.out = root / "inside" / "upload", root / "packed"
        (root / "outside").mkdir(parents=True)
        self.canary = root / "outside" / "canary.png"
        self.canary.write_bytes(CANARY)
        self._root = root
        self._old = 1_000_000_000
        os.utime(self.canary, (self._old, self._old + 1))  # read, it would get a newer time
        self._watches_reading = self._reading_shows()

    def _reading_shows(self) -> bool:
        """Whether this file system notes when a file was read."""
        probe = self._root / "probe"
        probe.write_bytes(b"x")
        os.utime(probe, (self._old, self._old + 1))
        probe.read_bytes()
        shows = probe.stat().st_atime != self._old
        probe.unlink()
        return shows

    def judge(self, case: Case) -> Finding:
        """Import `case`; nothing of it is left behind."""
        self.inside.mkdir(parents=True)
        source = case.make(self.inside)
        before = self._picture()
        try:
            outcome, words, wrong = self._import(case, source)
            shutil.rmtree(self.out, ignore_errors=True)
            if self._picture() != before:
                wrong = "something appeared, vanished or changed beside the pack"
        finally:
            shutil.rmtree(self.inside.parent)
        faults = [fault for fault in (wrong, self._canary_wrong()) if fault]
        return Finding(case, outcome, words, "; ".join(faults) or None)

    def _import(self, case: Case, source: Path) -> tuple[str, str, str | None]:
        signal.alarm(MAX_SECONDS)
        try:
            run_import(source, self.out)
        except DataError as error:
            left = self.out.exists()
            return (
                "refuse",
                str(error),
                "a refusal left a pack" if left else _unexpected(case, "refuse", str(error)),
            )
        except Exception as error:  # noqa: BLE001  the very thing that is looked for
            return "CRASH", repr(error), "an exception that is no refusal"
        finally:
            signal.alarm(0)
        return self._judge_pack(case)

    def _judge_pack(self, case: Case) -> tuple[str, str, str | None]:
        dataset = load_dataset(self.out)
        rejections = dataset.manifest["rejections"]
        words = "; ".join(f"{r['file']} {r['reason']}" for r in rejections)
        outcome = "reject" if rejections else "accept"
        images = [image.tobytes() for image in dataset.images]
        allowed = {image.tobytes() for image in GOOD.values()} | {EXTRA.tobytes()}
        if strange := sum(image not in allowed for image in images):
            return outcome, words, f"{strange} images that nobody gave"
        extra = len(images) - len(GOOD)
        if case.expected != "sound" and extra != case.extra:
            return outcome, words, f"{extra} images beside the good ones, expected {case.extra}"
        return outcome, words, _unexpected(case, outcome, words)

    def _picture(self) -> dict[str, tuple[int, int, int]]:
        """All that lies around, by name, kind, size and time of change."""
        found: dict[str, tuple[int, int, int]] = {}
        for folder, _, files in os.walk(self._root):
            for name in files:
                status = os.lstat(os.path.join(folder, name))
                key = os.path.relpath(os.path.join(folder, name), self._root)
                found[key] = (status.st_mode, status.st_size, status.st_mtime_ns)
        return found

    def _canary_wrong(self) -> str | None:
        status = self.canary.stat()
        if self._watches_reading and status.st_atime != self._old:
            return "the canary was read"
        if status.st_mtime != self._old + 1:
            return "the canary was touched"
        wrong = None if self.canary.read_bytes() == CANARY else "the canary was changed"
        os.utime(self.canary, (self._old, self._old + 1))
        return wrong


def run_import(source: Path, out: Path) -> None:
    """What anybody's import does, with limits that fit small cases."""
    import_dataset(
        source,
        out,
        ImportOptions(
            "hostile",
            resolution=SIDE,
            channels=1,
            limits=Limits(max_files=MAX_FILES, max_bytes=MAX_BYTES, max_bad_share=0.9),
        ),
    )


def _unexpected(case: Case, outcome: str, words: str) -> str | None:
    if case.expected == "sound":
        return None
    if outcome != case.expected:
        return f"expected {case.expected}"
    if not re.search(case.said, words):
        return f"expected words like {case.said!r}"
    return None


def judge_all(cases: list[Case]) -> Iterator[Finding]:
    """Each case in turn, beside one canary."""
    with tempfile.TemporaryDirectory() as folder:
        yard = Yard(Path(folder))
        for case in cases:
            yield yard.judge(case)


# ── the command ──────────────────────────────────────────────────────────────────────────────

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    only: Annotated[str, typer.Option(help="A part of a family's or a case's name.")] = "",
    every: Annotated[bool, typer.Option(help="Print each case.")] = False,
) -> None:
    """Import every hostile case, and print what became of each family."""
    cases = [case for case in all_cases() if only in f"{case.family}: {case.name}"]
    console = Console()
    findings: list[Finding] = []
    for finding in judge_all(cases):
        findings.append(finding)
        if finding.wrong or every:
            state = f"WRONG ({finding.wrong})" if finding.wrong else "right"
            line = f"{finding.case.family}: {finding.case.name}: {finding.outcome}, {state}"
            console.print(f"{line}: {finding.words[:300]}", markup=False, soft_wrap=True)
    console.print(_table(findings))
    wrong = sum(finding.wrong is not None for finding in findings)
    console.print(
        f"{len(findings)} cases, {wrong} WRONG; the canary was never touched"
        if not wrong
        else f"{len(findings)} cases, {wrong} WRONG"
    )
    raise typer.Exit(1 if wrong else 0)


def _table(findings: list[Finding]) -> Table:
    outcomes = ("refuse", "reject", "accept", "CRASH")
    table = Table("family", "cases", *outcomes, "WRONG")
    for family in dict.fromkeys(finding.case.family for finding in findings):
        of_family = [finding for finding in findings if finding.case.family == family]
        counts = Counter(finding.outcome for finding in of_family)
        wrong = sum(finding.wrong is not None for finding in of_family)
        numbers = [len(of_family), *(counts[outcome] for outcome in outcomes), wrong]
        table.add_row(family, *map(str, numbers))
    return table


if __name__ == "__main__":
    cli()
