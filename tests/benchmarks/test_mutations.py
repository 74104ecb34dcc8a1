from pathlib import Path

from benchmarks.mutations import flip_all, make_registry, mutate, served


def test_every_flipped_bit_of_the_weights_is_refused(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    assert flip_all(registry, served(registry)).keys() == {"refused"}


def test_of_a_thousand_mutations_none_is_served_as_something_else(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    outcomes = mutate(registry, served(registry), 1000, seed=1)
    assert {found for _, found in outcomes} <= {"refused", "unchanged", "same bytes"}
    assert sum(outcomes.values()) == 1000
