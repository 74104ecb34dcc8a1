"""Owns HTTP/1.1 as a load generator needs it: request bytes out, answers read back."""

import json
from collections.abc import Container, Generator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 2**30
_NO_BODY = (204, 304)


@dataclass(frozen=True)
class Target:
    """Where requests go, and the key they carry; each method gives the bytes of one request."""

    host: str
    port: int
    key: str | None = None

    @staticmethod
    def of(url: str, key: str | None = None) -> "Target":
        """`http://127.0.0.1:8000` → Target. Raises ValueError for anything else than http."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"url is {url!r}; expected such as http://127.0.0.1:8000")
        return Target(parts.hostname, parts.port or 80, key)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        return self._request("GET", path, headers or {}, b"")

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
        """`body` goes as JSON."""
        return self._with_json("POST", path, headers, body)

    def put(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
        """`body` goes as JSON."""
        return self._with_json("PUT", path, headers, body)

    def _with_json(
        self, method: str, path: str, headers: Mapping[str, str] | None, body: Any
    ) -> bytes:
        about = {"content-type": "application/json", **(headers or {})}
        return self._request(method, path, about, json.dumps(body).encode())

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self.key is not None:
            lines.append(f"authorization: Bearer {self.key}")
        if body:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Answer:
    """One answer. `head` is its status line and headers as they came."""

    __slots__ = ("body", "closes", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes, closes: bool) -> None:
        self.status = status
        self.head = head
        self.body = body
        self.closes = closes  # the server ends the connection after it

    def header(self, name: str) -> str | None:
        """The value of a header, None if there is none of that name (in any case)."""
        return _header(self.head, self.head.lower(), name.lower().encode("latin-1"))

    @property
    def retry_after_sec(self) -> float | None:
        """When it says to come back: `retry-after-ms` where there is one, as it is more exact."""
        if (milliseconds := self.header("retry-after-ms")) is not None:
            return float(milliseconds) / 1000
        seconds = self.header("retry-after")
        return None if seconds is None else float(seconds)

    @property
    def ok(self) -> bool:
        """2xx, or 304."""
        return 200 <= self.status < 300 or self.status == 304


class AnswerReader:
    """Bytes as they arrive in, whole answers out, in order.

    heads: which answers, counted from 0, are to HEAD and so have no body, whatever they say.
    """

    def __init__(self, heads: Container[int] = ()) -> None:
        self.midway = False  # a part of an answer has arrived, the rest has not
        self._buffer = bytearray()
        self._parser = _parse(self._buffer, heads)

    def feed(self, data: bytes) -> list[Answer]:
        """Raises ValueError for what is no HTTP/1.1 answer of known length."""
        self._buffer += data
        answers: list[Answer] = []
        while (answer := next(self._parser)) is not None:
            answers.append(answer)
        self.midway = bool(self._buffer) or not answers
        return answers


_Parser = Generator["Answer | None", None, None]


def _parse(buffer: bytearray, heads: Container[int]) -> _Parser:
    """Takes answers off the front of `buffer`; None means that it wants more bytes."""
    number = 0
    while True:
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise ValueError(f"the head of an answer is longer than {MAX_HEAD_BYTES} bytes")
            yield None
        head = _take(buffer, end + 4)
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise ValueError(f"{head[:40]!r} is no HTTP/1.1 status line")
        status, lowered = int(head[9:12]), head.lower()
        if status < 200:  # an interim answer: the real one follows
            continue
        if status in _NO_BODY or number in heads:
            body = b""
        elif (length := _header(head, lowered, b"content-length")) is not None:
            body = yield from _sized(buffer, int(length))
        elif _header(lowered, lowered, b"transfer-encoding") == "chunked":
            body = yield from _chunked(buffer)
        else:
            raise ValueError(f"answer {status} has neither Content-Length nor chunks")
        number += 1
        yield Answer(status, head, body, b"\r\nconnection: close\r\n" in lowered)


def _sized(buffer: bytearray, length: int) -> Generator[None, None, bytes]:
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError(f"a body of {length} bytes; expected at most {MAX_BODY_BYTES}")
    while len(buffer) < length:
        yield None
    return _take(buffer, length)


def _chunked(buffer: bytearray) -> Generator[None, None, bytes]:
    parts: list[bytes] = []
    total = 0
    while True:
        size = int((yield from _line(buffer)).partition(b";")[0], 16)
        total += size
        if size == 0:
            while (yield from _line(buffer)):  # trailers
                pass
            return b"".join(parts)
        if total > MAX_BODY_BYTES:
            raise ValueError(f"a body of more than {MAX_BODY_BYTES} bytes")
        parts.append((yield from _sized(buffer, size)))
        if (yield from _line(buffer)):
            raise ValueError("a chunk is longer than it says")


def _line(buffer: bytearray) -> Generator[None, None, bytes]:
    while (end := buffer.find(b"\r\n")) < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise ValueError(f"a line of an answer is longer than {MAX_HEAD_BYTES} bytes")
        yield None
    return _take(buffer, end + 2)[:-2]


def _take(buffer: bytearray, count: int) -> bytes:
    with memoryview(buffer) as view:
        taken = bytes(view[:count])
    del buffer[:count]
    return taken


def _header(head: bytes, lowered: bytes, name: bytes) -> str | None:
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip().decode("latin-1")
