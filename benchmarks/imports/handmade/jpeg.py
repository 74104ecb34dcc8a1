"""Owns hand-made JPEG files: lying sizes, endless scans and segments, rare kinds."""

import re
import struct

from PIL import Image

from benchmarks.imports.handmade.case import Case, Cases, cuts
from benchmarks.imports.seed_images import ORIENTATION, encoded, photo

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
FRAMES = re.compile(rb"\xff[\xc0\xc1\xc2]\0.", re.DOTALL)
MAX_SEGMENT = 65_533
SCANS = 300


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def resized(data: bytes, width: int, height: int) -> bytes:
    """With another size in the frame header."""
    found = FRAMES.search(data)
    assert found is not None
    at = found.start() + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def reframed(data: bytes, marker: int, precision: int = 8) -> bytes:
    """As another kind of JPEG: 0xC3 lossless, 0xC9 arithmetic, …"""
    found = FRAMES.search(data)
    assert found is not None
    at = found.start()
    start = data[:at] + bytes((0xFF, marker)) + data[at + 2 : at + 4]
    return start + bytes((precision,)) + data[at + 5 :]


def after_soi(data: bytes, *parts: bytes) -> bytes:
    return SOI + b"".join(parts) + data[2:]


def jpegs() -> Cases:
    good = encoded(photo(), "JPEG", quality=85)
    yield from _sizes(good)
    yield from _scans()
    yield from _segments(good)
    yield from _kinds(good)
    yield from cuts("jpeg.jpg", good, 97)
    yield from cuts("progressive.jpg", encoded(photo(), "JPEG", progressive=True), 97)


def _sizes(good: bytes) -> Cases:
    yield Case("65535x65535.jpg", resized(good, 65_535, 65_535), "reject", "pixels")
    # It has an end; what is missing before it counts as a warning to libjpeg, which fills it grey.
    yield Case("8000x8000-of-little.jpg", resized(good, 8_000, 8_000), "any")
    for width, height in ((0, 47), (61, 0), (0, 0)):
        yield Case(f"{width}x{height}.jpg", resized(good, width, height), "reject")
    yield Case("1x1.jpg", resized(good, 1, 1), "reject")
    big = Image.new("RGB", (8_000, 8_000), (200, 30, 90))
    yield Case("8000x8000.jpg", encoded(big, "JPEG"), "taken")
    yield Case("8000x8000-progressive.jpg", encoded(big, "JPEG", progressive=True), "any")
    cmyk = encoded(Image.new("CMYK", (8_000, 8_000), (9, 99, 9, 9)), "JPEG")
    yield Case("8000x8000-cmyk.jpg", cmyk, "any")


def _scans() -> Cases:
    """Scans of a progressive file again and again: each costs a walk over all blocks."""
    small = encoded(photo(), "JPEG", progressive=True)
    large = encoded(photo().resize((4_000, 4_000)), "JPEG", progressive=True, quality=5)
    black = encoded(Image.new("L", (8_000, 8_000)), "JPEG", progressive=True)
    for name, data in (("small", small), ("4000", large), ("8000", black)):
        start = data.rindex(b"\xff\xda")
        last = data[start:-2]
        yield Case(f"scans-{name}.jpg", data[:-2] + last * SCANS + EOI, "any")


def _segments(good: bytes) -> Cases:
    comment = segment(0xFE, b"x" * MAX_SEGMENT)
    yield Case("500-comments.jpg", after_soi(good, comment * 500), "any")
    icc = b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes((i, 255)) + b"x" * 60_000) for i in range(1, 256)
    )
    yield Case("icc-15mb.jpg", after_soi(good, icc), "any")
    yield Case("icc-lies.jpg", after_soi(good, segment(0xE2, b"ICC_PROFILE\0\x05\x02x")), "any")
    exif = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000)
    yield Case("exif-garbage.jpg", after_soi(good, exif), "any")
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + bytes(4)
    yield Case("exif-loop.jpg", after_soi(good, segment(0xE1, loop)), "any")
    yield Case("no-tables.jpg", re.sub(rb"\xff\xc4\0.", b"\xff\xfe\0\x05", good, count=1), "any")
    yield Case(
        "app13.jpg", after_soi(good, segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 99)), "any"
    )
    yield Case("length-0.jpg", after_soi(good, b"\xff\xe5\0\0"), "any")
    yield Case("only-soi.jpg", SOI, "reject")
    yield Case("soi-eoi.jpg", SOI + EOI, "reject")
    yield Case("tail-20mb.jpg", good + b"\0" * 20_000_000, "taken")
    yield Case("fill-bytes.jpg", after_soi(good, b"\xff" * 1_000_000), "any")
    yield Case("two-in-one.jpg", good + good, "taken")


def _kinds(good: bytes) -> Cases:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        data = encoded(photo(), "JPEG", exif=exif)
        yield Case(
            f"orientation{orientation}.jpg", data, "taken", "" if orientation == 1 else "EXIF"
        )
    for orientation in (0, 9, 65_535):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        yield Case(f"orientation{orientation}.jpg", encoded(photo(), "JPEG", exif=exif), "any")
    for marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCF):
        yield Case(f"frame-{marker:02x}.jpg", reframed(good, marker), "any")
    for bits in (1, 12, 16):
        yield Case(f"precision{bits}.jpg", reframed(good, 0xC1, bits), "any")
    two = encoded(photo(), "MPO", save_all=True, append_images=[photo(1)])
    yield Case("mpo.jpg", two, "taken")
    yield Case("cmyk.jpg", encoded(photo(0, "CMYK"), "JPEG"), "convert", "CMYK")
    plain = re.sub(rb"\xff\xee\0\x0eAdobe.{7}", b"", encoded(photo(0, "CMYK"), "JPEG"), flags=re.S)
    yield Case("cmyk-without-adobe.jpg", plain, "convert")
