"""Owns the stored keys: what was given out, to open what, until when."""

from typing import Any

from sqlalchemy import RowMapping, insert, select, update

from app.errors import NotFoundError
from app.keys import Key
from app.store.database import Database
from app.store.tables import keys


class KeyStore(Database):
    """The keys of a service. None is ever removed: a log may name it."""

    def add_key(
        self, name: str, digest: str, scopes: frozenset[str], days: float | None = None
    ) -> Key:
        """Store the digest of a key that opens `scopes`, for so many days or for good."""
        now = self._clock()
        key = Key(
            id=f"key_{self._token(4)}",
            name=name,
            digest=digest,
            scopes=scopes,
            created_at=now,
            expires_at=None if days is None else now + 86_400 * days,
        )
        row = {**vars(key), "scopes": sorted(scopes)}
        with self._write() as conn:
            conn.execute(insert(keys).values(row))
        return key

    def list_keys(self) -> list[Key]:
        """In the order in which they were made, those that open nothing any more too."""
        query = select(keys).order_by(keys.c.created_at, keys.c.id)
        with self._read() as conn:
            return [_key(row) for row in conn.execute(query).mappings()]

    def revoke_key(self, key_id: str) -> Key:
        """Let a key open nothing from now on; once is enough. Raises NotFoundError."""
        this = keys.c.id == key_id
        now = {"revoked_at": self._clock()}
        with self._write() as conn:
            conn.execute(update(keys).where(this, keys.c.revoked_at.is_(None)).values(now))
            row = conn.execute(select(keys).where(this)).mappings().one_or_none()
        if row is None:
            raise NotFoundError(f"Key {key_id!r} does not exist; noisewell keys list shows all.")
        return _key(row)


def _key(row: RowMapping) -> Key:
    more: dict[str, Any] = {"scopes": frozenset(row["scopes"])}
    return Key(**{**row, **more})
