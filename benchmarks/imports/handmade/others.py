"""Owns hand-made files of other formats, of formats that are not taken, and with wrong names."""

import io
import struct
import zipfile

import numpy as np
from PIL import Image

from benchmarks.imports.handmade.case import Case, Cases, Expected, cuts
from benchmarks.imports.seed_images import encoded, photo

VP8L_SIZE_AT = 21
TOO_LONG = 50_000_001


def others() -> Cases:
    yield from _gifs()
    yield from _webps()
    yield from _bmps()
    yield from _pnms()
    yield from _not_taken()
    yield from _wrong_names()


# ── GIF ──────────────────────────────────────────────────────────────────────────────────────


def gif(width: int, height: int, *frames: bytes) -> bytes:
    """A screen with a palette of two colours."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"".join(frames) + b";"


def frame(x: int, y: int, width: int, height: int, packed: bytes = b"\2\2\x4c\1\0") -> bytes:
    """One image of a GIF; packed: its LZW blocks, by default those of one pixel."""
    return b"," + struct.pack("<HHHHB", x, y, width, height, 0) + packed


def _gifs() -> Cases:
    pixel = frame(0, 0, 1, 1)
    yield Case("65535x65535.gif", gif(65_535, 65_535, pixel), "reject", "pixels")
    yield Case("8000x8000-of-a-pixel.gif", gif(8_000, 8_000, pixel), "any")
    yield Case("0x0.gif", gif(0, 0, pixel), "reject")
    yield Case("frame-larger-than-screen.gif", gif(16, 16, frame(0, 0, 60_000, 60_000)), "reject")
    yield Case("frame-outside.gif", gif(16, 16, frame(65_000, 65_000, 16, 16)), "any")
    yield Case("frame-of-0.gif", gif(16, 16, frame(0, 0, 0, 0)), "any")
    yield Case("no-frame.gif", gif(16, 16), "reject")
    yield Case("1000000-frames.gif", gif(16, 16, frame(0, 0, 16, 16), pixel * 1_000_000), "any")
    large = frame(0, 0, 8_000, 8_000)
    yield Case("1000-large-frames.gif", gif(8_000, 8_000, large * 1_000), "any")
    comments = b"!\xfe" + (b"\xff" + b"x" * 255) * 40_000 + b"\0"
    yield Case("comment-10mb.gif", gif(16, 16, comments, frame(0, 0, 16, 16)), "any")
    black = encoded(Image.new("P", (8_000, 8_000)), "GIF")
    yield Case("8000x8000.gif", black, "taken")
    yield Case("code-size-200.gif", gif(16, 16, frame(0, 0, 16, 16, b"\xc8\1\0\0")), "any")
    endless = b"\2" + (b"\xff" + b"\x24" * 255) * 40_000 + b"\0"
    yield Case("clear-codes-10mb.gif", gif(64, 64, frame(0, 0, 64, 64, endless)), "any")
    yield from cuts("gif.gif", encoded(photo(0, "P"), "GIF"), 97)


# ── WebP ─────────────────────────────────────────────────────────────────────────────────────


def _webps() -> Cases:
    lossless = bytearray(encoded(photo(), "WEBP", lossless=True))
    lossless[VP8L_SIZE_AT : VP8L_SIZE_AT + 4] = struct.pack("<I", 0x0FFFFFFF)
    yield Case("16384x16384.webp", bytes(lossless), "reject")
    animated = encoded(photo(), "WEBP", save_all=True, append_images=[photo(1)])
    yield Case("animated.webp", animated, "convert", "frame")
    for width, height in ((16_383, 16_383), (1 << 24, 1 << 24), (1, 1)):
        size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        yield Case(f"canvas-{width}.webp", animated[:24] + size + animated[30:], "reject")
    flat = Image.new("RGB", (8_000, 8_000), (9, 99, 199))
    yield Case("8000x8000.webp", encoded(flat, "WEBP", lossless=True, method=0, quality=0), "any")
    frames = [Image.new("RGB", (2_000, 2_000), (i, i, i)) for i in range(20)]
    many = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], method=0)
    yield Case("20-frames-of-2000.webp", many, "any")
    lies = animated[:4] + b"\xff\xff\xff\xff" + animated[8:]
    yield Case("length-4g.webp", lies, "any")
    yield from cuts("webp.webp", encoded(photo(), "WEBP"), 99)
    yield from cuts("webp-lossless.webp", encoded(photo(), "WEBP", lossless=True), 99)


# ── BMP ──────────────────────────────────────────────────────────────────────────────────────


def bmp(
    width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = bytes(1_000)
) -> bytes:
    colours = 4 << bits if bits <= 8 else 0
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    start = 14 + len(info) + colours
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return head + info + bytes(colours) + data


def _bmps() -> Cases:
    yield Case("plain.bmp", bmp(16, 16), "taken")
    yield Case("top-down.bmp", bmp(16, -16), "taken")
    for width, height in ((0, 16), (16, 0), (-16, 16), (2**31 - 1, 2**31 - 1), (16, -(2**31))):
        yield Case(f"{width}x{height}.bmp", bmp(width, height), "reject")
    yield Case("8000x8000-of-nothing.bmp", bmp(8_000, 8_000), "reject")
    for bits in (0, 1, 2, 3, 4, 8, 15, 16, 24, 32, 64, 65_535):
        for compression in (0, 1, 2, 3, 4, 5, 6, 2**32 - 1):
            small = bmp(16, 16, min(bits, 65), compression)
            yield Case(f"{bits}-bits-as-{compression}.bmp", small, "any")
    endless = b"\0\2\xff\xff" * 2_000_000
    yield Case("rle-deltas.bmp", bmp(16, 16, 8, 1, endless), "any")
    yield Case("rle-large.bmp", bmp(8_000, 8_000, 8, 1, b"\xff\x07" * 251_000), "any")
    for size in (0, 12, 16, 39, 64, 108, 124, 2**31, 2**32 - 1):
        plain = bmp(16, 16)
        changed = plain[:14] + struct.pack("<I", size) + plain[18:]
        yield Case(f"header-of-{size}.bmp", changed, "any")
    yield from cuts("bmp.bmp", encoded(photo(), "BMP"), 99)


# ── PNM ──────────────────────────────────────────────────────────────────────────────────────


def _pnms() -> Cases:
    pixels = bytes(16 * 16 * 3)
    yield Case("plain.ppm", b"P6 16 16 255\n" + pixels, "taken")
    yield Case("text.ppm", b"P3 16 16 255\n" + b"7 " * 768, "taken")
    yield Case("text.pbm", b"P1 16 16\n" + b"1 0 " * 128, "taken")
    yield Case("text.pgm", b"P2 16 16 65535\n" + b"65535 " * 256, "taken")
    yield Case("deep.pgm", b"P5 16 16 65535\n" + pixels, "convert")
    yield Case("depth-1023.pgm", b"P5 16 16 1023\n" + pixels, "any")
    for told in (b"99999999 99999999", b"-1 16", b"0 0", b"16", b"1e9 16"):
        name = f"size-{told.decode().replace(' ', '-')}.ppm"
        yield Case(name, b"P6 " + told + b" 255\n" + pixels, "reject")
    for most in (b"0", b"-5", b"65536", b"99999999999999999999"):
        yield Case(f"most-{most.decode()}.ppm", b"P6 16 16 " + most + b"\n" + pixels, "reject")
    yield Case("comment-20mb.ppm", b"P6 #" + b"x" * 20_000_000, "reject")
    yield Case("digits-20mb.ppm", b"P6 " + b"9" * 20_000_000, "reject")
    yield Case("text-token-20mb.ppm", b"P3 16 16 255\n" + b"9" * 20_000_000, "reject")
    yield Case("text-8000x8000.ppm", b"P2 8000 8000 9\n" + b"7 " * 20_000_000, "reject")
    for value in (np.nan, np.inf):
        floats = np.full(256, value, np.float32).tobytes()
        yield Case(f"float-{value}.pfm", b"Pf\n16 16\n-1.0\n" + floats, "reject")
    yield Case("pam.pam", b"P7\nWIDTH 16\nHEIGHT 16\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + pixels, "any")
    yield from cuts("ppm.ppm", encoded(photo(), "PPM"), 100)


# ── what is not taken, whatever Pillow could read ────────────────────────────────────────────


def _not_taken() -> Cases:
    for name, data in not_taken().items():
        yield Case(name, data, "reject")
    for suffix in ("png", "jpg", "tif"):  # a friendly name opens no door
        for name, data in not_taken().items():
            yield Case(f"{name}.{suffix}", data, "reject")


def not_taken() -> dict[str, bytes]:
    """Formats that Pillow reads or writes, and others; most of them with real pixels."""
    image, archive = photo(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("image.png", encoded(image, "PNG"))
    written = {"eps": "EPS", "pdf": "PDF", "ico": "ICO", "icns": "ICNS", "tga": "TGA", "pcx": "PCX",
               "sgi": "SGI", "jp2": "JPEG2000", "avif": "AVIF", "im": "IM", "dds": "DDS",
               "qoi": "QOI"}  # fmt: skip
    files = {f"image.{suffix}": encoded(image, kind) for suffix, kind in written.items()}
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script/></svg>'
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    ghost = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\nshowpage\n"
    return {
        **files,
        "script.eps": ghost,
        "image.svg": svg.encode(),
        "image.heic": heic,
        "image.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 16, 16, 8, 3) + bytes(900),
        "image.xpm": b'/* XPM */\nstatic char *x[] = {"16 16 1 1", "a c #000000",' + b'"a",' * 16,
        "image.wmf": b"\xd7\xcd\xc6\x9a" + bytes(200),
        "image.fits": b"SIMPLE  =                    T".ljust(2_880) + bytes(2_880),
        "image.html": b"<!doctype html><img src=x onerror=alert(1)>",
        "image.txt": b"this is not an image\n" * 50,
        "image.npy": b"\x93NUMPY\1\0" + bytes(400),
        "image.pickle": b"\x80\4\x95\x1c\0\0\0\0\0\0\0\x8c\5posix\x94\x8c\6system\x94\x93\x94.",
        "image.elf": b"\x7fELF\2\1\1" + bytes(900),
        "image.mp4": b"\0\0\0\x18ftypisom" + bytes(900),
        "image.zip": archive.getvalue(),
        "image.gz": b"\x1f\x8b\x08\0" + bytes(90),
    }


def _wrong_names() -> Cases:
    image = photo()
    taken: Expected = "taken"
    yield Case("jpeg-called.png", encoded(image, "JPEG"), taken)
    yield Case("png-called.jpg", encoded(image, "PNG"), taken)
    yield Case("gif-called.bmp", encoded(image, "GIF"), taken)
    yield Case("webp-called.jpeg", encoded(image, "WEBP"), taken)
    yield Case("upper.JPG", encoded(image, "JPEG"), taken)
    yield Case("png-without-suffix", encoded(image, "PNG"), "any")
    yield Case("empty.png", b"", "reject", "empty")
    yield Case("one-byte.png", b"\x89", "reject")
    yield Case("zeros.png", bytes(1_000_000), "reject")
    yield Case("newline-first.png", b"\n" + encoded(image, "PNG"), "reject")
    yield Case("50mb.png", encoded(image, "PNG").ljust(TOO_LONG, b"\0"), "reject", "50,000,000")
    yield Case("polyglot.gif", encoded(image, "GIF") + b"/*<script>*/" * 99, taken)
