"""Owns what the tests of the store stand on: a clock they set, and a store with one dataset."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.jobs import NewJob
from app.store.store import Store


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """With the dataset `ds_1`, which is ready."""
    store = Store.open(tmp_path / "noisewell.sqlite3", clock)
    store.create_dataset("ds_1", "digits", None)
    store.finish_dataset("ds_1", "ready", summary={})
    yield store
    store.close()


@pytest.fixture
def new() -> NewJob:
    return NewJob(
        model="mnist",
        dataset_id="ds_1",
        dataset_name="digits",
        preset="tiny",
        minutes=1.5,
        kimg=None,
        until={"fd": 2.5},
        overrides={"batch_size": 16},
        promote="if_better",
        seed=2**53 - 1,
        base="mnist@2",
    )
