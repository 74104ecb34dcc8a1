"""Owns turning uint8 pixels into image files: PNG by its own writer, WebP and JPEG by Pillow.

Pillow spends 316 µs on a 28×28 PNG; an "up" filter in numpy and one deflate by isal take a
tenth of that, and text chunks come for free.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal

import isal
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

Format = Literal["png", "webp", "jpeg"]
MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

# Part of the certificate: another encoder may write other bytes for the same pixels.
ENCODER = f"up, isal {isal.__version__}, level 1"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_COLOUR_TYPES = {1: 0, 3: 2}  # grey, RGB
_LEVEL = 1
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def encode(
    pixels: NDArray[np.uint8], format: Format = "png", metadata: Mapping[str, Any] | None = None
) -> bytes:
    """pixels uint8 (H, W, C), C = 1 or 3 → the bytes of an image file.

    metadata: stored in PNG as JSON under `noisewell`, as a readable line under `parameters`, and
    with the machine-readable mark of a generated image in XMP. WebP and JPEG get the XMP alone.
    """
    return encode_png(pixels, metadata) if format == "png" else _by_pillow(pixels, format)


def encode_png(pixels: NDArray[np.uint8], metadata: Mapping[str, Any] | None = None) -> bytes:
    """pixels uint8 (H, W, C), C = 1 or 3 → PNG bytes; equal input gives equal bytes."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the format wants
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    data = isal_zlib.compress(filtered.data, level=_LEVEL)
    text = _text_chunks(metadata) if metadata is not None else b""
    return b"".join(
        (_SIGNATURE, _chunk(b"IHDR", header), text, _chunk(b"IDAT", data), _chunk(b"IEND", b""))
    )


def _text_chunks(metadata: Mapping[str, Any]) -> bytes:
    line = ", ".join(f"{key}: {value}" for key, value in metadata.items() if value is not None)
    stored = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
    return _itxt("noisewell", stored) + _itxt("parameters", line) + _XMP_CHUNK


def _itxt(keyword: str, text: str) -> bytes:
    return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)))


_XMP_CHUNK = _itxt("XML:com.adobe.xmp", _XMP)


def _by_pillow(pixels: NDArray[np.uint8], format: Format) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.save(buffer, format.upper(), quality=90, xmp=_XMP.encode())
    return buffer.getvalue()
