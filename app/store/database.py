"""Owns the database file: how it is opened, brought to this schema, read and written."""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from app.store.changes import Changes
from training.model.files import write_atomic

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_SEC = 30.0


class SchemaError(RuntimeError):
    """The file is no database that this version of noisewell can read, or bring to its schema."""


class Database:
    """One database on one file; every method may be called from any thread."""

    def __init__(
        self, engine: Engine, clock: Callable[[], float], token: Callable[[int], str]
    ) -> None:
        self._engine = engine
        self._writing = engine.execution_options(writing=True)
        self._clock = clock
        self._token = token
        self.changes = Changes()

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Callable[[], float] = time.time,
        token: Callable[[int], str] = secrets.token_hex,
    ) -> Self:
        """Open or create the file and migrate it.

        Raises SchemaError if it is from a newer version or no database, or if there is no room.
        A file that is migrated is first copied to `<name>.before-<schema>`, beside it.
        clock: seconds since the epoch; every time in the database is read from it.
        token: that many random bytes as hex, for the ends of ids.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = _open_engine(path)
        database = cls(engine, clock, token)
        try:
            with database._write() as conn:
                _migrate(conn, path)
        except (DatabaseError, CommandError, OSError) as error:
            database.close()
            why = error.orig if isinstance(error, DatabaseError) else error
            raise SchemaError(
                f"{str(path)!r} cannot be opened: {why}; make room on the disk, or put a copy of it"
                " in its place."
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Tell the listeners and give back every connection."""
        self.changes.close()
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Generator[Connection, None, None]:
        with self._engine.begin() as conn:
            yield conn

    @contextmanager
    def _write(self) -> Generator[Connection, None, None]:
        """One transaction; listeners hear of it once it is on the disk."""
        with self._writing.begin() as conn:
            yield conn
        self.changes.tell()


def _open_engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_SEC},
        json_serializer=_to_json,
        pool_size=5,
        max_overflow=45,  # the framework runs at most 40 endpoints at a time
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _configure_sqlite(connection: Any, _record: object) -> None:
    # Python's driver would begin transactions by its own rules; `_begin_sqlite` does instead.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA synchronous=EXTRA")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(conn: Connection) -> None:
    # A reader that turns writer midway cannot wait for another one; a writer from the start can.
    writing = conn.get_execution_options().get("writing", False)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _migrate(conn: Connection, path: Path) -> None:
    config = Config(attributes={"connection": conn})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    current = MigrationContext.configure(conn).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"{str(path)!r} has schema {current!r}, newer than {head!r}, the newest this version of"
            " noisewell knows; install the version that wrote it."
        )
    if current not in (None, head):
        _back_up(conn, path.with_name(f"{path.name}.before-{head}"))
    command.upgrade(config, "head")


def _back_up(conn: Connection, backup: Path) -> None:
    """Copy the database as `conn`, which holds the write lock, sees it.

    Through the connection: a process that closes any other handle on the file loses its locks.
    """
    connection = conn.connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    write_atomic(backup, connection.serialize())
