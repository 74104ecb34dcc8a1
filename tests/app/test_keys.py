import base64
import itertools
import time

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from app.errors import UnauthorizedError
from app.keys import FIRST, Key, Keyring, digest_of, new_key
from app.scopes import ALL
from app.store.store import Store

PATIENCE_SEC = 30


def made(key: str, **about: float) -> Key:
    return Key("key_1", "ci", digest_of(key), frozenset(["read"]), created_at=1, **about)


def test_keys_are_256_bits_of_chance() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(key.startswith("nw_") and len(key) == 3 + 43 for key in keys)


def test_a_ring_without_keys_is_not_locked_and_finds_none() -> None:
    ring = Keyring(None)
    assert not ring.locked
    with pytest.raises(UnauthorizedError):
        ring.find("")


def test_the_key_of_the_environment_opens_everything_beside_stored_ones() -> None:
    ring = Keyring(SecretStr("first"))
    ring.put([made("second")])
    assert (ring.find("first").id, ring.find("first").scopes) == (FIRST, ALL)
    assert ring.find("second").name == "ci"
    ring.put([])
    assert ring.locked
    with pytest.raises(UnauthorizedError):
        ring.find("second")


@pytest.mark.parametrize(("now", "valid"), [(9.9, True), (10.0, False), (10.1, False)])
def test_a_key_ends_at_its_second(now: float, valid: bool) -> None:
    ring = Keyring(None, clock=lambda: now)
    ring.put([made("k", expires_at=10)])
    if valid:
        assert ring.find("k").state(now) == "valid"
    else:
        with pytest.raises(UnauthorizedError, match="key_1 expired at 1970-01-01"):
            ring.find("k")


@pytest.mark.parametrize("ended", [{"expires_at": 5}, {"revoked_at": 5}])
def test_a_service_whose_last_key_has_ended_stays_locked(ended: dict[str, float]) -> None:
    ring = Keyring(None)
    ring.put([made("k", **ended)])
    assert ring.locked


def test_text_that_is_no_utf8_is_no_key() -> None:
    ring = Keyring(SecretStr("k"))
    for shown in ("\udcff", "\x00", "k\n", "ключ", "k" * 100_000):
        with pytest.raises(UnauthorizedError):
            ring.find(shown)


# In a running service


def until(service, key: str, status: int) -> float:
    """How long a request with the key took to be answered so."""
    began = time.monotonic()
    while service.get("/v1/models", headers={"X-API-Key": key}).status_code != status:
        assert time.monotonic() < began + PATIENCE_SEC
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_running_service_follows_keys_that_another_process_makes_and_revokes(start) -> None:
    with start(poll_sec=0.05) as service:
        assert service.get("/v1/models").status_code == 200
        other = Store.open(service.context.settings.database_path)
        key = new_key()
        made = other.add_key("", digest_of(key), frozenset(["read"]))
        until(service, "", 401)
        assert until(service, key, 200) < PATIENCE_SEC
        other.revoke_key(made.id)
        until(service, key, 401)
        other.close()


def test_a_service_that_cannot_read_its_keys_goes_on_with_those_it_knows(
    start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(poll_sec=0.02) as service:
        store, key = service.context.store, new_key()
        store.add_key("", digest_of(key), frozenset(["read"]))
        until(service, "", 401)
        tries = itertools.count()

        def broken() -> list[Key]:
            next(tries)
            raise OperationalError("SELECT", {}, OSError("disk I/O error"))

        monkeypatch.setattr(store, "list_keys", broken)
        before = next(tries)
        while next(tries) < before + 5:
            time.sleep(0.02)
        assert service.get("/v1/models", headers={"X-API-Key": key}).status_code == 200
        assert service.get("/v1/models").status_code == 401


# In a browser


def basic(password: str, name: str = "me") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def test_a_browser_asks_for_the_key_and_sends_it_as_a_password(start) -> None:
    with start(api_key="s:cret") as service:
        page = service.get("/")
        assert page.status_code == 401
        challenges = page.headers.get_list("WWW-Authenticate")
        assert [c.partition(" ")[0] for c in challenges] == ["Bearer", "Basic"]
        assert service.get("/", headers=basic("s:cret")).status_code == 200
        assert service.get("/", headers=basic("s:cret", name="")).status_code == 200


@pytest.mark.parametrize("sent", ["Basic", "Basic !", "Basic czNjcmV0", "Basic /w==", "Basic =="])
def test_a_name_and_password_that_are_none_open_nothing(start, sent: str) -> None:
    with start(api_key="s3cret") as service:
        assert service.get("/v1/models", headers={"Authorization": sent}).status_code == 401
        assert service.get("/v1/models", headers=basic("wrong")).status_code == 401
