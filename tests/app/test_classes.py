"""Classes that a request asks for, by index, name or weight."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.classes import asked_classes, class_weights
from app.errors import BadRequestError

# "1" is a name and, as cat's place, an index too.
LOADED: Any = SimpleNamespace(ref="toy@1", class_names=("1", "cat", "dog"))
PLAIN: Any = SimpleNamespace(ref="plain@1", class_names=())


@pytest.mark.parametrize(
    ("ref", "weights"),
    [
        (1, [0, 1, 0]),
        ("1", [1, 0, 0]),
        ({"dog": 5.0}, [0, 0, 1]),
        ({"cat": 1, "dog": 3}, [0, 0.25, 0.75]),
        ({"1": 1, "2": 1}, [0.5, 0, 0.5]),  # an exact name wins over an index
        ({"dog": 1, "2": 1, "0": 2}, [0.5, 0, 0.5]),
        ({"cat": 5e-324, "dog": 5e-324}, [0, 0.5, 0.5]),
        ({"cat": 1e6, "dog": 5e-324}, [0, 1, 0]),
    ],
)
def test_a_class_is_its_share_of_the_whole(ref: Any, weights: list[float]) -> None:
    found = class_weights(LOADED, ref, "class")
    assert found.dtype == np.float32
    assert found.tolist() == weights


def test_the_weights_that_a_mix_ended_with_are_themselves_that_mix() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        parts = dict(zip(LOADED.class_names, rng.random(3), strict=True))
        first = class_weights(LOADED, parts, "class")
        stored = dict(zip(LOADED.class_names, first.tolist(), strict=True))
        assert np.array_equal(class_weights(LOADED, stored, "class"), first)


def test_indices_stay_indices_unless_one_is_a_mix() -> None:
    indices = asked_classes(LOADED, None, [1, "dog"], 2)
    assert indices is not None
    assert (indices.dtype, indices.tolist()) == (np.int64, [1, 2])
    mixed = asked_classes(LOADED, None, [1, {"1": 1, "dog": 1}], 2)
    assert mixed is not None
    assert (mixed.dtype, mixed.tolist()) == (np.float32, [[0, 1, 0], [0.5, 0, 0.5]])


def test_one_class_is_that_of_all_images() -> None:
    for ref, row in (("dog", 2), ({"cat": 1, "dog": 1}, [0, 0.5, 0.5])):
        found = asked_classes(LOADED, ref, None, 3)
        assert found is not None
        assert found.tolist() == [row] * 3
    assert asked_classes(LOADED, None, None, 3) is None


@pytest.mark.parametrize("field", ["class", "classes"])
@pytest.mark.parametrize("ref", [3, "mouse", {"cat": 1.0, "mouse": 1.0}, {"cat": 1.0, "3": 1.0}])
def test_a_class_that_does_not_exist_is_named(field: str, ref: Any) -> None:
    one, each = (ref, None) if field == "class" else (None, [0, ref])
    with pytest.raises(BadRequestError, match=r"(mouse|3).* does not exist"):
        asked_classes(LOADED, one, each, 2)


@pytest.mark.parametrize("ref", [0, "cat", {"cat": 1.0}])
def test_a_version_without_classes_has_none_to_mix(ref: Any) -> None:
    with pytest.raises(BadRequestError, match="plain@1 has no classes"):
        asked_classes(PLAIN, ref, None, 1)
