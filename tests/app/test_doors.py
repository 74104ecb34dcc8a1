import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.doors import Doors, UndeclaredError, doors_of
from app.keys import digest_of, new_key
from app.main import create_app
from app.scopes import DECLARED, PUBLIC, SCOPE_OF, SCOPES

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, run_service) -> Iterator[Any]:
    """A service with a key of each scope, an expired one and a revoked one, as `keys`."""
    with run_service(tmp_path_factory.mktemp("guarded")) as service:
        store = service.context.store
        service.keys = {kind: new_key() for kind in (*SCOPES, "expired", "revoked")}
        for scope in SCOPES:
            store.add_key(scope, digest_of(service.keys[scope]), frozenset([scope]))
        everything = frozenset(SCOPES)
        store.add_key("late", digest_of(service.keys["expired"]), everything, days=-1)
        revoked = store.add_key("out", digest_of(service.keys["revoked"]), everything)
        store.revoke_key(revoked.id)
        service.context.keyring.put(store.list_keys())
        yield service


def asked(service: Any, doors: list[tuple[str, str]], key: str | None) -> list[httpx.Response]:
    options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}} if key else {}
    return service.together([(method, path, options) for method, path in doors])


def every_door(app: FastAPI) -> dict[tuple[str, str], str | None]:
    """Every path there is, with something for its parameters, by every method: who may."""
    paths = {door.partition(" ")[2] for door in doors_of(app.routes)}
    return {
        (method, re.sub(r"\{.*?\}", "1", path)): SCOPE_OF.get(f"{method} {path}")
        for path in paths
        for method in METHODS
    }


@pytest.mark.parametrize("kind", ["none", "bad", "expired", "revoked", "another's digest"])
def test_what_is_no_valid_key_opens_nothing_but_the_probes(guarded, kind: str) -> None:
    key = {"none": None, "bad": new_key(), "another's digest": digest_of(guarded.keys["admin"])}
    doors = every_door(guarded.app)
    assert len(doors) > 250
    shown = key[kind] if kind in key else guarded.keys[kind]
    for (door, wanted), answer in zip(
        doors.items(), asked(guarded, list(doors), shown), strict=True
    ):
        assert (answer.status_code == 401) == (wanted != PUBLIC), door


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_opens_what_its_scope_says_and_nothing_else(guarded, scope: str) -> None:
    doors = every_door(guarded.app)
    answers = asked(guarded, list(doors), guarded.keys[scope])
    for (door, wanted), answer in zip(doors.items(), answers, strict=True):
        if wanted is None:  # no such route
            assert answer.status_code in (404, 405), door
        elif wanted in (PUBLIC, scope) or scope == "admin":
            assert answer.status_code not in (401, 403), door
        else:
            assert answer.status_code == 403, door


def test_each_kind_of_key_has_something_to_open_and_something_not_to() -> None:
    app = create_app()
    assert set(DECLARED) == {PUBLIC, *SCOPES}
    assert set(DECLARED[PUBLIC]) == {"GET /health/live", "GET /health/ready"}
    assert set(doors_of(app.routes)) == SCOPE_OF.keys()
    assert len(SCOPE_OF) == sum(map(len, DECLARED.values()))  # no door has two scopes


def test_an_undeclared_route_is_not_built() -> None:
    app = create_app()
    app.add_api_route("/v1/secret", lambda: None, methods=["POST"])
    with pytest.raises(UndeclaredError, match=r"POST /v1/secret: in app/scopes.py"):
        Doors(app.routes)


def test_a_scope_of_no_route_is_not_built() -> None:
    app = create_app()
    with pytest.raises(UndeclaredError, match=r"POST /v1/models/\{model\}/rollback"):
        Doors(app.routes[:1])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/models/toy/versions/9%0A"),
        ("POST", "/v1/models/toy/rollback%0A"),
        ("PUT", "/v1/models/toy/aliases/champion%0A"),
        ("DELETE", "/v1/models/a%0Ab/versions/9"),
        ("DELETE", "/v1/models/%2E%2E/versions/9"),
        ("DELETE", "/v1/datasets/a%3Fb"),
    ],
)
def test_no_spelling_of_a_path_is_another_door(guarded, method: str, path: str) -> None:
    answer = asked(guarded, [(method, path)], guarded.keys["read"])[0]
    assert answer.status_code == 403
    assert asked(guarded, [(method, path)], guarded.keys["admin"])[0].status_code != 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "//v1/models"),
        ("GET", "/v1//models"),
        ("GET", "/V1/models"),
        ("POST", "/v1/images;x"),
        ("GET", "/static"),
    ],
)
def test_what_is_no_door_leads_nowhere(guarded, method: str, path: str) -> None:
    assert asked(guarded, [(method, path)], None)[0].status_code == 401
    assert asked(guarded, [(method, path)], guarded.keys["read"])[0].status_code in (307, 404)


def test_a_refusal_says_which_key_has_what_and_what_is_wanted(guarded) -> None:
    denied = asked(guarded, [("POST", "/v1/models/toy/rollback")], guarded.keys["read"])[0]
    assert denied.json()["code"] == "forbidden"
    assert re.match(
        r"key key_[0-9a-f]{8} has the scope read, and POST here wants admin;"
        r" noisewell keys create --scope admin",
        denied.json()["detail"],
    )
    for kind, told in (("expired", r"expired at \d{4}-"), ("revoked", r"was revoked at \d{4}-")):
        detail = asked(guarded, [("GET", "/v1/models")], guarded.keys[kind])[0].json()["detail"]
        assert re.match(rf"key key_[0-9a-f]{{8}} {told}.*noisewell keys create", detail)


def test_the_openapi_document_names_the_scope_of_each_route() -> None:
    document = create_app().openapi()
    told = {
        f"{method.upper()} {path}": {s for one in operation.get("security", []) for s in one}
        | {scope for one in operation.get("security", []) for (scope,) in one.values()}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    schemes = set(document["components"]["securitySchemes"])
    assert len(told) > 30
    for door, found in told.items():
        assert found == (set() if SCOPE_OF[door] == PUBLIC else schemes | {SCOPE_OF[door]}), door
