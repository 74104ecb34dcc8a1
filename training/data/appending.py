"""Owns adding to a packed dataset: what the new one takes over, and what has to fit."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from training.data.dataset import DataError, Dataset
from training.data.options import ImportOptions
from training.data.packing import IMAGES, Packer
from training.data.rows import open_rows
from training.data.verdicts import VerdictLog


def fitting(options: ImportOptions, base: Dataset) -> ImportOptions:
    """The options with the base's size and channels; raises DataError if they ask for others."""
    for name in ("resolution", "channels"):
        asked, has = getattr(options, name), getattr(base, name)
        if asked not in (None, has):
            raise DataError(
                f"{name} {asked} is not that of {base.name!r}, which has {has}; leave the option"
                f" out, or import all images anew with {name} {asked}."
            )
    return replace(options, resolution=base.resolution, channels=base.channels)


def joined_classes(base: Dataset, source: str, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The base's classes in their order, then the new ones; raises DataError if one has none."""
    if bool(base.class_names) != bool(class_names):
        have, lack = (base.name, source) if base.class_names else (source, base.name)
        raise DataError(
            f"{have!r} has classes and {lack!r} has none; bring images of the same kind, in class"
            " folders or with a label file if there are classes."
        )
    known = set(base.class_names)
    return base.class_names + tuple(name for name in class_names if name not in known)


def copy_images(base: Dataset, folder: Path, packer: Packer, log: VerdictLog) -> None:
    """Put all images of the packed dataset in `folder` before the first new one."""
    number = 0
    with open_rows(folder / IMAGES) as rows:
        for block in rows.blocks():
            for pixels in block:
                digest = sha256(pixels.data).digest()
                label = None if base.labels is None else int(base.labels[number])
                packer.add(pixels, label, digest)
                log.expect(digest)
                number += 1


def facts_of(base: Dataset) -> dict[str, Any]:
    """What the manifest says of the dataset that was added to: its images are the first ones."""
    return {"name": base.name, "hash": base.hash, "num_images": base.num_images}
