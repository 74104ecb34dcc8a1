"""Owns the database file: how it is opened, brought to this schema, read and written."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event

from app.store.changes import Changes

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_SEC = 30.0


class SchemaError(RuntimeError):
    """The database was written by a version of noisewell that this one does not know."""


class Database:
    """One database on one file; every method may be called from any thread."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._writing = engine.execution_options(writing=True)
        self._clock = clock
        self.changes = Changes()

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open or create the file and migrate it; raises SchemaError if it is from a newer version.

        clock: seconds since the epoch; every time in the database is read from it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = _open_engine(path)
        database = cls(engine, clock)
        try:
            with database._write() as conn:
                _migrate(conn, path)
        except BaseException:
            engine.dispose()
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
    known = {revision.revision for revision in script.walk_revisions()}
    current = MigrationContext.configure(conn).get_current_heads()
    unknown = sorted(set(current) - known)
    if unknown:
        raise SchemaError(
            f"{str(path)!r} has schema {unknown[0]!r}, newer than {script.get_current_head()!r},"
            " the newest this version of noisewell knows; install the version that wrote it."
        )
    command.upgrade(config, "head")
