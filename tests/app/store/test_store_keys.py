from pathlib import Path

import pytest

from app.errors import NotFoundError
from app.keys import digest_of, new_key
from app.scopes import ALL
from app.store.store import Store


def test_a_key_is_stored_as_its_digest_alone(store: Store, tmp_path: Path) -> None:
    key = new_key()
    store.add_key("ci", digest_of(key), frozenset(["train", "read"]), days=2)
    (found,) = store.list_keys()
    assert (found.name, found.scopes) == ("ci", {"read", "train"})
    assert found.expires_at == found.created_at + 2 * 86_400
    assert key.encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_a_revoked_key_stays_revoked_since_the_first_time(store: Store) -> None:
    key = store.add_key("", digest_of("k"), ALL)
    first = store.revoke_key(key.id).revoked_at
    assert first is not None
    assert store.revoke_key(key.id).revoked_at == first
    with pytest.raises(NotFoundError, match="noisewell keys list"):
        store.revoke_key("key_0")
