"""Owns the index of datasets: their names, and how far each import has come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, RowMapping, case, delete, func, insert, or_, select, update

from app.errors import ConflictError, NotFoundError
from app.store.database import Database
from app.store.jobs import jobs_needing
from app.store.tables import datasets

DatasetStatus = Literal["importing", "ready", "failed"]
DATASET_STATUSES: tuple[DatasetStatus, ...] = get_args(DatasetStatus)


@dataclass(frozen=True)
class StoredDataset:
    """A row of `datasets`; times are seconds since the epoch.

    version: 1, 2, … among those of its name. upload: basename of the spooled upload.
    summary: the packed dataset's manifest, once ready.
    """

    id: str
    name: str
    version: int
    status: DatasetStatus
    upload: str | None
    summary: dict[str, Any] | None
    error: str | None
    created_at: float
    finished_at: float | None


class DatasetStore(Database):
    """The datasets of a service; name@version belongs to one dataset that has not failed."""

    def create_dataset(self, dataset_id: str, name: str, upload: str | None) -> StoredDataset:
        """Take the next version of the name for an import that begins."""
        with self._write() as conn:
            about = {"status": "importing", "upload": upload, "created_at": self._clock()}
            return self._insert(conn, dataset_id, name, **about)

    def add_dataset(
        self, dataset_id: str, name: str, summary: dict[str, Any], publish: Callable[[], object]
    ) -> StoredDataset:
        """Take the next version of the name for a dataset that is packed already.

        publish: puts the pack in its place, in the same transaction.
        """
        with self._write() as conn:
            now = self._clock()
            about = {"status": "ready", "summary": summary, "created_at": now, "finished_at": now}
            dataset = self._insert(conn, dataset_id, name, **about)
            publish()
            return dataset

    def _insert(self, conn: Connection, dataset_id: str, name: str, **more: Any) -> StoredDataset:
        """The row of the next version of the name, with `more` of its columns."""
        version = _next_version(conn, name)
        values = {
            "id": dataset_id,
            "name": name,
            "version": version,
            "held_name": f"{name}@{version}",
            **more,
        }
        created = insert(datasets).values(values).returning(datasets)
        return _dataset(conn.execute(created).mappings().one())

    def while_none_is_added(self, act: Callable[[set[str]], object]) -> None:
        """Call `act` with the ids of all datasets, while no other can be added."""
        with self._write() as conn:
            act(set(conn.execute(select(datasets.c.id)).scalars()))

    def get_dataset(self, id_or_name: str) -> StoredDataset:
        """By id, name@version, or name: its newest version that is ready; raises NotFoundError.

        Of a name that has none, the newest that is importing, or else that failed.
        """
        with self._read() as conn:
            return _find(conn, id_or_name)

    def list_datasets(self) -> list[StoredDataset]:
        """The newest first."""
        query = select(datasets).order_by(datasets.c.created_at.desc(), datasets.c.id.desc())
        with self._read() as conn:
            return [_dataset(row) for row in conn.execute(query).mappings()]

    def count_datasets_by_status(self) -> dict[DatasetStatus, int]:
        """Every status, those without a dataset too."""
        query = select(datasets.c.status, func.count()).group_by(datasets.c.status)
        with self._read() as conn:
            found = {row[0]: row[1] for row in conn.execute(query)}
        return {status: found.get(status, 0) for status in DATASET_STATUSES}

    def finish_dataset(
        self,
        dataset_id: str,
        status: Literal["ready", "failed"],
        *,
        summary: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End an import, which frees its version if it failed; False if there is none to end."""
        values: dict[str, Any] = {
            "status": status,
            "summary": summary,
            "error": error,
            "finished_at": self._clock(),
        }
        if status == "failed":
            values["held_name"] = None
        importing = (datasets.c.id == dataset_id, datasets.c.status == "importing")
        with self._write() as conn:
            return conn.execute(update(datasets).where(*importing).values(values)).rowcount == 1

    def lose_dataset(self, dataset_id: str, error: str) -> bool:
        """Let a ready dataset count as failed, which frees its version; False if it was not."""
        ready = (datasets.c.id == dataset_id, datasets.c.status == "ready")
        lost = {"status": "failed", "error": error, "held_name": None}
        with self._write() as conn:
            return conn.execute(update(datasets).where(*ready).values(lost)).rowcount == 1

    def delete_dataset(self, dataset_id: str, last: Callable[[], None] = lambda: None) -> None:
        """Raises NotFoundError, or ConflictError while a job that has not ended needs it.

        last: called before it is deleted, once no job can come to need it; its errors keep it.
        """
        with self._write() as conn:
            found = _find(conn, dataset_id)
            needed_by = jobs_needing(conn, found.id)
            if needed_by:
                raise ConflictError(
                    f"Dataset {dataset_id!r} is needed by {', '.join(needed_by)};"
                    " cancel these jobs first."
                )
            last()
            conn.execute(delete(datasets).where(datasets.c.id == found.id))


def _next_version(conn: Connection, name: str) -> int:
    held = datasets.c.held_name.is_not(None)
    newest = select(func.max(datasets.c.version)).where(datasets.c.name == name, held)
    return (conn.execute(newest).scalar_one() or 0) + 1


def _find(conn: Connection, id_or_name: str) -> StoredDataset:
    named, _, version = id_or_name.partition("@")
    asked = datasets.c.name == named
    if version or "@" in id_or_name:
        is_number = version.isascii() and version.isdecimal() and len(version) < 10
        asked &= datasets.c.version == (int(version) if is_number else 0)
    query = (
        select(datasets)
        .where(or_(datasets.c.id == id_or_name, asked))
        .order_by(
            (datasets.c.id == id_or_name).desc(),
            case({"ready": 0, "importing": 1}, value=datasets.c.status, else_=2),
            datasets.c.version.desc(),
            datasets.c.created_at.desc(),
        )
    )
    row = conn.execute(query.limit(1)).mappings().one_or_none()
    if row is None:
        names = list(
            conn.execute(
                select(datasets.c.name)
                .where(datasets.c.held_name.is_not(None))
                .distinct()
                .order_by(datasets.c.name)
                .limit(20)
            ).scalars()
        )
        raise NotFoundError(
            f"Dataset {id_or_name!r} does not exist; there is {', '.join(names) or 'none yet'}."
        )
    return _dataset(row)


def _dataset(row: RowMapping) -> StoredDataset:
    return StoredDataset(**{key: value for key, value in row.items() if key != "held_name"})
