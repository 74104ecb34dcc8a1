"""Owns IDX files, the format of MNIST and its kin: images, and the labels that lie beside them."""

import gzip
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.data.arrays import Part, check_count, check_labels
from training.data.dataset import DataError
from training.data.folders import plain_file

IMAGES = re.compile(r"(.*)images([-.])idx[34]-ubyte(\.gz)?")
LABELS_FORM = "{0}labels{1}idx1-ubyte"
# Only bytes are pixels; labels may be any whole number. IDX is big-endian.
PIXELS = 0x08
KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}
MAX_DIMENSIONS = 4
BLOCK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class _Header:
    kind: int
    shape: tuple[int, ...]

    @property
    def offset(self) -> int:
        """Where the values begin."""
        return 4 + 4 * len(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of the header and all that it announces."""
        return self.offset + math.prod(self.shape) * np.dtype(KINDS[self.kind]).itemsize


def is_idx_images(name: str) -> bool:
    """Whether a file has the usual name of IDX images, such as train-images-idx3-ubyte.gz."""
    return IMAGES.fullmatch(name) is not None


def set_of(name: str) -> str:
    """What the names of a set's training and test images have in common."""
    return re.sub(r"(^|[-_.])(train|t10k|test)(?=[-_.])", r"\1", name.removesuffix(".gz"))


def open_idx(path: Path, max_files: int, max_bytes: int, scratch: Path) -> Part:
    """The images of an IDX file, and the labels beside it if there are any.

    What is gzipped is unpacked into `scratch`, to the length that its header announces and no
    further. Raises DataError for anything that is not exactly as long as it says.
    """
    images = _mapped(path, max_files, max_bytes, scratch / f"{path.name}.images")
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise DataError(
            f"{path.name!r} holds {images.dtype} of shape {images.shape}; expected unsigned bytes"
            " of shape (N, H, W) or (N, H, W, C)."
        )
    beside = labels_beside(path)
    if beside is None:
        return Part(path.name, images, None)
    labels = _mapped(beside, max_files, max_bytes, scratch / f"{path.name}.labels")
    return Part(path.name, images, check_labels(beside.name, np.asarray(labels), len(images)))


def labels_beside(images: Path) -> Path | None:
    """The labels of the images `images`: of the same name but for images → labels, idx3 → idx1."""
    if (match := IMAGES.fullmatch(images.name)) is None:
        return None
    name = LABELS_FORM.format(match[1], match[2])
    found = (images.with_name(name + end) for end in (match[3] or "", ".gz", ""))
    return next((path for path in found if path.is_file()), None)


def _mapped(path: Path, max_files: int, max_bytes: int, unpacked: Path) -> NDArray[Any]:
    """The array of an IDX file, mapped from the disk; raises DataError."""
    with plain_file(path) as f:
        is_packed = f.read(2) == GZIP_MAGIC
        f.seek(0)
        if not is_packed:
            return _map(path.name, f, _checked_header(path.name, f, max_files, max_bytes))
        with unpacked.open("w+b") as target:
            header = _unpack(path.name, f, target, max_files, max_bytes)
            return _map(path.name, target, header)


def _unpack(name: str, f: BinaryIO, target: BinaryIO, max_files: int, max_bytes: int) -> _Header:
    """Write the IDX file inside a gzip to `target`, no longer than one byte too long."""
    try:
        with gzip.GzipFile(fileobj=f) as plain:
            header = _checked_header(name, plain, max_files, max_bytes)
            plain.seek(0)
            left = header.num_bytes + 1
            while left and (block := plain.read(min(left, BLOCK_BYTES))):
                target.write(block)
                left -= len(block)
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{name!r} is a damaged gzip file ({e}); get it again.") from e
    target.flush()
    return header


def _checked_header(
    name: str, f: BinaryIO | gzip.GzipFile, max_files: int, max_bytes: int
) -> _Header:
    header = _read_header(name, f)
    check_count(name, header.shape[0], max_files)
    if header.num_bytes > max_bytes:
        raise DataError(
            f"{name!r} announces {header.num_bytes:,} bytes; max_bytes allows {max_bytes:,}."
        )
    return header


def _read_header(name: str, f: BinaryIO | gzip.GzipFile) -> _Header:
    magic = f.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise DataError(f"{name!r} is not an IDX file: it begins with {magic!r}; get it again.")
    if magic[2] not in KINDS:
        raise DataError(
            f"{name!r} holds IDX values of type {magic[2]:#04x}; expected whole numbers, for images"
            " unsigned bytes (0x08)."
        )
    sides = f.read(4 * magic[3])
    if len(sides) < 4 * magic[3]:
        raise DataError(f"{name!r} ends within its header; get it again.")
    return _Header(magic[2], struct.unpack(f">{magic[3]}I", sides))


def _map(name: str, f: BinaryIO, header: _Header) -> NDArray[Any]:
    size = os.fstat(f.fileno()).st_size
    if size != header.num_bytes:
        raise DataError(
            f"{name!r} is {'longer' if size > header.num_bytes else 'shorter'} than the"
            f" {header.num_bytes:,} bytes that its header announces; get it again."
        )
    if 0 in header.shape:  # nothing to map
        return np.empty(header.shape, KINDS[header.kind])
    return np.memmap(f, KINDS[header.kind], "r", header.offset, header.shape)
