import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import ConflictError, NotFoundError
from app.store.jobs import NewJob
from app.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "noisewell.sqlite3", clock=lambda: 1000.0)
    yield store
    store.close()


def new_job(dataset_id: str) -> NewJob:
    return NewJob("mnist", dataset_id, "digits", "tiny", 1.0, None, None, {}, "if_better", 0)


def test_a_dataset_is_found_by_id_and_by_name(store: Store) -> None:
    created = store.create_dataset("ds_1", "digits", "ds_1.zip")
    assert created.status == "importing"
    assert store.finish_dataset("ds_1", "ready", summary={"resolution": 28})
    found = store.get_dataset("digits")
    assert found == store.get_dataset("ds_1")
    assert (found.status, found.summary, found.finished_at) == ("ready", {"resolution": 28}, 1000)


def test_an_unknown_dataset_is_answered_with_those_there_are(store: Store) -> None:
    with pytest.raises(NotFoundError, match="'letters' does not exist; there is none yet"):
        store.get_dataset("letters")
    store.create_dataset("ds_1", "digits", None)
    with pytest.raises(NotFoundError, match="there is digits"):
        store.get_dataset("letters")


def test_a_version_is_free_again_once_its_import_failed(store: Store) -> None:
    store.create_dataset("ds_1", "digits", None)
    store.finish_dataset("ds_1", "failed", error="no images")
    assert store.get_dataset("digits").id == "ds_1"
    assert store.create_dataset("ds_2", "digits", None).version == 1
    assert store.get_dataset("digits").id == "ds_2"
    assert store.get_dataset("digits@1").id == "ds_2"
    assert store.get_dataset("ds_1").error == "no images"


def test_a_name_is_its_newest_version_that_is_ready(store: Store) -> None:
    store.create_dataset("ds_1", "digits", None)
    store.finish_dataset("ds_1", "ready", summary={})
    assert store.create_dataset("ds_2", "digits", None).version == 2
    assert store.get_dataset("digits").id == "ds_1"
    assert store.get_dataset("digits@2").id == "ds_2"
    store.finish_dataset("ds_2", "ready", summary={})
    assert store.get_dataset("digits").id == "ds_2"
    assert store.get_dataset("digits@1").id == "ds_1"
    store.delete_dataset("digits@2")
    assert store.get_dataset("digits").id == "ds_1"


@pytest.mark.parametrize("ref", ["digits@2", "digits@", "digits@x", "digits@-1", "digits@1@1"])
def test_a_version_that_there_is_not_is_not_found(store: Store, ref: str) -> None:
    store.create_dataset("ds_1", "digits", None)
    with pytest.raises(NotFoundError, match="there is digits"):
        store.get_dataset(ref)


def test_an_import_ends_once(store: Store) -> None:
    store.create_dataset("ds_1", "digits", None)
    assert store.finish_dataset("ds_1", "failed", error="killed")
    assert not store.finish_dataset("ds_1", "ready", summary={})
    assert store.get_dataset("ds_1").status == "failed"


def test_a_deleted_dataset_is_gone_and_its_name_free(store: Store) -> None:
    store.create_dataset("ds_1", "digits", None)
    store.delete_dataset("digits")
    assert store.list_datasets() == []
    store.create_dataset("ds_2", "digits", None)
    with pytest.raises(NotFoundError):
        store.delete_dataset("ds_1")


def test_nobody_writes_between_the_last_check_and_the_deletion(
    store: Store, tmp_path: Path
) -> None:
    store.create_dataset("ds_1", "digits", None)

    def write() -> None:
        with (
            closing(sqlite3.connect(tmp_path / "noisewell.sqlite3", timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")

    store.delete_dataset("ds_1", write)
    assert store.list_datasets() == []


def test_a_dataset_is_kept_while_a_job_needs_it(store: Store) -> None:
    store.create_dataset("ds_1", "digits", None)
    store.finish_dataset("ds_1", "ready", summary={})
    job = store.create_job(new_job("ds_1"), max_queued=10)
    assert store.jobs_using_dataset("ds_1") == [job.id]
    with pytest.raises(ConflictError, match=f"needed by {job.id}"):
        store.delete_dataset("ds_1")
    store.request_cancel(job.id)
    store.delete_dataset("ds_1")
    assert store.get_job(job.id).dataset_name == "digits"
