"""Latents that a request brings along."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.errors import BadRequestError
from app.latents import explicit_latents

CONFIG = SimpleNamespace(z_dim=2)
LOADED: Any = SimpleNamespace(ref="toy@1", sampler=SimpleNamespace(config=CONFIG))


def test_rows_of_numbers_become_latents() -> None:
    found = explicit_latents(LOADED, [[1, -0.5], [1e6, 0.1]])
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array([[1, -0.5], [1e6, 0.1]], np.float32))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([1.0], r"latents\[1\] has 1 numbers; toy@1 takes 2"),
        ([], r"latents\[1\] has 0 numbers; toy@1 takes 2"),
        ([1.0, 2.0, 3.0], r"latents\[1\] has 3 numbers; toy@1 takes 2"),
        ([0.0, 1000001.0], r"latents\[1\] holds a number beyond ±1e6"),
        ([0.0, -(10.0**300)], r"latents\[1\] holds a number beyond ±1e6"),
    ],
)
def test_the_row_that_is_wrong_is_named(row: list[float], told: str) -> None:
    with pytest.raises(BadRequestError, match=told):
        explicit_latents(LOADED, [[0.0, 0.0], row])
