"""Owns how a packed dataset is written: image by image, so that memory does not grow with it."""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import FORMAT, ContentHash, is_held_out
from training.data.rows import open_rows
from training.model.files import write_json

BUFFER_BYTES = 1 << 20
IMAGES = "images.npy"


class Packer:
    """Appends images to `folder`/images.npy; `finish` writes the rest once they are all there."""

    def __init__(
        self,
        folder: Path,
        resolution: int,
        channels: int,
        class_names: Sequence[str],
        expected: int = 0,
    ) -> None:
        """expected: how many images will come; if just as many do, their hash is there with them.

        Otherwise they are read once more for it, since it begins with their number.
        """
        self.resolution, self.channels = resolution, channels
        self.class_names = tuple(class_names)
        self._folder = folder
        self._shape = (resolution, resolution, channels)
        self._labels = array("q")
        self._heldout = bytearray()
        self._expected = expected
        self._hash = ContentHash((expected, *self._shape), class_names)
        self._file = (folder / IMAGES).open("wb", buffering=BUFFER_BYTES)
        self._header_bytes = self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._heldout)

    def add(self, pixels: NDArray[np.uint8], label: int | None, digest: bytes) -> None:
        """pixels: uint8 (resolution, resolution, channels); digest: their SHA-256."""
        self._file.write(np.ascontiguousarray(pixels).data)
        if self._expected:
            self._hash.add(pixels)
        self._heldout.append(is_held_out(digest))
        if label is not None:
            self._labels.append(label)

    def expect_fewer(self) -> None:
        """An image that was expected does not come."""
        self._expected = 0

    def counts(self) -> dict[str, int]:
        """Images of each class so far."""
        found = np.bincount(np.array(self._labels, np.int64), minlength=len(self.class_names))
        return {name: int(found[i]) for i, name in enumerate(self.class_names)}

    def labels(self) -> NDArray[np.int64] | None:
        """int64 (N,), None without classes."""
        return np.array(self._labels, np.int64) if self.class_names else None

    def finish_images(self) -> Path:
        """No image comes any more; returns their file, which can be read from now on."""
        if not self._file.closed:
            self._file.seek(0)
            assert self._write_header() == self._header_bytes, "numpy leaves room for a longer N"
            self._file.close()
        return self._folder / IMAGES

    def finish(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write labels, held-out rows and the manifest, to which `facts` are added; returns it."""
        self.finish_images()
        labels = self.labels()
        heldout = np.frombuffer(bytes(self._heldout), np.bool_)
        if labels is not None:
            save_array(self._folder / "labels.npy", labels)
        save_array(self._folder / "heldout.npy", heldout)
        manifest = {
            "format": FORMAT,
            "hash": self._content_hash(labels),
            "resolution": self.resolution,
            "channels": self.channels,
            "class_names": list(self.class_names),
            "num_images": len(self),
            "num_heldout": int(heldout.sum()),
            "counts": self.counts(),
            **facts,
        }
        write_json(self._folder / "manifest.json", manifest)
        return manifest

    def _content_hash(self, labels: NDArray[np.int64] | None) -> str:
        if self._expected and self._expected == len(self):
            return self._hash.finish(labels)
        digest = ContentHash((len(self), *self._shape), self.class_names)
        with open_rows(self._folder / IMAGES) as rows:
            for block in rows.blocks():
                digest.add(block)
        return digest.finish(labels)

    def _write_header(self) -> int:
        """Write the array's header for the images so far; returns its length in bytes."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self), *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


def save_array(path: Path, array: NDArray[Any]) -> None:
    """What `numpy.save` writes; that one writes past Python, and says nothing of a full disk."""
    with path.open("wb") as f:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(f, header)
        f.write(array.tobytes())
