"""Owns what is asked of a version: which seeds, which classes, and what their files say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import png
from app.engine import Loaded
from app.errors import BadRequestError
from training.model.sampling import (
    Classes,
    Latents,
    Pixels,
    class_weights,
    classes_of,
    latents_of,
)

ClassRow = int | np.integer[Any] | NDArray[np.float32]


@dataclass(frozen=True)
class Ask:
    """Which images of a version: seeds or latents, classes (None: drawn from the seeds), ψ.

    classes: indices (n,), or weights (n, num_classes) of a mix. tells_latents: whether an answer in
    JSON gives them.
    """

    loaded: Loaded
    seeds: Sequence[int] | None
    latents: Latents | None
    classes: Classes | None
    truncation: float
    tells_latents: bool = False

    def whole_latents(self) -> Latents:
        """Latents (n, z_dim) before truncation."""
        if self.latents is not None:
            return self.latents
        return latents_of(self.seeds or [], self.loaded.sampler.config.z_dim)

    def draw(self) -> tuple[Latents, Classes]:
        """Latents (n, z_dim) and classes (n,)."""
        config, z = self.loaded.sampler.config, self.whole_latents()
        c = self.classes
        if c is None:
            c = classes_of(self.seeds or [0] * len(z), config.num_classes)
        return z * np.float32(self.truncation), c

    def part(self, rows: slice) -> "Ask":
        """The same of these images alone."""
        return Ask(
            self.loaded,
            None if self.seeds is None else self.seeds[rows],
            None if self.latents is None else self.latents[rows],
            None if self.classes is None else self.classes[rows],
            self.truncation,
            self.tells_latents,
        )

    def seed(self, i: int) -> int | None:
        return None if self.seeds is None else self.seeds[i]

    def class_name(self, c: ClassRow) -> str | dict[str, float] | None:
        """The class that made an image, by name; a mix as the share of each, above 0."""
        names = self.loaded.class_names
        if not names:
            return None
        if not isinstance(c, np.ndarray):
            return names[int(c)]
        there = np.flatnonzero(c)
        return names[there[0]] if len(there) == 1 else {names[k]: float(c[k]) for k in there}

    def metadata(self, i: int, c: ClassRow) -> dict[str, Any]:
        """What the i-th image's file says of itself: enough to make it again."""
        return {
            "model": self.loaded.model,
            "version": self.loaded.version,
            "digest": self.loaded.digest,
            "seed": self.seed(i),
            "class": self.class_name(c),
            "truncation": self.truncation,
            "certificate": self.loaded.certificate_id,
        }

    def encode(self, i: int, pixels: Pixels, c: ClassRow, format: png.Format) -> bytes:
        """The i-th image's file."""
        return png.encode(pixels, format, self.metadata(i, c))


def join_classes(parts: Sequence[Classes]) -> Classes:
    """Indices where all are indices, else weights."""
    num_classes = next((part.shape[1] for part in parts if part.ndim == 2), None)
    if num_classes is not None:
        return np.concatenate([class_weights(part, num_classes) for part in parts])
    return np.concatenate(parts)


def split_ref(ref: str) -> tuple[str, int | None]:
    """`mnist`, `mnist@champion` → (mnist, None); `mnist@2` → (mnist, 2)."""
    model, at, version = ref.partition("@")
    if not at or version == "champion":
        return model, None
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise BadRequestError(
            f"version {version!r} of {model!r}; expected a number or 'champion', as in {model}@1",
            field="model",
        )
    return model, int(version)


def class_index(loaded: Loaded, ref: int | str | None, field: str) -> int:
    """An integer is an index, a string a name."""
    names = loaded.class_names
    if not names:
        raise BadRequestError(f"{loaded.ref} has no classes; leave {field} out", field=field)
    if isinstance(ref, int) and ref < len(names):
        return ref
    if isinstance(ref, str) and ref in names:
        return names.index(ref)
    shown = ", ".join(repr(name) for name in names[:20]) + (", …" if len(names) > 20 else "")
    raise BadRequestError(
        f"class {ref!r} of {loaded.ref} does not exist; "
        f"expected an index from 0 to {len(names) - 1} or one of {shown}",
        field=field,
    )


def class_from_text(loaded: Loaded, text: str) -> int:
    """In a URL everything is text: an exact name wins over an index."""
    is_index = text.isascii() and text.isdigit() and len(text) < 9
    if text not in loaded.class_names and is_index:
        return class_index(loaded, int(text), "class")
    return class_index(loaded, text, "class")
