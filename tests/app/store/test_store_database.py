import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from app.errors import UnavailableError
from app.store.database import SchemaError
from app.store.store import Store
from app.store.tables import metadata


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "noisewell.sqlite3")
    yield store
    store.close()


def schema(path: Path) -> list[tuple]:
    with sqlite3.connect(path) as conn:
        return sorted(conn.execute("SELECT type, name, sql FROM sqlite_master").fetchall())


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    Store.open(path).close()
    before = schema(path)
    Store.open(path).close()
    assert schema(path) == before


def test_the_migrations_build_the_tables_the_code_uses(store: Store) -> None:
    with store._read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    Store.open(path).close()
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(SchemaError, match=r"schema '9999', newer than .*; install the version"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_path_with_odd_characters_opens(tmp_path: Path) -> None:
    path = tmp_path / "50% off ?x=1#y" / "a b.sqlite3"
    Store.open(path).close()
    assert path.exists()


def test_many_openers_of_a_new_file_migrate_it_once(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    stores: list[Store] = []
    threads = [threading.Thread(target=lambda: stores.append(Store.open(path))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(stores) == 6
    for store in stores:
        store.close()


def test_a_write_survives_a_power_cut(store: Store) -> None:
    with store._write() as conn:
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 3  # EXTRA
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_listener_hears_of_a_write_and_then_no_more(store: Store) -> None:
    heard: list[str] = []
    forget = store.changes.subscribe(lambda: heard.append("change"), limit=1)
    store.create_dataset("ds_1", "digits", None)
    forget()
    store.create_dataset("ds_2", "letters", None)
    assert heard == ["change"]


def test_listeners_are_bounded(store: Store) -> None:
    store.changes.subscribe(lambda: None, limit=1)
    with pytest.raises(UnavailableError, match="max_event_streams"):
        store.changes.subscribe(lambda: None, limit=1)
