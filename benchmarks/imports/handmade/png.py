"""Owns hand-made PNG files: bombs, missing and lying chunks, depths and kinds."""

import itertools
import struct
import zlib

from benchmarks.imports.handmade.case import Case, Cases, cuts, deflated_zeros
from benchmarks.imports.seed_images import encoded, photo

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, LA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, LA: 2, RGBA: 4}
MB = 1_000_000
END = b"\0\0\0\0IEND\xae\x42\x60\x82"


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    told = len(data) if length is None else length
    return struct.pack(">I", told) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(
    width: int, height: int, depth: int = 8, colour: int = GREY, interlaced: int = 0
) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", fields)


def zeros(width: int, height: int, depth: int = 8, colour: int = GREY) -> bytes:
    """The packed pixels of a black image."""
    row = 1 + (width * CHANNELS[colour] * depth + 7) // 8
    return chunk(b"IDAT", deflated_zeros(row * height))


def black(width: int, height: int, depth: int = 8, colour: int = GREY, extra: bytes = b"") -> bytes:
    return header(width, height, depth, colour) + extra + zeros(width, height, depth, colour) + END


def pngs() -> Cases:
    yield from _sizes()
    yield from _bombs()
    yield from _chunks()
    yield from _kinds()
    yield from cuts("png.png", encoded(photo(), "PNG"), 99)


def _sizes() -> Cases:
    yield Case("60000x60000.png", black(60_000, 60_000, 1), "reject", "pixels")
    yield Case("12000x12000.png", black(12_000, 12_000), "reject", "pixels")
    yield Case("8000x8001.png", black(8_000, 8_001, 1), "reject", "pixels")
    yield Case("8000x8000-1bit.png", black(8_000, 8_000, 1), "taken")
    yield Case("8000x8000-grey.png", black(8_000, 8_000), "taken")
    yield Case("8000x8000-rgb.png", black(8_000, 8_000, 8, RGB), "any")
    yield Case("8000x8000-rgba.png", black(8_000, 8_000, 8, RGBA), "any")
    yield Case("8000x8000-rgba16.png", black(8_000, 8_000, 16, RGBA), "any")
    yield Case("8000x8000-grey16.png", black(8_000, 8_000, 16), "any")
    yield Case("8000x8000-palette-alpha.png", _transparent(8_000), "any")
    yield Case("wide.png", black(1_000_000, 4), "any")
    yield Case("tall.png", black(4, 1_000_000), "any")
    for width, height in ((0, 10), (10, 0), (2**31, 1), (2**32 - 1, 2**32 - 1), (1, 1), (3, 50)):
        yield Case(f"{width}x{height}.png", header(width, height) + zeros(1, 1) + END, "reject")


def _transparent(side: int) -> bytes:
    palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(range(256)))
    return black(side, side, 8, PALETTE, palette)


def _bombs() -> Cases:
    bomb = deflated_zeros(1_000 * MB)
    small = black(16, 16)
    body, good = small[33:], small[:33]
    yield Case("iccp-bomb.png", good + chunk(b"iCCP", b"x\0\0" + bomb) + body, "any")
    yield Case("ztxt-bomb.png", good + chunk(b"zTXt", b"x\0\0" + bomb) + body, "any")
    yield Case("itxt-bomb.png", good + chunk(b"iTXt", b"x\0\1\0\0\0" + bomb) + body, "any")
    yield Case("ztxt-bomb-behind.png", small[:-12] + chunk(b"zTXt", b"x\0\0" + bomb) + END, "any")
    texts = b"".join(chunk(b"tEXt", b"key%d\0value" % i) for i in range(200_000))
    yield Case("200000-texts.png", good + texts + body, "any")
    medium = chunk(b"zTXt", b"x\0\0" + deflated_zeros(MB // 2)) * 500
    yield Case("500-ztxt.png", good + medium + body, "any")
    more = header(16, 16) + chunk(b"IDAT", bomb) + END
    yield Case("more-pixels-than-told.png", more, "any")
    empty = header(16, 16) + chunk(b"IDAT", b"") * 200_000 + zeros(16, 16) + END
    yield Case("200000-empty-idat.png", empty, "any")
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0" + b"\xff" * 60_000)
    yield Case("exif-garbage.png", good + exif + body, "any")


def _chunks() -> Cases:
    pixels = zeros(16, 16)
    yield Case("palette-without-plte.png", black(16, 16, 8, PALETTE), "any")
    yield Case("plte-of-one.png", black(16, 16, 8, PALETTE, chunk(b"PLTE", b"\1\2\3")), "taken")
    yield Case("plte-too-long.png", black(16, 16, 8, PALETTE, chunk(b"PLTE", bytes(9000))), "any")
    yield Case("no-idat.png", header(16, 16) + END, "reject")
    yield Case("no-header.png", SIGNATURE + pixels + END, "reject")
    yield Case("two-headers.png", header(16, 16) + header(9000, 9000)[8:] + pixels + END, "any")
    yield Case("no-end.png", header(16, 16) + pixels, "any")
    yield Case("only-signature.png", SIGNATURE, "reject")
    long = header(16, 16) + chunk(b"tEXt", b"x\0y", 0x7FFFFFFF) + pixels + END
    yield Case("length-2g.png", long, "reject")
    yield Case("length-4g.png", header(16, 16) + chunk(b"IDAT", b"", 0xFFFFFFFF) + END, "reject")
    yield Case("bad-crc.png", header(16, 16)[:-1] + b"x" + pixels + END, "reject")
    yield Case("pixels-cut.png", header(64, 64) + zeros(16, 16) + END, "reject")
    yield Case("pixels-garbage.png", header(16, 16) + chunk(b"IDAT", b"\xa5" * 50) + END, "reject")
    for depth, colour in ((3, 0), (16, 3), (4, 2), (8, 1), (8, 7), (0, 0), (64, 2)):
        data = header(16, 16, depth, colour) + pixels + END
        yield Case(f"depth{depth}-colour{colour}.png", data, "reject")
    yield Case("filter-9.png", _rows(b"\x09" + bytes(16)), "any")
    yield Case("method-9.png", header(16, 16)[:26] + b"\x09" + header(16, 16)[27:], "reject")


def _rows(row: bytes) -> bytes:
    return header(16, 16) + chunk(b"IDAT", zlib.compress(row * 16)) + END


def _kinds() -> Cases:
    for depth, colour in itertools.chain(
        ((d, GREY) for d in (1, 2, 4, 8, 16)), ((d, c) for d in (8, 16) for c in (RGB, LA, RGBA))
    ):
        yield Case(f"grey{depth}-{colour}.png", black(16, 16, depth, colour), "taken")
    for depth in (1, 2, 4, 8):
        data = black(16, 16, depth, PALETTE, chunk(b"PLTE", bytes(3 << depth)))
        yield Case(f"palette{depth}.png", data, "convert")
    interlaced = header(1, 1, interlaced=1) + chunk(b"IDAT", zlib.compress(b"\0\7")) + END
    yield Case("interlaced-1x1.png", interlaced, "reject", "small")
    yield Case("interlaced.png", _adam7(16), "taken")
    yield Case("animated.png", encoded(photo(), "PNG", save_all=True, append_images=[photo(1)]),
               "convert", "frame")  # fmt: skip
    for count in (0, 1, 2**31, 2**32 - 1):
        control = chunk(b"acTL", struct.pack(">II", count, 0))
        yield Case(f"animated-{count}-told.png", black(16, 16, extra=control), "any")


def _adam7(side: int) -> bytes:
    """A black interlaced image."""
    passes = ((8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0),
              (1, 2, 0, 1))  # fmt: skip
    sizes = [(-(-(side - x) // dx), -(-(side - y) // dy)) for dx, dy, x, y in passes]
    rows = bytes(sum((1 + width) * height for width, height in sizes))
    return header(side, side, interlaced=1) + chunk(b"IDAT", zlib.compress(rows)) + END
