"""Owns latents that a request brings along: their length and their range."""

from collections.abc import Sequence

import numpy as np

from app.engine import Loaded
from app.errors import BadRequestError
from training.model.sampling import Latents

_LARGEST = 1e6  # as the message says


def explicit_latents(loaded: Loaded, rows: Sequence[Sequence[float]]) -> Latents:
    """Finite rows → (n, z_dim) float32; raises BadRequestError naming the row that is wrong."""
    z_dim = loaded.sampler.config.z_dim
    for i, row in enumerate(rows):
        if len(row) != z_dim:
            raise BadRequestError(
                f"latents[{i}] has {len(row)} numbers; {loaded.ref} takes {z_dim}", field="latents"
            )
        if max(map(abs, row)) > _LARGEST:
            raise BadRequestError(
                f"latents[{i}] holds a number beyond ±1e6; latents are drawn from N(0, 1)",
                field="latents",
            )
    return np.array(rows, np.float32)
