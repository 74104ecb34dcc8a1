import errno
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.exc import OperationalError

from app.errors import UnavailableError
from app.store.database import MIGRATIONS, SchemaError
from app.store.store import Store
from app.store.tables import metadata


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


def write_schema_1(path: Path) -> None:
    """A file as the first version of noisewell left it: two jobs, three events."""
    with sqlite3.connect(path) as conn:
        engine = create_engine("sqlite://", creator=lambda: conn, poolclass=StaticPool)
        with engine.begin() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(MIGRATIONS))
            command.upgrade(config, "0001")
        for job_id, status, worker in (("job_1", "succeeded", None), ("job_2", "running", "w1")):
            conn.execute(
                "INSERT INTO jobs (id, status, model, dataset_id, dataset_name, preset, minutes,"
                " overrides, promote, seed, attempt, crashes, worker, cancel_requested, created_at)"
                " VALUES (?, ?, 'mnist', 'ds_1', 'digits', 'tiny', 1, '{}', 'never', 7, 1, 0, ?, 0,"
                " 5)",
                (job_id, status, worker),
            )
        for event in (("job_1", 1, "queued"), ("job_1", 2, "succeeded"), ("job_2", 1, "queued")):
            conn.execute("INSERT INTO job_events VALUES (?, ?, ?, 5, '{}')", event)
    conn.close()


def test_an_older_file_is_migrated_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    write_schema_1(path)
    store = Store.open(path)
    ended, running = store.get_job("job_1"), store.get_job("job_2")
    assert (ended.status, running.status, running.seed) == ("succeeded", "running", 7)
    for job in (ended, running):
        assert (job.run, job.retry_of, job.base, job.idempotency_key) == (job.id, None, None, None)
        assert (job.pause_requested, job.events_told) == (False, 0)
    assert [e.type for e in store.events("job_1")] == ["queued", "succeeded"]
    assert store.finish_job(running, "failed", error="late")
    store.close()
    Store.open(path).close()


def test_datasets_of_an_older_file_are_the_first_versions(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    write_schema_1(path)
    with sqlite3.connect(path) as conn:
        rows = [("ds_1", "digits", None, "failed", 1), ("ds_2", "digits", "digits", "ready", 2)]
        conn.executemany(
            "INSERT INTO datasets (id, name, held_name, status, created_at) VALUES (?, ?, ?, ?, ?)",
            rows,
        )
    conn.close()
    store = Store.open(path)
    assert store.get_dataset("digits@1").id == "ds_2"
    assert store.create_dataset("ds_3", "digits", None).version == 2
    store.close()


def test_an_older_file_is_backed_up_before_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    write_schema_1(path)
    before = path.read_bytes()
    Store.open(path).close()
    assert path.read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.before-0004"]
    assert path.with_name(f"{path.name}.before-0004").read_bytes() == before


def test_an_older_file_stays_as_it_is_without_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "noisewell.sqlite3"
    write_schema_1(path)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SchemaError, match=r"cannot be opened: .*No space left"):
        Store.open(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_new_file_needs_no_backup(tmp_path: Path) -> None:
    Store.open(tmp_path / "noisewell.sqlite3").close()
    assert [p.name for p in tmp_path.iterdir()] == ["noisewell.sqlite3"]


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "noisewell.sqlite3"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(SchemaError, match=r"noisewell.sqlite3' cannot be opened.*not a database"):
        Store.open(path)
    assert path.read_bytes() == b"no database " * 1000


def test_migrations_that_cannot_be_read_leave_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "noisewell.sqlite3"
    write_schema_1(path)
    before = path.read_bytes()

    def unreadable(*_: object) -> None:
        raise CommandError("Can't locate revision identified by '0001'")

    monkeypatch.setattr("app.store.database.command.upgrade", unreadable)
    with pytest.raises(SchemaError, match=r"cannot be opened: Can't locate revision"):
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
    store.create_dataset("ds_2", "letters", None)
    forget()
    store.create_dataset("ds_3", "signs", None)
    assert heard == ["change"]


def test_listeners_are_bounded(store: Store) -> None:
    store.changes.subscribe(lambda: None, limit=1)
    with pytest.raises(UnavailableError, match="max_event_streams"):
        store.changes.subscribe(lambda: None, limit=1)


def test_a_full_disk_fails_a_write_and_nothing_else(store: Store) -> None:
    before = store.list_datasets()
    with closing(store._engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA max_page_count=1")  # no page more than there are
    with pytest.raises(OperationalError, match="database or disk is full"):
        store.create_dataset("ds_2", "x" * 1_000_000, None)
    assert store.list_datasets() == before
    assert store.finish_dataset("ds_1", "ready") is False
    with closing(store._engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA max_page_count=1000000")
    store.create_dataset("ds_2", "letters", None)
