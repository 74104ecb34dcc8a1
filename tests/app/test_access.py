import asyncio
import json
from collections.abc import Iterator

import pytest
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from app.access import Access
from app.metrics import Metrics

KEY = "correct-horse-battery-staple"


def make_scope() -> Scope:
    return {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}


def send_through(app: ASGIApp, metrics: Metrics) -> list[Message]:
    """What leaves when `app` stands behind."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Access(app, metrics)(make_scope(), receive, send))  # type: ignore[arg-type]
    return sent


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("boom")


async def say_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """As when the client has left."""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"X-Request-ID", b"r-7")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x"})


@pytest.fixture
def lines() -> Iterator[list[dict]]:
    with capture_logs() as captured:
        yield captured


def test_a_request_that_crashes_is_counted_too(lines) -> None:
    metrics = Metrics()
    with pytest.raises(RuntimeError, match="boom"):
        send_through(crash, metrics)
    assert b'noisewell_requests_total{route="other",status="500"} 1.0' in metrics.text()
    assert b'noisewell_rejections_total{cause="internal"} 1.0' in metrics.text()
    assert [line["status"] for line in lines] == [500]


def test_a_client_that_left_is_told_as_such(lines) -> None:
    send_through(say_nothing, Metrics())
    assert [line["status"] for line in lines] == [499]


def test_a_line_carries_the_id_of_its_request(lines) -> None:
    send_through(answer, Metrics())
    (line,) = lines
    assert (line["request_id"], line["method"], line["status"]) == ("r-7", "GET", 200)
    assert line["ms"] >= 0


def test_every_request_leaves_one_line_and_probes_leave_none(
    registry, make_version, start, lines
) -> None:
    make_version(registry)
    with start() as service:
        lines.clear()
        for path in ("/health/live", "/health/ready", "/metrics"):
            service.get(path)
        service.get("/v1/models/toy/images/7.png")
        service.get("/v1/models/cat/images/7.png?api_key=" + KEY)
        service.get("/nowhere?api_key=" + KEY)
    told = [line for line in lines if line["event"] == "request"]
    route = "/v1/models/{model}/images/{seed}.png"
    shown = [(line["route"], line["status"], line.get("cause")) for line in told]
    assert shown == [(route, 200, None), (route, 404, "not_found"), ("other", 404, "not_found")]
    assert told[2]["path"] == "/nowhere"
    assert KEY not in json.dumps(told)


def test_lines_of_requests_can_be_switched_off(registry, make_version, start, lines) -> None:
    make_version(registry)
    with start(log_requests=False) as service:
        service.get("/v1/models/toy/images/7.png")
    assert not [line for line in lines if line["event"] == "request"]


def test_what_one_request_binds_to_its_log_stays_out_of_the_next(lines) -> None:
    bound: list[dict] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        bound.append(structlog.contextvars.get_contextvars())

    with structlog.contextvars.bound_contextvars(request_id="of another"):
        send_through(look, Metrics())
    assert bound == [{}]


def test_refusals_are_counted_by_their_cause(registry, make_version, start) -> None:
    make_version(registry)
    with start(api_key=KEY) as service:
        headers = {"X-API-Key": KEY}
        service.get("/v1/models")
        service.images(n=1)
        service.get("/v1/models/cat/images/7.png", headers=headers)
        text = service.get("/metrics", headers=headers).text
    found = [line for line in text.splitlines() if line.startswith("noisewell_rejections_total")]
    assert sorted(found) == [
        'noisewell_rejections_total{cause="not_found"} 1.0',
        'noisewell_rejections_total{cause="unauthorized"} 2.0',
    ]


def test_requests_are_counted_by_route_not_by_path(registry, make_version, start) -> None:
    make_version(registry)
    with start() as service:
        for i in range(20):
            service.get(f"/v1/models/toy/images/{i}.png")
            service.get(f"/nowhere/{i}")
            service.get(f"/v1/models/unknown-{i}")
        text = service.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("noisewell_requests_total")]
    assert sorted(lines) == [
        'noisewell_requests_total{route="/v1/models/{model}",status="404"} 20.0',
        'noisewell_requests_total{route="/v1/models/{model}/images/{seed}.png",status="200"} 20.0',
        'noisewell_requests_total{route="other",status="404"} 20.0',
    ]
