"""What `make fuzz` would say if something were broken: it is broken here on purpose."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from app.bench.load import run
from app.bench.wire import Answer, AnswerReader, Target
from app.main import create_app
from benchmarks.fuzz.findings import Findings, tracebacks, wrong
from benchmarks.fuzz.mutate import Corpus
from benchmarks.fuzz.orders import BODIES, Order, inputs, orders
from benchmarks.fuzz.paths import SECRET, Canary, check, is_ours, places_of
from benchmarks.fuzz.payloads import payloads
from benchmarks.fuzz.pump import Check, Pump, Tally
from benchmarks.fuzz.raw import tell
from benchmarks.fuzz.shots import Shot, aim

PATIENCE_SEC = 30.0
VALUES = {
    "model": "toy",
    "version": "1",
    "seed": "7",
    "job_id": "job_1",
    "cur_nimg": "1",
    "dataset_id": "dots",
}
COUNT = 300
HEAD = "host: localhost\r\n"


@pytest.fixture(scope="module")
def valid() -> list[Order]:
    app = create_app()
    return orders(app.openapi(), app.routes, VALUES)


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[Target]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", ws="none", lifespan="off", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Target("127.0.0.1", listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SEC)
        listener.close()


def pumped(
    target: Target, shots: list[bytes], check: Check = wrong, deadline_sec: float = 15.0
) -> Tally:
    aimed = (aim(i, data) for i, data in enumerate(shots))
    return run(Pump(target, aimed, check, deadline_sec=deadline_sec).run())


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\n{HEAD}{more}\r\n".encode()


def broken() -> FastAPI:
    """Two routes that fail on some input, as ones of ours might."""
    app = FastAPI()

    @app.get("/v1/models/{model}")
    def model(model: str) -> dict[str, str]:
        if "%" in model or "\0" in model or len(model) > 90:
            raise RuntimeError("not thought of")
        return {"model": model}

    @app.get("/leaky/{name}")
    def leaky(name: str) -> Response:
        return Response(SECRET if ".." in name else b"nothing")

    @app.get("/hangs")
    async def hangs(request: Request) -> None:
        while not await request.is_disconnected():
            await request.receive()

    return app


# What is sent


def test_there_is_a_valid_request_for_every_route_and_method(valid) -> None:
    names = {order.name for order in valid}
    openapi = create_app().openapi()
    doors = {f"{m.upper()} {path}" for path, methods in openapi["paths"].items() for m in methods}
    assert doors <= names
    assert {"GET /", "GET /docs", "GET /static/{path}"} <= names
    for order in valid:
        shot = aim(0, order.bytes(80))
        assert len(shot.methods) == 1, order
        assert not shot.refused, order


def test_a_route_that_nothing_is_known_of_is_an_error() -> None:
    app = create_app()
    app.get("/new", include_in_schema=False)(lambda: None)
    with pytest.raises(ValueError, match="/new"):
        orders(app.openapi(), app.routes, VALUES)


def test_the_same_seed_makes_the_same_mutations_and_another_makes_others(valid) -> None:
    first, again = Corpus(valid, 80), Corpus(valid, 80)
    made = [first.mutant(3, i) for i in range(300)]
    assert made == [again.mutant(3, i) for i in range(300)]
    assert sum(a != first.mutant(4, i) for i, a in enumerate(made)) > 290
    assert sum(aim(i, data).plain for i, data in enumerate(made)) > 150
    assert not set(made) & set(first.originals) or len(set(made)) > 290


def test_every_text_of_a_request_can_be_another_and_it_stays_whole(valid) -> None:
    text, found = b"../..\0\r\n\xff@1", 0
    for place in places_of(valid):
        shot = aim(0, place.put(text).bytes(80))
        assert len(shot.methods) == 1, place.name
        assert not shot.refused, place.name
        found += 1
    assert found > 80


def test_texts_of_json_are_values_and_names() -> None:
    order = Order("POST", "/v1/images", json=BODIES["create_images"][5])
    names = {place.name: place for place in inputs(order)}
    assert {"json.model", "json.class.3.@"} <= names.keys()
    sent = json.loads(names["json.class.3.@"].put(b"x").bytes(80).partition(b"\r\n\r\n")[2])
    assert sent["class"] == {"x": 0.5, "7": 0.5}


def test_payloads_are_as_many_as_asked_for_all_different_always_the_same() -> None:
    made = payloads(["/tmp/canary.txt", "canary.txt"], 2_000)
    assert len(set(made)) == len(made) == 2_000
    assert made == payloads(["/tmp/canary.txt", "canary.txt"], 2_000)
    assert {b"../../canary.txt", b"..%2fcanary.txt", b"/tmp/canary.txt%00"} <= set(made)


# What is due


@pytest.mark.parametrize(
    ("data", "due", "plain"),
    [
        (get("/"), 1, True),
        (get("/") * 3, 3, False),
        (get("/")[:-2], 0, False),
        (get("/", "connection: close\r\n"), 1, False),
        (get("/", "connection: close\r\n") + get("/"), 1, False),
        (get("/", "accept: text/event-stream\r\n"), 1, False),
        (get("/", "content-length: 5\r\n"), 0, False),
        (b"\0", 1, False),
        (get("/") + b"\0", 1, False),
    ],
)
def test_what_is_due_follows_from_the_parser_the_service_has(data, due, plain) -> None:
    shot = aim(0, data)
    assert (shot.due, shot.plain) == (due, plain)


def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    answers = AnswerReader({0}).feed(head + head + b"12345")
    assert [answer.body for answer in answers] == [b"", b"12345"]


def test_each_request_is_told_its_own_answer_however_odd_its_neighbours() -> None:
    asked: list[tuple[bytes, bytes]] = []

    def note(shot: Shot, answer: Answer) -> None:
        asked.append((shot.data, answer.body))

    shots = [get(f"/v1/models/m{i}") for i in range(60)]
    shots[5:5] = [b"\0", get("/")[:-2], get("/v1/models/x", "connection: close\r\n")]
    with listening(broken()) as target:
        tally = pumped(target, shots, note)
    assert tally.sent == len(shots)
    assert not tally.troubles
    for data, body in asked:
        if b"models/m" in data:
            assert json.loads(body)["model"].encode() == data.split()[1].rpartition(b"/")[2]


# What is found


def test_a_route_that_fails_is_found_with_the_smallest_request(tmp_path: Path) -> None:
    corpus = Corpus([Order("GET", "/v1/models/{model}", {"model": "toy"})], 80)
    with listening(broken()) as target:
        tally = pumped(target, [corpus.mutant(0, i) for i in range(300)])
    assert tally.troubles["answered 500"] > 2
    findings = Findings(tmp_path)
    tell(findings, "raw", tally, 1, 300)
    assert findings.bad
    kept = (tmp_path / "raw-answered-500.bin").read_bytes()
    assert kept == tally.worst["answered 500"].data
    with listening(broken()) as target:  # it can be repeated
        assert pumped(target, [kept]).troubles["answered 500"]


def test_a_request_that_hangs_is_found() -> None:
    with listening(broken()) as target:
        tally = pumped(target, [get("/hangs")], deadline_sec=0.2)
    assert tally.troubles == {"no answer before the deadline": 1}


def test_a_service_that_is_gone_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match="gone"):
        pumped(Target("127.0.0.1", port), [get("/")])


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, b"", False),
        (404, b'{"code": "not_found"}', False),
        (503, b'{"code": "queue_full"}', False),
        (503, b"busy", True),
        (404, b"Not Found", True),
        (500, b'{"code": "internal"}', True),
        (502, b'{"code": "x"}', True),
    ],
)
def test_only_refusals_with_a_code_are_as_they_should_be(status, body, found) -> None:
    assert bool(wrong(aim(0, get("/")), Answer(status, b"", body, False))) == found


def test_a_route_that_reads_out_of_its_folder_is_found() -> None:
    place = next(iter(inputs(Order("GET", "/leaky/{name}", {"name": "x"}))))
    shots = [place.put(text).bytes(80) for text in payloads(["canary.txt"], 60)]
    with listening(broken()) as target:
        tally = pumped(target, shots, check)
    assert tally.troubles["a canary's words in an answer"]


def test_a_canary_tells_who_read_wrote_or_took_it(tmp_path: Path) -> None:
    read, written, gone, left = (Canary.put(tmp_path / name) for name in "abcd")
    read.path.read_bytes()
    written.path.write_bytes(b"x")
    gone.path.unlink()
    assert [c.harm() for c in (written, gone, left)] == ["written", "gone", None]
    noted = os.statvfs(tmp_path).f_flag & os.ST_NOATIME == 0
    assert read.harm() == ("read" if noted else None)


def test_files_that_the_service_makes_are_known_from_others() -> None:
    ours = ("data/uploads/ds_01ab.zip", "data/datasets/ds_01ab/images.bin", "data/serve.lock")
    assert all(map(is_ours, ours))
    others = ("data/x", "data/uploads/x.zip", "tmp/x", "data/models/x", "data/datasets/..ds_1")
    assert not any(map(is_ours, others))


def test_a_log_with_an_exception_or_stray_words_is_found(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    trace = 'Traceback:\n  File "/srv/app/x.py", line 3, in f\nValueError: at 0x7f'
    lines = ({"event": "request", "status": 200}, {"event": "oh", "exception": trace, "path": "/a"})
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + "stray\n")
    assert tracebacks(log) == {"ValueError: at 0x… (x.py:3, /a)": 1, "stray": 1}


def test_of_some_hundred_mutations_each_is_answered_with_a_code(
    valid: list[Order], registry, make_version: Callable[..., int], start
) -> None:
    make_version(registry)
    corpus = Corpus(valid, 80)
    with start(max_datasets=1) as service, listening(service.app) as target:
        tally = pumped(target, [corpus.mutant(0, i) for i in range(COUNT)])
    assert tally.sent == COUNT
    assert not tally.troubles, {kind: shot.data for kind, shot in tally.worst.items()}
