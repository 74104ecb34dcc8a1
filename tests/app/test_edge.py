import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.doors import Doors
from app.edge import Edge
from app.keys import Keyring
from app.main import create_app
from app.origins import Origins, is_loopback

KEY = "correct horse battery staple"
PUBLIC = {"/health/live", "/health/ready"}


@pytest.fixture(scope="module")
def locked_service(tmp_path_factory: pytest.TempPathFactory, run_service) -> Iterator[Any]:
    """A service that wants KEY."""
    with run_service(tmp_path_factory.mktemp("locked"), api_key=KEY) as service:
        yield service


def doors(service) -> list[tuple[str, str]]:
    """Every method × path there is, with something in place of the parameters."""
    found = [("GET", "/static/studio.css"), ("HEAD", "/static/x")]  # a mount has no routes
    for route in iter_route_contexts(service.app.routes):
        path = re.sub(r"\{.*?\}", "1", route.path or "")
        found += [(method, path) for method in route.methods or ()]
    return found


def test_without_the_key_every_door_but_the_probes_is_shut(locked_service) -> None:
    found = doors(locked_service)
    assert len(found) > 25
    assert {path for _, path in found} >= PUBLIC | {"/", "/docs", "/openapi.json", "/metrics"}
    for answer in locked_service.together([(method, path, {}) for method, path in found]):
        path = answer.request.url.path
        assert (answer.status_code == 401) == (path not in PUBLIC), path


def test_no_method_and_no_path_slips_by(locked_service) -> None:
    asked = [(method, "/v1/models", {}) for method in ("OPTIONS", "TRACE", "PATCH", "HEAD", "X")]
    for path in ("/nowhere", "/healthy", "/health", "/Health/live", "//health/live", "/v1/health/"):
        asked.append(("GET", path, {}))
    for answer in locked_service.together(asked):
        assert answer.status_code == 401, answer.request.url


@pytest.mark.parametrize(
    "path", ["/health/../v1/models", "/health/%2e%2e/v1/models", "/health//v1/models", "/health/x"]
)
def test_a_path_that_only_begins_like_a_probe_is_shut(locked_service, path: str) -> None:
    async def ask() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = make_scope(path)
        await locked_service.app(scope, receive_nothing, send)
        return sent

    assert locked_service.portal.call(ask)[0]["status"] == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
        {"Authorization": "Basic dXNlcjpwdw==", "X-API-Key": KEY},
    ],
)
def test_the_key_opens_every_door(locked_service, headers: dict[str, str]) -> None:
    assert locked_service.get("/v1/models", headers=headers).status_code == 200
    for method, path in doors(locked_service):
        answer = locked_service.request(method, path, headers=headers)
        assert answer.status_code != 401, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": "Bearer wrong", "X-API-Key": KEY},
        {"X-API-Key": ""},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": "\xff"},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_a_wrong_key_opens_none(locked_service, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = locked_service.get("/v1/models", headers=raw)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["content-type"] == "application/problem+json"
    challenges = answer.headers.get_list("WWW-Authenticate")
    assert [challenge.partition(" ")[0] for challenge in challenges] == ["Bearer", "Basic"]
    assert "Authorization: Bearer" in answer.json()["detail"]


def test_a_key_in_the_url_is_no_key(locked_service) -> None:
    assert locked_service.get("/v1/models", params={"api_key": KEY}).status_code == 401


def test_without_a_key_set_all_doors_are_open(toy) -> None:
    assert toy.get("/v1/models").status_code == 200
    assert toy.get("/v1/models", headers={"X-API-Key": "whatever"}).status_code == 200


def test_every_answer_of_every_door_tells_browsers_what_it_may_do(locked_service, toy) -> None:
    for service in (toy, locked_service):
        asked = [*doors(service), ("GET", "/nowhere"), ("PATCH", "/"), ("GET", "/static/studio.js")]
        answers = service.together([(method, path, {}) for method, path in asked])
        answers.append(service.get("/v1/models/toy/images/7.png"))
        for answer in answers:
            told = answer.headers
            assert told["X-Content-Type-Options"] == "nosniff"
            assert told["Referrer-Policy"] == "no-referrer"
            assert told["Cross-Origin-Resource-Policy"] == "same-site"
            (policy,) = told.get_list("Content-Security-Policy")
            assert "frame-ancestors 'none'" in policy
            page = answer.status_code == 200 and "text/html" in told["Content-Type"]
            assert ("default-src 'self'" in policy) == page
            assert ("sandbox" in policy) != page


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.0.7", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("127.1", False),
        ("example.com", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize("path", ["/health/live", "/v1/models", "/nowhere"])
def test_every_answer_carries_the_id_of_its_request(locked_service, path: str) -> None:
    sane = locked_service.get(path, headers={"X-Request-ID": "order-7.a_b"})
    assert sane.headers.get_list("X-Request-ID") == ["order-7.a_b"]
    for given in ("x" * 65, "a b", "<b>", ""):
        made = locked_service.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"]
        assert re.fullmatch("[0-9a-f]{16}", made)


# The layer alone


def make_scope(path: str = "/", kind: str = "http") -> Scope:
    return {
        "type": kind,
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("localhost", 80),
    }


async def receive_nothing() -> Message:
    return {"type": "http.disconnect"}


def send_through(app: ASGIApp, scope: Scope) -> list[Message]:
    """What the edge sends when `app` stands behind it."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    edge = Edge(app, Keyring(None), Doors(create_app().routes), Origins(True, ()))
    asyncio.run(edge(scope, receive_nothing, send))
    return sent


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("boom")


def test_web_sockets_are_closed() -> None:
    sent = send_through(crash, make_scope(kind="websocket"))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("address", "answered"),
    [
        (("127.0.0.1", 80), True),
        (("::1", 80), True),
        (("localhost", 80), True),
        (("/run/noisewell.sock", None), True),
        (None, True),
        (("10.0.0.7", 80), False),
        (("0.0.0.0", 80), False),
        (("fe80::1", 80), False),
    ],
)
@pytest.mark.parametrize("end", ["server", "client"])
def test_without_a_key_only_its_own_machine_is_answered(end, address, answered: bool) -> None:
    """The server: under another one than our own nobody else looks at where it listens. The client:
    a proxy on this machine would open it to whoever reaches the proxy."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    sent = send_through(app, {**make_scope("/v1/models"), end: address})
    assert bool(seen) == answered
    assert answered or sent[0]["status"] == 401
    send_through(app, {**make_scope("/health/live"), end: address})
    assert len(seen) == 1 + answered
