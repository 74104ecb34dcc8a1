"""Owns how the code is broken on purpose: a check that finds no breakage is worth nothing."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from app.imports import DatasetImporter, ImportRequest
from app.store import database
from app.store.datasets import StoredDataset
from training.data import importing
from training.model import files
from training.model.files import sha256_bytes, write_json
from training.model.registry import Registry, now_iso


@dataclass(frozen=True)
class Sabotage:
    """What is broken, and under which fault in which operation that has to show."""

    what: str
    do: Callable[[], None]
    operation: str
    fault: str


def write_in_place() -> None:
    files.write_atomic = _write_bytes  # type: ignore[assignment]


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def overlook_errors() -> None:
    careful = files.write_atomic

    def careless(path: Path, data: bytes) -> None:
        with suppress(OSError):
            careful(path, data)

    files.write_atomic = careless  # type: ignore[assignment]


def build_versions_in_place() -> None:
    Registry._publish = _publish_in_place  # type: ignore[method-assign]


def _publish_in_place(
    self: Registry,
    model: str,
    version: int,
    files: Mapping[str, bytes],
    manifest: Mapping[str, Any],
) -> None:
    folder = self.root / model / str(version)
    folder.mkdir(parents=True)
    sums = {name: sha256_bytes(data) for name, data in files.items()}
    about = {"version": version, "created_at": now_iso(), "files": sums}
    write_json(folder / "manifest.json", {**manifest, **about})
    for name, data in files.items():
        (folder / name).write_bytes(data)


def forget_runs() -> None:
    Registry.find_run = lambda self, model, run_id: None  # type: ignore[method-assign]


def commit_every_statement() -> None:
    def begin(conn: Connection) -> None:
        """Nothing: SQLite then commits each statement by itself."""

    database._begin_sqlite = begin


def keep_no_journal() -> None:
    careful = database._configure_sqlite

    def careless(connection: Any, record: object) -> None:
        careful(connection, record)
        connection.execute("PRAGMA journal_mode=OFF")

    database._configure_sqlite = careless


def publish_packs_by_file() -> None:
    importing.publish_dir = shutil.copytree  # type: ignore[assignment]


def accept_before_writing() -> None:
    DatasetImporter.accept = _accept_first  # type: ignore[method-assign]


def _accept_first(self: DatasetImporter, dataset_id: str, request: ImportRequest) -> StoredDataset:
    upload = self.upload_path(dataset_id)
    kept = upload.read_bytes()
    upload.unlink()
    dataset = self._store.create_dataset(dataset_id, request.name, upload.name)
    upload.write_bytes(kept)
    write_json(self._request_path(dataset_id), asdict(request))
    return dataset


SABOTAGES: tuple[Sabotage, ...] = (
    Sabotage("aliases written in place", write_in_place, "promote", "kill -9"),
    Sabotage("errors of the disk overlooked", overlook_errors, "promote", "ENOSPC once"),
    Sabotage("versions built in place", build_versions_in_place, "register", "kill -9"),
    Sabotage("a run registered again", forget_runs, "register", "kill -9"),
    Sabotage("each statement committed", commit_every_statement, "finish", "kill -9"),
    Sabotage("no rollback journal", keep_no_journal, "enqueue", "kill -9"),
    Sabotage("packs published file by file", publish_packs_by_file, "pack", "kill -9"),
    Sabotage("an upload written after its row", accept_before_writing, "upload", "kill -9"),
)


def find_sabotage(what: str) -> Sabotage:
    """By what it breaks."""
    return {sabotage.what: sabotage for sabotage in SABOTAGES}[what]
