"""Owns the mutations of raw requests: the same seed and index make the same bytes."""

import random
import re
from collections.abc import Callable, Sequence

from benchmarks.fuzz.orders import Order, inputs

Mutation = Callable[[random.Random, bytes], bytes]

TOKENS = (
    *(
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"%",
        b"%00",
        b"%0d%0a",
        b"%ff",
        b"%u0041",
    ),
    *(b"../", b"..%2f", b"%252e%252e%252f", b"//", b"\\", b"?", b"&", b"=", b"#", b";", b"@", b":"),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xae"),
    *(
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"-Infinity",
    ),
    *(
        b"1e400",
        b"-0",
        b"1e-400",
        b"9" * 30,
        b"-1",
        b"18446744073709551616",
        b"0x10",
        b"1_0",
        b"\xd9\xa3",
    ),
    *(
        b'"\\ud800"',
        b'"\\u0000"',
        b'{"a":',
        b'"__proto__":1,',
        b"{}",
        b"[]",
        b'""',
        b"<!--",
        b"${x}",
    ),
    *(
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"chunked",
        b"text/event-stream",
        b"*",
        b"W/",
        b"bytes=0-",
        b"bytes=-9",
    ),
)
LINES = (
    *(b"content-length: 0", b"content-length: -1", b"content-length: 99999999999999999999"),
    *(
        b"content-length: 3",
        b"content-length: +3",
        b"content-length: 1,1",
        b"content-length: 2500000000",
    ),
    *(
        b"transfer-encoding: chunked",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: identity",
    ),
    *(
        b"connection: close",
        b"connection: keep-alive",
        b"connection: upgrade",
        b"upgrade: websocket",
    ),
    *(
        b"upgrade: h2c",
        b"expect: 100-continue",
        b"expect: x",
        b"host: evil.test",
        b"host:",
        b"host: [::1",
    ),
    *(b"content-type: text/plain", b"content-type: multipart/form-data", b"content-type: \xff"),
    *(
        b"content-type: multipart/form-data; boundary=",
        b"content-type: application/json; charset=utf-16",
    ),
    *(b"content-encoding: gzip", b"range: bytes=0-1,3-4,-1", b"range: bytes=9-1", b"if-range: x"),
    *(
        b"range: bytes=" + b"0-1," * 60 + b"2-3",
        b"if-none-match: *",
        b'if-none-match: W/"',
        b"accept: \xff",
    ),
    *(
        b"origin: null",
        b"origin: http://[",
        b"x-request-id: \xff",
        b"idempotency-key: \xc3\xa9",
        b"x-y: \0",
    ),
    *(
        b"accept: text/event-stream",
        b"last-event-id: 1e9",
        b"cookie: =;=;",
        b"authorization: Bearer \xff",
    ),
    *(
        b"x-http-method-override: DELETE",
        b"trailer: x",
        b"te: trailers",
        b": x",
        b"x",
        b"x y: z",
        b" folded",
    ),
)
METHODS = (
    *(
        b"GET",
        b"HEAD",
        b"POST",
        b"PUT",
        b"PATCH",
        b"DELETE",
        b"OPTIONS",
        b"TRACE",
        b"CONNECT",
        b"PRI",
    ),
    *(b"get", b"FOO", b"G\0T", b""),
)
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")
_LENGTH = re.compile(rb"(?i)(?<=\r\ncontent-length: )[0-9]+")
_LENGTH_LINE = re.compile(rb"(?i)\r\ncontent-length: [0-9]+")
_BEYOND = re.compile(rb"[\x7f-\xff]")
CONTROLS = bytes(range(33))  # the parser takes none of them in a URL, and in a header but a space
MAX_LONG = 70_000
MAX_DEEP = 5_000


def flip(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data))
    return data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    i, new = rng.randrange(len(data)), rng.randbytes(rng.randint(1, 6))
    return data[:i] + new + data[i + len(new) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data) + 1)
    return data[:i] + rng.choice(TOKENS) + data[i:]


def put(rng: random.Random, data: bytes) -> bytes:
    """A token instead of some bytes."""
    i = rng.randrange(len(data))
    return data[:i] + rng.choice(TOKENS) + data[i + rng.randint(1, 8) :]


def cut(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data))
    return data[:i] + data[i + rng.randint(1, 1 + len(data) // 4) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data))
    piece = data[i : i + rng.randint(1, 40)]
    return data[:i] + piece * rng.randint(2, 20) + data[i:]


def lengthen(rng: random.Random, data: bytes) -> bytes:
    """Few are long: each costs as much as a hundred others."""
    i, most = rng.randrange(len(data) + 1), rng.choice((100, 300, 1_000, 3_000, MAX_LONG))
    piece = rng.choice((b"a", b"9", b"%41", b"/", b"\0", b"\xc3\xa9", b"a: b\r\n", b"&a=b"))
    return data[:i] + piece * (rng.randint(1, most) // len(piece) + 1) + data[i:]


def renumber(rng: random.Random, data: bytes) -> bytes:
    """Another number where one is."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return insert(rng, data)
    at = rng.choice(found)
    new = rng.choice(
        (
            b"0",
            b"-1",
            b"2",
            b"1e400",
            b"NaN",
            b"9" * 20,
            b"9" * 5_000,
            b"0.1",
            b"1e-9",
            b"00",
            b"true",
        )
    )
    return data[: at.start()] + new + data[at.end() :]


def nest(rng: random.Random, data: bytes) -> bytes:
    i, depth = rng.randrange(len(data) + 1), rng.choice((10, 100, 1_000, MAX_DEEP))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"[[", b"]]"), (b"[", b"")))
    return data[:i] + opening * depth + closing * depth + data[i:]


def swap(rng: random.Random, data: bytes) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, overwrite, insert, insert, put, put, cut, repeat, renumber, renumber, swap),
    *(lengthen, nest),
)


class Corpus:
    """What mutations start from: valid requests as bytes, and each text in them."""

    def __init__(self, orders: Sequence[Order], port: int) -> None:
        self.originals = [order.bytes(port) for order in orders]
        self._inputs = [each for order in orders for each in inputs(order)]
        self._port = port

    def mutant(self, seed: int, index: int) -> bytes:
        """The mutation of this index: a request changed in one to three places.

        Four in ten stay requests, of which one text is another: those get furthest.
        """
        rng = random.Random(seed << 32 | index)
        times = rng.choice((1, 1, 1, 2, 2, 3))
        if rng.random() < 0.4:
            place = rng.choice(self._inputs)
            text = place.value
            for _ in range(times):
                text = _any(rng, text)
            return place.put(text).bytes(self._port)
        data = rng.choice(self.originals)
        for _ in range(times):
            data = _mutated(rng, data, self.originals)
        return data


def _mutated(rng: random.Random, data: bytes, orders: Sequence[bytes]) -> bytes:
    head, gap, body = data.partition(b"\r\n\r\n")
    drawn = rng.random()
    if drawn < 0.3 and gap and body:
        return _sized(rng, head, _any(rng, body))
    if drawn < 0.6 and gap:
        return _target(rng, head) + gap + body
    if drawn < 0.8 and gap:
        return _lines(rng, head) + gap + body
    if drawn < 0.85 and gap:
        return _chunked(rng, head, body)
    if drawn < 0.9:
        other = rng.choice(orders)
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]
    return _any(rng, data)


def _any(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(MUTATIONS)(rng, data) if data else rng.choice(TOKENS)


def _sized(rng: random.Random, head: bytes, body: bytes) -> bytes:
    """Nearly always with the length that it has, so that the body is read to its end."""
    if rng.random() < 0.95:
        head = _LENGTH.sub(str(len(body)).encode(), head, count=1)
    return head + b"\r\n\r\n" + body


def _target(rng: random.Random, head: bytes) -> bytes:
    """Of the request line the URL, mostly; it stays one line and one word, mostly."""
    line, gap, rest = head.partition(b"\r\n")
    method, _, after = line.partition(b" ")
    url, _, version = after.rpartition(b" ")
    if rng.random() < 0.15:
        method = rng.choice(METHODS)
    else:
        url = _any(rng, url)
        if rng.random() < 0.9:
            url = _BEYOND.sub(lambda found: b"%%%02x" % found[0][0], url.translate(None, CONTROLS))
    return method + b" " + url + b" " + version + gap + rest


def _lines(rng: random.Random, head: bytes) -> bytes:
    """One header, changed, doubled, gone or new; the others stay."""
    lines = head.split(b"\r\n")
    at = rng.randrange(1, len(lines)) if len(lines) > 1 else 0
    match rng.randrange(6):
        case 0:
            lines.insert(at, rng.choice(LINES))
        case 1:
            lines[at] = rng.choice(LINES)
        case 2:
            lines.insert(at, lines[at])
        case 3:
            del lines[at]
        case 4 if rng.random() < 0.1:
            lines[at:at] = [b"x-%d: y" % i for i in range(rng.choice((50, 150, 2_000)))]
        case _:
            name, colon, value = lines[at].partition(b":")
            value = _any(rng, value)
            lines[at] = (
                name
                + colon
                + (value.translate(None, CONTROLS[:-1]) if rng.random() < 0.9 else value)
            )
    return b"\r\n".join(lines)


def _chunked(rng: random.Random, head: bytes, body: bytes) -> bytes:
    """The body in chunks, whose sizes may be wrong."""
    pieces, at = [_LENGTH_LINE.sub(b"", head) + b"\r\ntransfer-encoding: chunked\r\n"], 0
    while at < len(body) and len(pieces) < 20:
        piece = body[at : at + rng.choice((1, 7, 100, 5_000))]
        at += len(piece)
        pieces.append(_size(rng, len(piece)) + b"\r\n" + piece)
    return b"\r\n".join([*pieces, b"0", b"", b""])


def _size(rng: random.Random, length: int) -> bytes:
    if rng.random() < 0.9:
        return rng.choice((b"%x", b"%X", b"000%x", b"%x;a=b")) % length
    return rng.choice(
        (b"", b"-1", b"ffffffffffffffffff", b"7fffffff", b"g", b"%x" % (length + 1), b"0x1")
    )
