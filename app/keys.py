"""Owns keys: how one is made, what is kept of it, and whether one that is shown opens anything."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import SecretStr

from app.errors import UnauthorizedError
from app.scopes import ALL

PREFIX = "nw_"  # so that scanners for leaked secrets, and our own logs, know one
FIRST = "environment"  # what the key of the environment is called


@dataclass(frozen=True)
class Key:
    """What is kept of a key: SHA-256 of it in hex, never itself. Times: seconds since the epoch."""

    id: str
    name: str
    digest: str
    scopes: frozenset[str]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def opens(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def state(self, now: float) -> str:
        """valid, revoked or expired."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


def new_key() -> str:
    """256 bits from the system's generator, as text that needs no quoting."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """Of 256 random bits, which no dictionary holds, one round of a plain hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Keyring:
    """The keys a service knows: that of its environment, and those stored.

    With one it is locked, and stays so when the last was revoked or expired.
    """

    def __init__(self, first: SecretStr | None, clock: Callable[[], float] = time.time) -> None:
        """first: opens everything and never expires; it is no part of what is stored."""
        self._clock = clock
        self._first: dict[str, Key] = {}
        if first is not None:
            digest = digest_of(first.get_secret_value())
            self._first[digest] = Key(FIRST, FIRST, digest, ALL, created_at=0)
        self._known = self._first

    @property
    def locked(self) -> bool:
        """Whether anything but a probe wants a key."""
        return bool(self._known)

    def put(self, stored: Iterable[Key]) -> None:
        """What is stored now; a key that is missing counts no more. Any thread may call it."""
        self._known = {key.digest: key for key in stored} | self._first

    def find(self, shown: str) -> Key:
        """The valid key that this is; raises UnauthorizedError.

        Found by its digest: how long that takes tells of the digest of what was sent, which its
        sender knows, and nothing of a key.
        """
        digest = digest_of(shown)
        key = self._known.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise UnauthorizedError(
                "this path wants a key of this service; send it as 'Authorization: Bearer <key>'"
                " (noisewell keys create makes one)"
            )
        state = key.state(self._clock())
        if state != "valid":
            at = datetime.fromtimestamp(key.revoked_at or key.expires_at or 0, UTC)
            raise UnauthorizedError(
                f"key {key.id} {'was revoked' if state == 'revoked' else 'expired'} at"
                f" {at:%Y-%m-%d %H:%M} UTC; noisewell keys create makes another"
            )
        return key
