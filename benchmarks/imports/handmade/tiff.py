"""Owns hand-made TIFF files: lying tags, loops, bombs, tiles, predictors, samples of every kind."""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from benchmarks.imports.handmade.case import Case, Cases, cuts, deflated_zeros
from benchmarks.imports.seed_images import encoded, photo

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR = 273, 277, 278, 279, 284
PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = (
    317,
    320,
    322,
    323,
    324,
    325,
)
SUB_IFDS, FORMAT, ORIENTATION = 330, 339, 274
SHORT, LONG = 3, 4
NONE, LZW, OLD_JPEG, JPEG, DEFLATE, PACKBITS = 1, 5, 6, 7, 8, 32_773
MOST = 0xFFFFFFFF
FORMATS = {1: "unsigned", 2: "signed", 3: "float"}


@dataclass(frozen=True)
class Tag:
    """count: None for as many as there are values."""

    number: int
    values: tuple[int, ...]
    kind: int = LONG
    count: int | None = None


def tiff(tags: Iterable[Tag], data: bytes, next_at: int = 0, order: str = "<") -> bytes:
    """A file whose pixels come first, at 8; values that do not fit into a tag follow them."""
    listed = sorted(tags, key=lambda tag: tag.number)
    body = bytearray(data + bytes(len(data) % 2))
    entries = [_entry(tag, body, order) for tag in listed]
    at = 8 + len(body)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", at)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries)
    return head + bytes(body) + directory + struct.pack(f"{order}I", next_at)


def _entry(tag: Tag, body: bytearray, order: str) -> bytes:
    code = {SHORT: "H", LONG: "I"}.get(tag.kind, "B")
    packed = struct.pack(f"{order}{len(tag.values)}{code}", *tag.values)
    count = len(tag.values) if tag.count is None else tag.count
    if len(packed) > 4:
        at = 8 + len(body)
        body.extend(packed + bytes(len(packed) % 2))
        packed = struct.pack(f"{order}I", at)
    return struct.pack(f"{order}HHI", tag.number, tag.kind, count) + packed.ljust(4, b"\0")


def grey(width: int, height: int, data: bytes, *more: Tag, **options: Any) -> bytes:
    """One channel of 8 bits in one strip; `more` replaces tags."""
    plain = [
        Tag(WIDTH, (width,)), Tag(HEIGHT, (height,)), Tag(BITS, (8,), SHORT),
        Tag(COMPRESSION, (NONE,), SHORT), Tag(PHOTOMETRIC, (1,), SHORT), Tag(OFFSETS, (8,)),
        Tag(SAMPLES, (1,), SHORT), Tag(ROWS, (height,)), Tag(COUNTS, (len(data),)),
    ]  # fmt: skip
    tags = {tag.number: tag for tag in (*plain, *more)}
    return tiff(tags.values(), data, **options)


def tiffs() -> Cases:
    yield from _sizes()
    yield from _directories()
    yield from _bombs()
    yield from _strips()
    yield from _tiles()
    yield from _samples()
    yield from _written()
    yield from cuts("tiff.tif", encoded(photo(), "TIFF"), 96)
    yield from cuts("tiff-lzw.tif", encoded(photo(), "TIFF", compression="tiff_lzw"), 0)


def _sizes() -> Cases:
    pixels = bytes(256)
    yield Case("plain.tif", grey(16, 16, pixels), "taken")
    yield Case("plain-big-endian.tif", grey(16, 16, pixels, order=">"), "taken")
    for width, height in ((0, 16), (16, 0), (MOST, MOST), (1 << 31, 1), (60_000, 60_000)):
        yield Case(f"{width}x{height}.tif", grey(width, height, pixels), "reject")
    yield Case("8000x8000-of-nothing.tif", grey(8_000, 8_000, pixels), "reject")
    deflated = deflated_zeros(64_000_000)
    compression = Tag(COMPRESSION, (DEFLATE,), SHORT)
    yield Case("8000x8000-deflate.tif", grey(8_000, 8_000, deflated, compression), "taken")


def _directories() -> Cases:
    pixels = bytes(256)
    plain = grey(16, 16, pixels)
    at = struct.unpack("<I", plain[4:8])[0]
    yield Case("next-is-itself.tif", grey(16, 16, pixels, next_at=at), "any")
    yield Case("next-is-nowhere.tif", grey(16, 16, pixels, next_at=MOST), "any")
    yield Case("first-is-nowhere.tif", b"II*\0" + struct.pack("<I", MOST) + plain[8:], "reject")
    yield Case("first-is-the-head.tif", b"II*\0\0\0\0\0" + plain[8:], "reject")
    yield Case("first-is-in-pixels.tif", b"II*\0\x08\0\0\0" + b"\xff" * 900, "reject")
    yield Case("65535-tags.tif", plain[:at] + b"\xff\xff" + plain[at + 2 :], "any")
    loop = Tag(SUB_IFDS, (at + 1,))
    yield Case("sub-ifd-loop.tif", grey(16, 16, pixels, loop), "any")
    exif = Tag(34_665, (8 + 256,))
    yield Case("exif-is-itself.tif", grey(16, 16, pixels, exif), "any")
    for count in (MOST, 1 << 31, 50_000_000):
        for number in (270, OFFSETS, BITS, COLOURS, 34_675, 700):
            tag = Tag(number, (8,), LONG, count)
            yield Case(f"tag{number}-of-{count}.tif", grey(16, 16, pixels, tag), "any")
    text = Tag(270, tuple(b"x" * 30_000_000), 2)
    yield Case("tag-of-30mb.tif", grey(16, 16, pixels, text), "any")
    yield Case("0-tags.tif", tiff([], pixels), "reject")
    yield Case("200000-pages.tif", _pages(plain, at, 200_000), "any")


def _pages(plain: bytes, at: int, count: int) -> bytes:
    """The same page again and again, each with a directory of its own."""
    directory = plain[at:-4]
    size = len(directory) + 4
    pages = [directory + struct.pack("<I", at + (i + 1) * size) for i in range(count - 1)]
    return plain[:at] + b"".join(pages) + directory + bytes(4)


def _bombs() -> Cases:
    zeros = deflated_zeros(1_000_000_000)
    deflate = Tag(COMPRESSION, (DEFLATE,), SHORT)
    yield Case("strip-of-1gb.tif", grey(64, 64, zeros, deflate), "any")
    rgb = (Tag(BITS, (16,) * 4, SHORT), Tag(SAMPLES, (4,), SHORT), Tag(PHOTOMETRIC, (2,), SHORT))
    yield Case("8000x8000-rgba16.tif", grey(8_000, 8_000, zeros, deflate, *rgb), "any")
    tall = Tag(ROWS, (1 << 30,))
    yield Case("rows-of-1g.tif", grey(64, 64, zeros, deflate, tall), "any")
    for code in (LZW, PACKBITS, 2, 3, 4, OLD_JPEG, JPEG, 34_676, 34_712, 34_925, 50_000, 50_001):
        told = Tag(COMPRESSION, (code,), SHORT)
        yield Case(f"noise-as-{code}.tif", grey(64, 64, b"\xa5\x5a\x80" * 999, told), "any")
        large = grey(8_000, 8_000, b"\x80\0" * 20_000, told)
        yield Case(f"large-noise-as-{code}.tif", large, "any")


def _strips() -> Cases:
    for count in (2_000_000, 5_000_000):
        rows = (Tag(OFFSETS, (8,) * count), Tag(COUNTS, (16,) * count), Tag(ROWS, (1,)))
        yield Case(f"{count}-strips.tif", grey(16, count, bytes(16), *rows), "any")
    same = (Tag(OFFSETS, (8,) * 8_000), Tag(COUNTS, (8_000,) * 8_000), Tag(ROWS, (1,)))
    yield Case("8000-strips-of-one.tif", grey(8_000, 8_000, bytes(8_000), *same), "any")
    yield Case("rows-0.tif", grey(16, 16, bytes(256), Tag(ROWS, (0,))), "any")
    yield Case("offset-nowhere.tif", grey(16, 16, bytes(256), Tag(OFFSETS, (MOST,))), "reject")
    yield Case("offset-is-head.tif", grey(16, 16, bytes(256), Tag(OFFSETS, (0,))), "any")
    yield Case("count-4g.tif", grey(16, 16, bytes(256), Tag(COUNTS, (MOST,))), "any")
    yield Case("count-0.tif", grey(16, 16, bytes(256), Tag(COUNTS, (0,))), "any")


def _tiles() -> Cases:
    for side in (0, 1, 15, 16, 1 << 16, 1 << 31, MOST):
        tags = (Tag(TILE_WIDTH, (side,)), Tag(TILE_HEIGHT, (side,)), Tag(TILE_OFFSETS, (8,)),
                Tag(TILE_COUNTS, (256,)))  # fmt: skip
        yield Case(f"tile-of-{side}.tif", grey(16, 16, bytes(256), *tags), "any")
        large = (Tag(COMPRESSION, (DEFLATE,), SHORT), *tags)
        packed = zlib.compress(bytes(256))
        yield Case(f"deflated-tile-of-{side}.tif", grey(16, 16, packed, *large), "any")
    one = (Tag(TILE_WIDTH, (16,)), Tag(TILE_HEIGHT, (16,)), Tag(TILE_OFFSETS, (8,) * 250_000),
           Tag(TILE_COUNTS, (256,) * 250_000))  # fmt: skip
    yield Case("250000-tiles.tif", grey(8_000, 8_000, bytes(256), *one), "any")


def _samples() -> Cases:
    for bits in (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64, 65_535):
        for kind, name in FORMATS.items():
            tags = (Tag(BITS, (bits,), SHORT), Tag(FORMAT, (kind,), SHORT))
            data = grey(16, 16, bytes(16 * 16 * min(8, -(-bits // 8) or 1)), *tags)
            yield Case(f"{name}{bits}.tif", data, "taken" if (bits, kind) == (16, 1) else "any")
    for count in (0, 2, 5, 255, 65_535):
        tags = (Tag(SAMPLES, (count,), SHORT), Tag(BITS, (8,) * max(1, count), SHORT))
        yield Case(f"{count}-samples.tif", grey(16, 16, bytes(256 * count), *tags), "any")
    for value in (np.nan, np.inf, -1e38):
        pixels = np.full((16, 16), value, np.float32).tobytes()
        tags = (Tag(BITS, (32,), SHORT), Tag(FORMAT, (3,), SHORT))
        yield Case(f"float-{value}.tif", grey(16, 16, pixels, *tags), "reject")
    for photometric in (0, 3, 4, 5, 6, 8, 9, 32_803, 34_892, 65_535):
        tag = Tag(PHOTOMETRIC, (photometric,), SHORT)
        yield Case(f"photometric-{photometric}.tif", grey(16, 16, bytes(256), tag), "any")
    for predictor in (0, 2, 3, 4, 65_535):
        for code in (NONE, LZW, DEFLATE):
            tags = (Tag(PREDICTOR, (predictor,), SHORT), Tag(COMPRESSION, (code,), SHORT))
            data = grey(16, 16, zlib.compress(bytes(256)), *tags)
            yield Case(f"predictor{predictor}-as-{code}.tif", data, "any")
    planes = (
        Tag(PLANAR, (2,), SHORT),
        Tag(SAMPLES, (3,), SHORT),
        Tag(BITS, (8,) * 3, SHORT),
        Tag(PHOTOMETRIC, (2,), SHORT),
        Tag(OFFSETS, (8,) * 3),
        Tag(COUNTS, (256,) * 3),
    )
    yield Case("planes.tif", grey(16, 16, bytes(256), *planes), "taken")
    for orientation in (*range(1, 9), 0, 65_535):
        tag = Tag(ORIENTATION, (orientation,), SHORT)
        expected = "taken" if 1 <= orientation <= 8 else "any"
        yield Case(f"orientation{orientation}.tif", grey(16, 20, bytes(320), tag), expected)


def _written() -> Cases:
    """What Pillow itself writes; all of it is fine."""
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        yield Case(f"{name}.tif", encoded(photo(), "TIFF", compression=name), "taken")
    for name in ("group3", "group4", "tiff_ccitt"):
        yield Case(f"{name}.tif", encoded(photo(0, "1"), "TIFF", compression=name), "taken")
    yield Case("big.tif", encoded(photo(), "TIFF", big_tiff=True), "taken")
    yield Case("i16-lzw.tif", encoded(photo(0, "I;16"), "TIFF", compression="tiff_lzw"), "convert")
    jpeg = bytearray(encoded(photo(), "TIFF", compression="jpeg"))
    jpeg[len(jpeg) // 2 : len(jpeg) // 2 + 99] = b"\xff" * 99
    yield Case("jpeg-inside-broken.tif", bytes(jpeg), "any")
    predictor = TiffImagePlugin.ImageFileDirectory_v2()
    predictor[PREDICTOR] = 2
    data = encoded(photo(), "TIFF", compression="tiff_lzw", tiffinfo=predictor)
    yield Case("lzw-predictor.tif", data, "taken")
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(
        buffer, "TIFF", save_all=True, append_images=[Image.new("L", (16, 16))] * 300
    )
    yield Case("300-pages.tif", buffer.getvalue(), "convert", "frame|page")
