"""Owns the packed dataset: the files of its directory, its hash, and how it is read back."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
HELDOUT_ONE_IN = 10
HASH_BLOCK_BYTES = 1 << 20


class DataError(ValueError):
    """Images that cannot be used; one sentence for the person who gave them."""


@dataclass(frozen=True)
class Dataset:
    """Square images of one size, as the trainer and the evaluator read them.

    images: uint8 (N, H, W, C), on the disk until touched. labels: int64 (N,), indices into
    class_names, or None when unlabelled (class_names is empty then). heldout: bool (N,), the
    tenth that no training sees. manifest: everything the import recorded.
    """

    name: str
    hash: str
    resolution: int
    channels: int
    class_names: tuple[str, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    heldout: NDArray[np.bool_]
    manifest: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """0 when unlabelled."""
        return len(self.class_names)

    @property
    def num_images(self) -> int:
        return len(self.images)

    def split(self, heldout: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """Images and labels of the held-out tenth, or of the rest, read into memory."""
        chosen = self.heldout == heldout
        return self.images[chosen], None if self.labels is None else self.labels[chosen]


def is_held_out(digest: bytes) -> bool:
    """Whether an image belongs to the held-out tenth: a function of its packed pixels alone.

    digest: their SHA-256. So the split outlives a renamed file, another order or a later import,
    and two copies of an image never stand on both sides.
    """
    return int.from_bytes(digest[:8], "big") % HELDOUT_ONE_IN == 0


class ContentHash:
    """SHA-256 over shape, pixels, labels and class names, in parts; file names do not count."""

    def __init__(self, shape: Sequence[int], class_names: Sequence[str]) -> None:
        """shape: (N, H, W, C) of all images."""
        self._digest = hashlib.sha256(json.dumps([list(shape), list(class_names)]).encode())

    def add(self, pixels: NDArray[np.uint8] | bytes) -> None:
        """The next images, or any part of them."""
        data = pixels if isinstance(pixels, bytes) else np.ascontiguousarray(pixels).data
        self._digest.update(data)

    def finish(self, labels: NDArray[np.int64] | None) -> str:
        """The whole in hex, once all images are in."""
        if labels is not None:
            self._digest.update(labels.astype("<i8").tobytes())
        return self._digest.hexdigest()


def content_hash(
    images: NDArray[np.uint8], labels: NDArray[np.int64] | None, class_names: Sequence[str]
) -> str:
    """The `ContentHash` of images that are all there."""
    digest = ContentHash(images.shape, class_names)
    step = max(1, HASH_BLOCK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), step):
        digest.add(images[start : start + step])
    return digest.finish(labels)


def is_packed(path: Path) -> bool:
    """Whether `path` looks like a packed dataset (it may still be damaged)."""
    return (path / "manifest.json").is_file() and (path / "images.npy").is_file()


def load_dataset(path: Path) -> Dataset:
    """Open a packed dataset without reading its images; raises DataError if it is not whole."""
    manifest = _read_manifest(path)
    images = _read_array(path / "images.npy", np.dtype(np.uint8), mmap=True)
    heldout = _read_array(path / "heldout.npy", np.dtype(np.bool_))
    labels = None
    if manifest["class_names"]:
        labels = _read_array(path / "labels.npy", np.dtype(np.int64))
    _check_shapes(path, manifest, images, labels, heldout)
    return Dataset(
        name=manifest["name"],
        hash=manifest["hash"],
        resolution=manifest["resolution"],
        channels=manifest["channels"],
        class_names=tuple(manifest["class_names"]),
        images=images,
        labels=labels,
        heldout=heldout,
        manifest=manifest,
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except (OSError, ValueError) as e:
        raise DataError(
            f"{str(path)!r} is not a packed dataset (manifest.json: {e}); import your images"
            " first, with `noisewell data import`."
        ) from e
    wanted = {"format", "name", "hash", "resolution", "channels", "class_names"}
    if not isinstance(manifest, dict) or not wanted <= manifest.keys():
        raise DataError(f"manifest.json of {str(path)!r} lacks one of {sorted(wanted)}.")
    if manifest["format"] != FORMAT:
        raise DataError(
            f"{str(path)!r} has dataset format {manifest['format']!r}, this version reads"
            f" {FORMAT}; import the images again."
        )
    return manifest


def _read_array(path: Path, dtype: np.dtype[Any], *, mmap: bool = False) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{str(path)!r} cannot be read ({e}); import the images again.") from e
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise DataError(f"{str(path)!r} is not an array of {dtype}; import the images again.")
    return array


def _check_shapes(
    path: Path,
    manifest: dict[str, Any],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    heldout: NDArray[np.bool_],
) -> None:
    size, channels, classes = (
        manifest["resolution"],
        manifest["channels"],
        len(manifest["class_names"]),
    )
    fits = images.ndim == 4 and images.shape[1:] == (size, size, channels)
    fits = fits and heldout.shape == images.shape[:1]
    if labels is not None:
        fits = fits and labels.shape == images.shape[:1]
        fits = fits and bool(((labels >= 0) & (labels < classes)).all())
    if not fits:
        raise DataError(
            f"The arrays of {str(path)!r} do not fit its manifest (images {images.shape});"
            " import the images again."
        )
