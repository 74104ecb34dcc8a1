"""Owns the classes a request asks for: one, one for each image, or mixes of several by weight."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.ask import class_from_text, class_index
from app.engine import Loaded
from training.model.sampling import Classes

Ref = int | str | Mapping[str, float]

# Weights that a file holds sum to 1 but for the rounding of each to float32.
_ROUNDING = 1e-6


def class_weights(loaded: Loaded, ref: Ref, field: str) -> NDArray[np.float32]:
    """Weights (num_classes,) that sum to 1, of one class or of a mix {name or index: weight > 0}.

    Those that sum to 1 already are taken as they are, so that what a file says of its mix gives
    its bytes again. Raises BadRequestError for a class that does not exist.
    """
    weights = np.zeros(len(loaded.class_names))
    if not isinstance(ref, Mapping):
        weights[class_index(loaded, ref, field)] = 1
        return weights.astype(np.float32)
    for text, weight in ref.items():
        weights[class_from_text(loaded, text)] += weight
    total = weights.sum()
    return (weights if abs(total - 1) < _ROUNDING else weights / total).astype(np.float32)


def asked_classes(
    loaded: Loaded, one: Ref | None, each: Sequence[Ref] | None, n: int
) -> Classes | None:
    """`class` for all n images, or `classes` for each: indices (n,), or weights if any is a mix.

    None where neither is asked for; for `class` a read-only view of one. Raises BadRequestError for
    a class that does not exist.
    """
    if one is None and each is None:
        return None
    refs, field = ([one], "class") if one is not None else (each or [], "classes")
    indices = [class_index(loaded, ref, field) for ref in refs if not isinstance(ref, Mapping)]
    if len(indices) == len(refs):
        c: Classes = np.array(indices, np.int64)
        return c if one is None else np.broadcast_to(c, n)
    c = np.stack([class_weights(loaded, ref, field) for ref in refs])
    return c if one is None else np.broadcast_to(c, (n, c.shape[1]))
