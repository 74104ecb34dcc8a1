"""Owns answers of many images, made part by part: npy, zip, NDJSON, JSON, or one picture of all.

Parts may be made in any order and any thread; their bytes are joined in order. What is kept of an
image that has left is 8 bytes for a zip and nothing for the others.
"""

import json
import math
from binascii import b2a_base64
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from struct import pack
from typing import Any, Protocol

import numpy as np
from isal import isal_zlib

from app import png
from app.ask import Ask
from app.errors import UnavailableError
from training.model.sampling import Classes, Pixels

Data = bytes | memoryview

_PIECE = 1024  # files of a zip's directory that are written at a time
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_DATE = 33  # 1 January 1980, the first day a zip can name: the same files give the same bytes
_FILE_MODE = 0o100644


class Writer(Protocol):
    """Makes a body out of parts of images. length: of all of it, where that is known before."""

    media_type: str
    length: int | None

    def part(self, images: Pixels, c: Classes, start: int) -> Data:
        """The bytes of images (k, H, W, C) that are the start-th and following."""
        ...

    def end(self) -> Iterator[bytes]:
        """What follows the last part."""
        ...


class Places:
    """How many things are done at once, counted on the event loop alone."""

    def __init__(self) -> None:
        self._taken = 0

    @contextmanager
    def taken(self, limit: int) -> Generator[None]:
        """Hold one of `limit` places. Raises UnavailableError when there is none."""
        if self._taken >= limit:
            raise UnavailableError(
                f"{limit} answers of many images are being sent, as many as max_image_streams "
                "allows; come back later, or ask for max_batch_size images or fewer",
                retry_after_sec=5,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Npy:
    """uint8 (n, H, W, C), as `np.save` writes it: a header, and the pixels as they are."""

    media_type = "application/octet-stream"

    def __init__(self, ask: Ask, n: int, format: png.Format) -> None:
        config = ask.loaded.sampler.config
        shape = (n, config.img_resolution, config.img_resolution, config.img_channels)
        header = BytesIO()
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, about)
        self._header = header.getvalue()
        self.length: int | None = len(self._header) + math.prod(shape)

    def part(self, images: Pixels, c: Classes, start: int) -> Data:
        pixels = np.ascontiguousarray(images).data.cast("B")
        return pixels if start else b"".join((self._header, pixels))

    def end(self) -> Iterator[bytes]:
        return iter(())


class Zip:
    """A file for each image, numbered, so that seeds may repeat."""

    media_type = "application/zip"
    length: int | None = None

    def __init__(self, ask: Ask, n: int, format: png.Format) -> None:
        self._ask = ask
        self._format: png.Format = format
        self._zip = StoredZip(n, self._name)

    def part(self, images: Pixels, c: Classes, start: int) -> Data:
        return self._zip.files(start, files(self._ask, images, c, start, self._format))

    def end(self) -> Iterator[bytes]:
        return self._zip.end()

    def _name(self, i: int) -> str:
        seed = self._ask.seed(i)
        return f"{i:06d}.{self._format}" if seed is None else f"{i:06d}-seed-{seed}.{self._format}"


class Ndjson:
    """A JSON object for each image, on a line of its own."""

    media_type = "application/x-ndjson"
    length: int | None = None

    def __init__(self, ask: Ask, n: int, format: png.Format) -> None:
        self._ask = ask
        self._format: png.Format = format

    def part(self, images: Pixels, c: Classes, start: int) -> Data:
        return b"".join(_lines(self._ask, images, c, start, self._format))

    def end(self) -> Iterator[bytes]:
        return iter(())


class Json:
    """One JSON object, with the same object for each image under `data`."""

    media_type = "application/json"
    length: int | None = None

    def __init__(self, ask: Ask, n: int, format: png.Format) -> None:
        self._ask = ask
        self._format: png.Format = format
        loaded = ask.loaded
        about = {"model": loaded.model, "version": loaded.version, "digest": loaded.digest}
        self._head = json.dumps(about)[:-1].encode() + b', "data": [\n'

    def part(self, images: Pixels, c: Classes, start: int) -> Data:
        objects = b",".join(_lines(self._ask, images, c, start, self._format))
        return (b"," if start else self._head) + objects

    def end(self) -> Iterator[bytes]:
        yield b"]}"


def files(ask: Ask, images: Pixels, c: Classes, start: int, format: png.Format) -> list[bytes]:
    """The image files of (k, H, W, C) that are the start-th and following of `ask`."""
    metadatas = [ask.metadata(i, of) for i, of in enumerate(c, start)]
    if format == "png":
        return png.encode_many(images, metadatas)
    pairs = zip(images, metadatas, strict=True)
    return [png.encode(pixels, format, metadata) for pixels, metadata in pairs]


def _lines(ask: Ask, images: Pixels, c: Classes, start: int, format: png.Format) -> Iterator[bytes]:
    encoded = files(ask, images, c, start, format)
    for i, (data, of) in enumerate(zip(encoded, c, strict=True), start):
        told: dict[str, Any] = {"seed": ask.seed(i), "class": ask.class_name(of)}
        if ask.tells_latents:
            told["latent"] = ask.part(slice(i, i + 1)).whole_latents()[0].tolist()
        about = json.dumps(told)
        base64 = b2a_base64(data, newline=False)
        yield b"".join((about[:-1].encode(), b', "b64_json": "', base64, b'"}\n'))


class Grid:
    """One picture (rows·H, columns·W, C) of n images, filled as they come; what is empty is black.

    The layout is the squarest, row by row, as `make_grid` has it. Parts may be put by any thread.
    """

    def __init__(self, n: int, height: int, width: int, channels: int) -> None:
        self._columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / self._columns)
        self.pixels: Pixels = np.zeros((rows * height, self._columns * width, channels), np.uint8)
        by_cell = self.pixels.reshape(rows, height, self._columns, width, channels)
        self._cells = by_cell.swapaxes(1, 2)  # (rows, columns, H, W, C)

    def put(self, images: Pixels, start: int) -> None:
        """Show (k, H, W, C) as the start-th and following."""
        at = np.arange(start, start + len(images))
        self._cells[at // self._columns, at % self._columns] = images


class StoredZip:
    """A zip of n files as they are, written front to back, in 8 bytes of memory a file.

    zipfile can write to a pipe too, but keeps 420 bytes a file and writes sizes behind the files,
    where a reader that unpacks while it receives cannot see them. `name(i)` is ASCII.
    """

    def __init__(self, n: int, name: Callable[[int], str]) -> None:
        self._name = name
        self._crcs = np.zeros(n, np.uint32)
        self._sizes = np.zeros(n, np.uint32)

    def files(self, start: int, files: Sequence[bytes]) -> bytes:
        """The start-th and following files, each after its header; callable from any thread."""
        pieces: list[bytes] = []
        for i, data in enumerate(files, start):
            pieces += (self.header(i, isal_zlib.crc32(data), len(data)), data)
        return b"".join(pieces)

    def header(self, i: int, crc: int, size: int) -> bytes:
        """What stands before the i-th file, of `size` < 2^32 bytes."""
        self._crcs[i], self._sizes[i] = crc, size
        name = self._name(i).encode("ascii")
        fields = (20, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
        return b"PK\3\4" + pack("<5H3L2H", *fields) + name

    def end(self) -> Iterator[bytes]:
        """The directory, a piece at a time; to be called when every file was written."""
        offset = size = 0
        for start in range(0, len(self._sizes), _PIECE):
            records: list[bytes] = []
            for i in range(start, min(start + _PIECE, len(self._sizes))):
                records.append(self._record(i, offset))
                offset += 30 + len(self._name(i)) + int(self._sizes[i])
            piece = b"".join(records)
            size += len(piece)
            yield piece
        yield _end_of_zip(len(self._sizes), size, offset)

    def _record(self, i: int, offset: int) -> bytes:
        name, file_size = self._name(i).encode("ascii"), int(self._sizes[i])
        extra = pack("<2HQ", 1, 8, offset) if offset >= _MAX_32 else b""  # zip64: beyond 4 GiB
        version = 45 if extra else 20
        fields = (3 << 8 | version, version, 0, 0, 0, _DATE, int(self._crcs[i]))
        lengths = (file_size, file_size, len(name), len(extra), 0, 0, 0)
        place = (_FILE_MODE << 16, min(offset, _MAX_32))
        return b"PK\1\2" + pack("<6H3L5H2L", *fields, *lengths, *place) + name + extra


def _end_of_zip(n: int, size: int, offset: int) -> bytes:
    """The last record, after the two of zip64 where 16 and 32 bits cannot count what there is."""
    counts = (min(n, _MAX_16), min(n, _MAX_16), min(size, _MAX_32), min(offset, _MAX_32))
    end = b"PK\5\6" + pack("<4H2LH", 0, 0, *counts, 0)
    if n < _MAX_16 and max(size, offset) < _MAX_32:
        return end
    zip64 = b"PK\6\6" + pack("<Q2H2L4Q", 44, 45, 45, 0, 0, n, n, size, offset)
    return zip64 + b"PK\6\7" + pack("<LQL", 0, offset + size, 1) + end
