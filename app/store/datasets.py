"""Owns the index of datasets: their names, and how far each import has come."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, update

from app.errors import ConflictError, NotFoundError
from app.store.database import Database
from app.store.jobs import jobs_needing
from app.store.tables import datasets

DatasetStatus = Literal["importing", "ready", "failed"]


@dataclass(frozen=True)
class StoredDataset:
    """A row of `datasets`; times are seconds since the epoch.

    upload: basename of the spooled upload. summary: the packed dataset's manifest, once ready.
    """

    id: str
    name: str
    status: DatasetStatus
    upload: str | None
    summary: dict[str, Any] | None
    error: str | None
    created_at: float
    finished_at: float | None


class DatasetStore(Database):
    """The datasets of a service; a name belongs to one dataset that has not failed."""

    def create_dataset(self, dataset_id: str, name: str, upload: str | None) -> StoredDataset:
        """Take the name for an import that begins; raises ConflictError if it is taken."""
        with self._write() as conn:
            holder = conn.execute(select(datasets.c.id).where(datasets.c.held_name == name))
            taken_by = holder.scalar_one_or_none()
            if taken_by is not None:
                raise ConflictError(
                    f"Dataset name {name!r} is taken by {taken_by!r}; choose another name or"
                    " delete that dataset.",
                    field="name",
                )
            values = {
                "id": dataset_id,
                "name": name,
                "held_name": name,
                "status": "importing",
                "upload": upload,
                "created_at": self._clock(),
            }
            created = insert(datasets).values(values).returning(datasets)
            return _dataset(conn.execute(created).mappings().one())

    def get_dataset(self, id_or_name: str) -> StoredDataset:
        """By id, or else by name, the newest if failed ones share it; raises NotFoundError."""
        with self._read() as conn:
            return _find(conn, id_or_name)

    def list_datasets(self) -> list[StoredDataset]:
        """The newest first."""
        query = select(datasets).order_by(datasets.c.created_at.desc(), datasets.c.id.desc())
        with self._read() as conn:
            return [_dataset(row) for row in conn.execute(query).mappings()]

    def finish_dataset(
        self,
        dataset_id: str,
        status: Literal["ready", "failed"],
        *,
        summary: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End an import, which frees the name if it failed; False if there is none to end."""
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
        """Let a dataset that was ready count as failed, which frees its name; False if none was."""
        ready = (datasets.c.id == dataset_id, datasets.c.status == "ready")
        lost = {"status": "failed", "error": error, "held_name": None}
        with self._write() as conn:
            return conn.execute(update(datasets).where(*ready).values(lost)).rowcount == 1

    def delete_dataset(self, dataset_id: str) -> None:
        """Raises NotFoundError, or ConflictError while a job that has not ended needs it."""
        with self._write() as conn:
            found = _find(conn, dataset_id)
            needed_by = jobs_needing(conn, found.id)
            if needed_by:
                raise ConflictError(
                    f"Dataset {dataset_id!r} is needed by {', '.join(needed_by)};"
                    " cancel these jobs first."
                )
            conn.execute(delete(datasets).where(datasets.c.id == found.id))


def _find(conn: Connection, id_or_name: str) -> StoredDataset:
    query = (
        select(datasets)
        .where(or_(datasets.c.id == id_or_name, datasets.c.name == id_or_name))
        .order_by(
            (datasets.c.id == id_or_name).desc(),
            datasets.c.held_name.is_(None),
            datasets.c.created_at.desc(),
        )
    )
    row = conn.execute(query.limit(1)).mappings().one_or_none()
    if row is None:
        names = list(
            conn.execute(
                select(datasets.c.held_name)
                .where(datasets.c.held_name.is_not(None))
                .order_by(datasets.c.held_name)
                .limit(20)
            ).scalars()
        )
        raise NotFoundError(
            f"Dataset {id_or_name!r} does not exist; there is {', '.join(names) or 'none yet'}."
        )
    return _dataset(row)


def _dataset(row: RowMapping) -> StoredDataset:
    return StoredDataset(**{key: value for key, value in row.items() if key != "held_name"})
