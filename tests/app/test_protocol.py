"""What a connection may do, over real sockets; deadlines are short, to be waited for."""

import asyncio
import gc
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

from app.metrics import Metrics
from app.protocol import Protocol
from app.server import configured
from app.settings import Settings

PATIENCE_SEC = 10.0
DEADLINE_SEC = 0.2
SHORT = dict.fromkeys(("max_header_sec", "max_body_sec", "max_unread_sec"), DEADLINE_SEC)
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
MEGABYTE = 2**20


class Application:
    """Answers with how many bytes a body had; some paths do what is hard to serve."""

    def __init__(self) -> None:
        self.reached = 0
        self.trailers: list[Any] = []
        self.left = threading.Event()
        self.gate = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached += 1
        match scope["path"]:
            case "/stream":
                await self._stream(scope, receive, send)
            case "/late":
                await asyncio.sleep(1.5)
                await self._answer(send, str(len(await self._body(receive) or b"")).encode())
            case "/held":
                while not self.gate.is_set():
                    await asyncio.sleep(0.01)
                await self._body(receive)
            case "/large":
                await self._answer(send, bytes(int(scope["query_string"])))
            case "/early":
                await self._answer(send, b"early")
            case _:
                body = await self._body(receive)
                if body is not None:
                    self.trailers = list(scope["headers"])
                    await self._answer(send, str(len(body)).encode())

    async def _body(self, receive: Any) -> bytes | None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                return body
        self.left.set()
        return None

    async def _answer(self, send: Any, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        """One event, then nothing or ticks, until the gate opens or nobody listens."""
        await self._body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        leaving = asyncio.create_task(receive())
        while not (self.gate.is_set() or leaving.done()):
            await asyncio.sleep(0.01)
            if scope["query_string"]:
                await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        if leaving.done():
            self.left.set()
        leaving.cancel()
        await send({"type": "http.response.body", "body": b"two"})


class Served:
    """The application behind the protocol, on a socket."""

    def __init__(self, app: Application, metrics: Metrics, port: int) -> None:
        self.app = app
        self.metrics = metrics
        self.port = port

    def connect(self, small: bool = False) -> socket.socket:
        """`small`: with little room for what it does not read."""
        client = socket.socket()
        if small:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_SEC)
        client.connect(("127.0.0.1", self.port))
        return client

    def ask(self, *parts: bytes) -> bytes:
        """All that comes back until the server hangs up."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
            return everything(client)

    def refused(self, cause: str) -> float:
        found = re.search(
            rf'noisewell_rejections_total{{cause="{cause}"}} (\S+)', self.metrics.text().decode()
        )
        return float(found[1]) if found else 0.0


@contextmanager
def serving(keep_alive_sec: float = 5, **settings: Any) -> Iterator[Served]:
    app, metrics = Application(), Metrics()
    config = configured(app, Settings.model_validate(settings), metrics)
    config.lifespan, config.timeout_keep_alive = "off", keep_alive_sec
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # little is on its way
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Served(app, metrics, listening.getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True
            thread.join(PATIENCE_SEC)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """With the limits as they are by default; most of the tests below hold against it."""
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    """With short deadlines."""
    with serving(**SHORT) as served:
        yield served


def wait_until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SEC
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)


def everything(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65_536):
        data += part
    return data


def one_answer(client: socket.socket) -> bytes:
    """The body of an answer of known length."""
    data = b""
    while (head := re.match(rb"(?s)HTTP.*?content-length: (\d+).*?\r\n\r\n", data)) is None:
        data += some(client)
    while len(data) < head.end() + int(head[1]):
        data += some(client)
    return data[head.end() :]


def some(client: socket.socket) -> bytes:
    part = client.recv(65_536)
    assert part, "the server hung up"
    return part


def problem(data: bytes, status: int, code: str) -> dict[str, Any]:
    """The one answer in `data`, which is to be a problem after which the server hangs up."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert len(re.findall(rb"HTTP/1.1 \d", data)) == 1
    assert head.startswith(b"HTTP/1.1 %d " % status)
    told = json.loads(body)
    for line in (
        b"connection: close",
        b"content-type: application/problem+json",
        b"content-length: %d" % len(body),
        b"x-content-type-options: nosniff",
        b"x-request-id: ",
    ):
        assert b"\r\n" + line in head
    assert (told["status"], told["code"]) == (status, code)
    return told


HOST = b"Host: localhost\r\n"
REFUSED = {
    "a header of a megabyte": (
        b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * MEGABYTE + b"\r\n\r\n",
        (431, "head_too_large", "max_header_bytes"),
    ),
    "headers of a byte over 32 KB together": (
        b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * (32_768 - 1 - 5 - 17 + 1) + b"\r\n\r\n",
        (431, "head_too_large", "max_header_bytes"),
    ),
    "10,000 headers": (
        b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 10_000 + b"\r\n",
        (431, "head_too_large", "max_header_bytes"),
    ),
    "101 headers": (
        b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 100 + b"\r\n",
        (431, "head_too_large", "max_headers"),
    ),
    "20,000 trailers": (
        b"POST / HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"A: b\r\n" * 20_000
        + b"\r\n",
        (431, "head_too_large", "max_header_bytes"),
    ),
    "a long URL": (
        b"GET /" + b"a" * 32_768 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        (414, "target_too_long", "max_header_bytes"),
    ),
    "lines without an end": (b"\r\n" * 50_000, (431, "head_too_large", "max_header_bytes")),
    "a length and chunks": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        (400, "malformed", "Transfer-Encoding"),
    ),
    "chunks and a length": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
        b"0\r\n\r\n",
        (400, "malformed", "Transfer-Encoding"),
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        (400, "malformed", "Content-Length"),
    ),
    "another coding": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\nabc",
        (400, "malformed", "Transfer-Encoding"),
    ),
    "a chunk of no length": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        (400, "malformed", "chunk"),
    ),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", (400, "malformed", "Host")),
    "no Host, without a version": (b"GET /\r\n\r\n", (400, "malformed", "Host")),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", (400, "malformed", "Host")),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", (400, "malformed", "Host")),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", (400, "malformed", "")),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "malformed", "")),
    "a URL that is none": (
        b"GET http://x HTTP/1.1\r\n" + HOST + b"\r\n",
        (400, "malformed", "URL"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_on_the_wire(what, served) -> None:
    sent, (status, code, named) = REFUSED[what]
    before, reached = served.refused(code), served.app.reached
    assert named in problem(served.ask(sent), status, code)["detail"]
    assert served.refused(code) == before + 1
    assert served.app.reached == reached


def test_a_head_of_just_the_limits_is_answered(served) -> None:
    long = b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * (32_768 - 1 - 5 - 17) + b"\r\n\r\n"
    many = b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 99 + b"\r\n"
    with served.connect() as client:
        for request in (long, many):
            client.sendall(request)
            assert one_answer(client) == b"0"


def test_a_head_without_an_end_is_refused_before_it_has_one(served) -> None:
    with served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nA: ")
        for _ in range(20):
            client.sendall(b"a" * 10_000)
        problem(everything(client), 431, "head_too_large")


def test_what_stands_between_chunks_has_a_limit(served) -> None:
    with served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;")
        for _ in range(20):
            client.sendall(b"a" * 10_000)
        detail = problem(everything(client), 431, "head_too_large")["detail"]
    assert "between the chunks" in detail


def test_http_1_0_needs_no_host(served) -> None:
    assert served.ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n0")


def test_a_refusal_waits_for_the_answers_that_come_before_it(served) -> None:
    """Else it would stand in the middle of one of them."""
    served.app.gate.clear()
    with served.connect() as client:
        client.sendall(GET.replace(b"/ ", b"/stream ") + GET + b"what?\r\n\r\n")
        data = client.recv(65_536)
        served.app.gate.set()
        data += everything(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"200", b"400"]
    assert data.endswith(b"}")


def test_a_request_refused_amid_its_body_while_another_is_answered_never_begins(served) -> None:
    served.app.gate.clear()
    reached = served.app.reached
    with served.connect() as client:
        client.sendall(GET.replace(b"/ ", b"/stream ") + REFUSED["a chunk of no length"][0])
        data = client.recv(65_536)
        served.app.gate.set()
        data += everything(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"400"]
    assert served.app.reached == reached + 1


def test_pipelined_requests_are_answered_in_their_order(served) -> None:
    posts = [POST % n + b"x" * n for n in range(60)]
    data = served.ask(*posts, GET[:-2] + b"Connection: close\r\n\r\n")
    assert re.findall(rb"\r\n\r\n(\d+)", data) == [*(b"%d" % n for n in range(60)), b"0"]


def test_too_many_pipelined_requests_are_refused_after_the_others(served) -> None:
    statuses = re.findall(rb"HTTP/1.1 (\d+)", served.ask(GET * 2000))
    assert statuses == [b"200"] * 101 + [b"503"]


def test_who_pipelines_and_leaves_is_gone_for_the_request_that_runs(served) -> None:
    served.app.gate.clear()
    served.app.left.clear()
    with served.connect() as client:
        client.sendall(GET.replace(b"/ ", b"/stream?ticks ") + GET)
        client.recv(65_536)
    assert served.app.left.wait(PATIENCE_SEC)


def test_who_asks_whether_to_send_a_body_is_told_before_it_comes(served) -> None:
    with served.connect() as client:
        client.sendall((POST % 4)[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"some")
        assert one_answer(client) == b"4"


def test_who_asks_that_and_then_breaks_its_body_is_gone_for_the_application(served) -> None:
    asks = b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    served.app.gate.clear()
    served.app.left.clear()
    reached = served.app.reached
    with served.connect() as client:
        client.sendall(b"POST /held HTTP/1.1\r\n" + HOST + asks)
        wait_until(lambda: served.app.reached > reached)
        client.sendall(b"no chunk\r\n")
        problem(everything(client), 400, "malformed")
        served.app.gate.set()
        assert served.app.left.wait(PATIENCE_SEC)


def test_a_trailer_is_no_header(served) -> None:
    chunks = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n"
    sent = b"POST / HTTP/1.1\r\n" + HOST + chunks + b"X-Api-Key: guess\r\n\r\n"
    assert served.ask(sent).endswith(b"\r\n\r\n1")
    assert b"x-api-key" not in dict(served.app.trailers)


@pytest.mark.parametrize("to", [b"websocket", b"h2c"])
def test_an_upgrade_is_answered_as_if_it_was_not_asked_for(served, to) -> None:
    about = b"Upgrade: %b\r\nConnection: Upgrade\r\n\r\n" % to
    data = served.ask(GET[:-2] + about + GET)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in data  # what follows might be of the other protocol
    assert data.endswith(b"\r\n\r\n0")


def test_a_body_that_goes_on_after_its_answer_is_not_read_for_ever(served) -> None:
    sent = 0
    with served.connect() as client:
        client.sendall((POST % 2**30).replace(b"/ ", b"/early ") + bytes(70_000))
        assert one_answer(client) == b"early"
        with pytest.raises(ConnectionError):  # noqa: PT012
            while sent < 2**30:
                client.sendall(bytes(MEGABYTE))
                sent += MEGABYTE
    assert sent < 100 * MEGABYTE


# Deadlines


def timed(client: socket.socket) -> tuple[bytes, float]:
    began = time.monotonic()
    return everything(client), time.monotonic() - began


def test_a_head_that_does_not_end_is_cut_at_its_deadline(hasty) -> None:
    with hasty.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        data, seconds = timed(client)
    assert "max_header_sec" in problem(data, 408, "slow_head")["detail"]
    assert DEADLINE_SEC * 0.9 < seconds < DEADLINE_SEC + 1


def test_each_byte_of_a_head_buys_no_time(hasty) -> None:
    began = time.monotonic()
    with hasty.connect() as client:
        client.settimeout(0.02)
        sent = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 20
        for i in range(len(sent)):
            client.send(sent[i : i + 1])
            try:
                data = client.recv(65_536)
                break
            except TimeoutError:
                continue
        problem(data, 408, "slow_head")
    assert time.monotonic() - began < DEADLINE_SEC + 1


def test_the_head_of_a_second_request_has_its_deadline_too(hasty) -> None:
    with hasty.connect() as client:
        client.sendall(GET)
        one_answer(client)
        client.sendall(b"\r\n")  # of which the parser tells nobody
        problem(everything(client), 408, "slow_head")


def test_who_connects_and_asks_nothing_is_hung_up_on_without_a_word(hasty) -> None:
    with hasty.connect() as client:
        data, seconds = timed(client)
    assert data == b""
    assert DEADLINE_SEC * 0.9 < seconds < DEADLINE_SEC + 1


def test_a_body_that_does_not_come_is_cut_at_its_deadline(hasty) -> None:
    reached = hasty.app.reached
    with hasty.connect() as client:
        client.sendall(POST % 100 + b"some")
        data, seconds = timed(client)
    assert "max_body_sec" in problem(data, 408, "slow_body")["detail"]
    assert DEADLINE_SEC * 0.9 < seconds < DEADLINE_SEC + 1
    assert hasty.app.reached == reached


def test_who_reads_a_large_body_is_told_that_the_rest_will_not_come(hasty) -> None:
    hasty.app.left.clear()
    with hasty.connect() as client:
        client.sendall(POST % 80_000 + bytes(70_000))
        problem(everything(client), 408, "slow_body")
    assert hasty.app.left.wait(PATIENCE_SEC)


def test_a_body_whose_answer_came_early_is_cut_without_another(hasty) -> None:
    before = hasty.refused("slow_body")
    with hasty.connect() as client:
        client.sendall((POST % 80_000).replace(b"/ ", b"/early ") + bytes(70_000))
        assert one_answer(client) == b"early"
        client.sendall(b"some")
        assert everything(client) == b""
    assert hasty.refused("slow_body") == before + 1


def test_a_slow_upload_that_goes_on_is_taken(hasty) -> None:
    parts, part = 20, bytes(32_768)
    with hasty.connect() as client:
        client.sendall(POST % (parts * len(part)))
        for _ in range(parts):
            client.sendall(part)
            time.sleep(0.04)  # .8 s in all, where .2 s and 2.5 s for its size are allowed
        assert one_answer(client) == str(parts * len(part)).encode()


def test_a_body_that_nobody_reads_yet_is_not_late(hasty) -> None:
    with hasty.connect() as client:
        client.sendall((POST % 600_000).replace(b"/ ", b"/late ") + bytes(300_000))
        time.sleep(1.6)  # it is read after 1.5 s; what came so far is worth 1.34 s
        client.sendall(bytes(300_000))
        assert one_answer(client) == b"600000"


@pytest.mark.parametrize("size", [60_000, 200_000, 16 * MEGABYTE])
def test_a_reader_that_takes_nothing_is_cut(hasty, size) -> None:
    """Also where so little is left that uvicorn takes the answer for sent."""
    before = hasty.refused("slow_reader")
    with hasty.connect(small=True) as client:
        client.sendall(GET.replace(b"/ ", b"/large?%d " % size))
        wait_until(lambda: hasty.refused("slow_reader") > before)
        assert len(received(client)) < size


def received(client: socket.socket) -> bytes:
    """What there is until the connection is reset: a mere end could pass for that of an answer."""
    data = b""
    while True:
        try:
            part = client.recv(65_536)
        except ConnectionResetError:
            return data
        assert part
        data += part


def test_a_reader_that_is_slow_and_goes_on_gets_all_of_it(hasty) -> None:
    size, got, began = 8 * MEGABYTE, 0, time.monotonic()
    with hasty.connect(small=True) as client:
        client.sendall(GET.replace(b"/ ", b"/large?%d " % size))
        while got < size:
            part = client.recv(size // 40)
            assert part
            got += len(part)
            time.sleep(len(part) / size * 4 * DEADLINE_SEC)
    assert time.monotonic() - began > 3 * DEADLINE_SEC


def test_a_stream_that_is_merely_quiet_goes_on(hasty) -> None:
    hasty.app.gate.clear()
    with hasty.connect() as client:
        client.sendall(
            GET.replace(b"/ ", b"/stream ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        data = client.recv(65_536)
        time.sleep(4 * DEADLINE_SEC)
        hasty.app.gate.set()
        data += everything(client)
    assert data.endswith(b"3\r\ntwo\r\n0\r\n\r\n")


def test_a_connection_may_be_idle_between_requests_for_longer_than_a_head_may_take(hasty) -> None:
    with hasty.connect() as client:
        for _ in range(2):
            client.sendall(GET)
            assert one_answer(client) == b"0"
            time.sleep(3 * DEADLINE_SEC)


def test_an_idle_connection_is_ended_some_time_after_its_last_answer() -> None:
    with serving(keep_alive_sec=0.4) as served, served.connect() as client:
        client.sendall(GET.replace(b"/ ", b"/stream "))
        client.recv(65_536)
        time.sleep(0.6)
        served.app.gate.set()
        while b"0\r\n\r\n" not in some(client):
            pass
        time.sleep(0.2)
        client.sendall(GET)
        assert one_answer(client) == b"0"
        data, seconds = timed(client)
    assert data == b""
    assert 0.3 < seconds < 1.4


def test_nothing_of_a_connection_waits_for_the_garbage_collector(hasty) -> None:
    gc.collect()
    gc.disable()
    try:
        for sent in (
            b"GET / HTTP/1.1\r\nHos",
            POST % 100 + b"some",
            b"GET / HTTP/1.1\r\n\r\n",
            b"what?\r\n\r\n",
            GET[:-2] + b"Connection: close\r\n\r\n",
        ):
            hasty.ask(sent)
        wait_until(lambda: not any(type(one) is Protocol for one in gc.get_objects()))
    finally:
        gc.enable()


# Many


def test_there_are_no_more_connections_than_descriptors_for_them(monkeypatch) -> None:
    limits = [256, 1024]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, given: limits.__setitem__(0, given[0]))
    config = configured(Application(), Settings(max_connections=300), Metrics())
    assert (config.http.args[0].max_connections, limits) == (300, [812, 1024])
    config = configured(Application(), Settings(), Metrics())
    assert (config.http.args[0].max_connections, limits) == (512, [1024, 1024])


def test_more_connections_than_may_be_are_told_so_and_others_go_on() -> None:
    with serving(max_connections=2) as served, served.connect() as one, served.connect() as two:
        for client in (one, two):
            client.sendall(GET)
            one_answer(client)
        told = problem(served.ask(), 503, "crowded")
        assert "max_connections" in told["detail"]
        one.sendall(GET)
        assert one_answer(one) == b"0"
        two.close()
        one.sendall(GET)
        one_answer(one)


def test_many_refusals_leave_one_line_and_are_all_counted() -> None:
    with serving() as served, capture_logs() as lines:
        for _ in range(50):
            served.ask(b"what?\r\n\r\n")
        assert served.refused("malformed") == 50
    told = [line for line in lines if line["event"] == "refused a connection"]
    assert 1 <= len(told) <= 3
    assert (told[0]["cause"], told[0]["client"], told[0]["times"]) == ("malformed", "127.0.0.1", 1)
