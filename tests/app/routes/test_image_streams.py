import asyncio
import base64
import http.client
import io
import json
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pytest
import uvicorn

from app import png

PATIENCE_SEC = 30.0
BATCH = 64
KINDS = ("npy", "zip", "ndjson", "json")


def metric(service, name: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def generated(service) -> float:
    return metric(service, "noisewell_inference_count_total")


def wait_until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SEC
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)  # threads of the service tell nobody of what they do


def array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def files(response: str, data: bytes) -> list[bytes]:
    """The image files in an answer."""
    if response == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            return [archive.read(name) for name in archive.namelist()]
    objects = json.loads(data)["data"] if response == "json" else map(json.loads, data.splitlines())
    return [base64.b64decode(one["b64_json"]) for one in objects]


class Reader:
    """A client of POST /v1/images that takes one message of the answer at a time, or leaves."""

    def __init__(self, service, **asked: Any) -> None:
        self._service = service
        self._body = json.dumps({"model": "toy", **asked}).encode()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1)
        self._left = asyncio.Event()
        self._arriving = [{"type": "http.request", "body": self._body, "more_body": False}]
        self.answer = service.portal.start_task_soon(self._ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()
        self.answer.result(PATIENCE_SEC)

    async def _ask(self) -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/images", "query_string": b""}
        scope |= {"raw_path": b"/v1/images", "scheme": "http", "server": ("localhost", 80)}
        scope |= {"headers": [(b"content-type", b"application/json")]}
        await self._service.app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._arriving:
            return self._arriving.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if not self._left.is_set():
            await self._messages.put(message)
        elif not self._messages.full():  # else nobody would ever take it
            self._messages.put_nowait(message)

    def next(self) -> dict[str, Any]:
        return self._service.portal.start_task_soon(self._messages.get).result(PATIENCE_SEC)

    def rest(self) -> bytes:
        """All that is still to come, if it ends as it should."""
        data = b""
        while (message := self.next()).get("more_body"):
            data += message["body"]
        return data + message["body"]

    def leave(self) -> None:
        self._service.portal.call(self._left.set)


@contextmanager
def listening(service) -> Iterator[http.client.HTTPConnection]:
    """A connection to the service through a real server and a real socket."""
    config = uvicorn.Config(service.app, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = service.portal.start_task_soon(server.serve, [listener])
        connection = http.client.HTTPConnection(*listener.getsockname(), timeout=PATIENCE_SEC)
        try:
            yield connection
        finally:
            connection.close()
            server.should_exit = True
            served.result(PATIENCE_SEC)


def post(connection: http.client.HTTPConnection, **asked: Any) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/images", json.dumps({"model": "toy", **asked}), headers)
    return connection.getresponse()


@pytest.fixture
def service(registry, make_version, start):
    make_version(registry)
    with start(max_image_streams=1) as running:
        yield running


# The same bytes


@pytest.mark.parametrize("response", KINDS)
def test_a_stream_holds_what_each_image_is_alone(toy, response: str) -> None:
    data = toy.images(seed=7, n=300, response=response).content
    alone = [7, 8, 70, 71, 72, 134, 135, 306]  # on both sides of where parts end
    if response == "npy":
        pieces = [array(toy.images(seed=s, n=1, response="npy").content)[0] for s in alone]
        assert np.array_equal(array(data)[[s - 7 for s in alone]], pieces)
        assert len(array(data)) == 300
    else:
        streamed = files(response, data)
        pieces = [toy.get(f"/v1/models/toy/images/{s}.png").content for s in alone]
        assert [streamed[s - 7] for s in alone] == pieces
        assert len(streamed) == 300


@pytest.mark.parametrize("response", KINDS)
def test_what_is_listed_is_taken_one_by_one_over_all_parts(toy, response: str) -> None:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((150, 8)).astype(np.float32)
    classes = rng.integers(3, size=150).tolist()
    asked = {"latents": latents.tolist(), "classes": classes, "truncation": 0.5}
    loaded = toy.context.engine.get("toy", None)
    expected = loaded.sampler(latents * np.float32(0.5), np.array(classes))
    data = toy.images(**asked, response=response).content
    if response == "npy":
        assert np.array_equal(array(data), expected)
    else:
        assert np.array_equal(
            [png.read(file, max_bytes=10**6, max_pixels=64)[0] for file in files(response, data)],
            expected,
        )


def test_a_class_for_all_is_asked_for_in_every_part(toy) -> None:
    body = toy.images(seed=0, n=150, response="ndjson", **{"class": "dog"}).content
    assert [json.loads(line)["class"] for line in body.splitlines()] == ["dog"] * 150


def test_a_stream_stays_with_the_version_it_began_with(service, registry, make_version) -> None:
    expected = service.images(seed=0, n=20 * BATCH, response="npy").content
    with Reader(service, seed=0, n=20 * BATCH, response="npy") as reader:
        start = dict(reader.next()["headers"])
        registry.promote("toy", make_version(registry, weights=1), "a test")
        service.context.engine.refresh()
        assert service.images(n=1).headers["X-Model-Version"] == "2"
        assert reader.rest() == expected
    assert start[b"x-model-version"] == b"1"


# Sent as it is made


@pytest.mark.parametrize("response", KINDS[:3])
def test_no_more_is_made_than_the_client_takes(service, response: str) -> None:
    before = generated(service)
    with Reader(service, seed=0, n=100 * BATCH, response=response) as reader:
        reader.next()
        assert len(reader.next()["body"]) > BATCH * 64  # the first part, before others are made
        time.sleep(0.3)  # which is enough for all 100 parts
        assert generated(service) - before <= 6 * BATCH
        reader.rest()
    assert generated(service) - before == 100 * BATCH


def test_the_length_of_npy_is_known_before_it_is_made(toy) -> None:
    for n in (1, 300):
        answer = toy.images(n=n, response="npy")
        assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_a_stream_may_hold_more_images_and_pixels_than_an_answer_in_one_piece(
    registry, make_version, start
) -> None:
    make_version(registry)
    with start(max_images_per_request=4, max_pixels_per_request=320) as service:
        assert len(array(service.images(n=2000, response="npy").content)) == 2000
        refused = service.images(n=5, response="json")
        assert refused.status_code == 422
        assert "for npy or zip or ndjson" in refused.json()["detail"]


# Who leaves


def test_who_leaves_in_the_middle_ends_the_work(service) -> None:
    with Reader(service, n=100 * BATCH, response="npy") as reader:
        reader.next(), reader.next()
    assert len(array(service.images(n=300, response="npy").content)) == 300  # its place is free
    assert service.context.batcher.queued_images == 0
    assert generated(service) <= 6 * BATCH + 300


def test_who_leaves_before_the_first_part_ends_the_work(service) -> None:
    with service.held(), Reader(service, n=100 * BATCH, response="npy") as reader:
        wait_until(lambda: service.context.batcher.queued_images == 2 * BATCH)
        reader.leave()
        assert reader.next()["status"] == 499
        assert service.context.batcher.queued_images == 0
    assert generated(service) == 1


def test_a_connection_that_is_cut_ends_the_work(service) -> None:
    with listening(service) as connection:
        answer = post(connection, n=100_000, response="ndjson")
        assert answer.status == 200
        answer.read(10_000)
        answer.close()
        connection.close()
        wait_until(lambda: service.images(n=65, response="npy").status_code == 200)
        wait_until(lambda: service.context.batcher.queued_images == 0)
    assert generated(service) < 90_000


# What goes wrong


def breaking_at(part: int, monkeypatch) -> None:
    """Let the files of the so-and-so-manyth part fail."""
    encode_many, parts = png.encode_many, iter(range(1000))

    def encode(*args: Any) -> list[bytes]:
        if next(parts) == part:
            raise RuntimeError("broken on purpose")
        return encode_many(*args)

    monkeypatch.setattr(png, "encode_many", encode)


@pytest.mark.parametrize("response", ["zip", "ndjson", "json"])
def test_an_error_before_the_first_part_is_answered_as_such(
    service, monkeypatch, response: str
) -> None:
    breaking_at(0, monkeypatch)
    answer = service.images(n=300, response=response)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert service.images(n=300, response=response).status_code == 200  # its place is free


@pytest.mark.parametrize("response", ["zip", "ndjson", "json"])
def test_an_error_in_the_middle_breaks_the_connection(service, monkeypatch, response: str) -> None:
    breaking_at(3, monkeypatch)
    with listening(service) as connection:
        answer = post(connection, n=300, response=response)
        assert answer.status == 200
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    assert service.images(n=300, response=response).status_code == 200  # its place is free


def test_a_full_queue_refuses_a_stream_before_it_begins(registry, make_version, start) -> None:
    make_version(registry)
    with start(max_queue_size=BATCH) as service:
        with service.held(), Reader(service, n=BATCH, response="npy"):
            wait_until(lambda: service.context.batcher.queued_images == BATCH)
            refused = service.images(n=300, response="npy")
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert int(refused.headers["Retry-After"]) >= 1


# Limits


@pytest.mark.parametrize("response", ["npy", "zip", "ndjson", "json", "grid"])
def test_more_streams_than_allowed_are_refused_by_the_name_of_the_setting(
    service, response: str
) -> None:
    with Reader(service, n=300, response="npy") as reader:
        reader.next()
        refused = service.images(n=65, response=response)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "1 answers of many images are being sent" in refused.json()["detail"]
        assert "max_image_streams" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert service.images(n=64, response=response).status_code == 200  # a batch is no stream
        reader.rest()
    assert service.images(n=65, response=response).status_code == 200


@pytest.mark.parametrize("response", ["npy", "zip", "ndjson"])
def test_a_stream_of_too_many_images_is_refused_by_the_name_of_the_setting(
    registry, make_version, start, response: str
) -> None:
    make_version(registry)
    with start(max_images_per_stream=100) as service:
        assert service.images(n=100, response=response).status_code == 200
        refused = service.images(n=101, response=response)
        assert refused.status_code == 422
        assert "n is 101; max_images_per_stream allows 100" in refused.json()["detail"]
