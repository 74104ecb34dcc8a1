"""Owns the valid requests that fuzzing starts from: one or more for each route and method.

They are made from the OpenAPI and the routes that it leaves out; a route or a parameter that
nothing here has a value for is an error, so that a new one cannot be forgotten.
"""

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from fastapi.routing import iter_route_contexts
from PIL import Image
from starlette.routing import BaseRoute

KEY = "fuzz-4f1d9c0b7a"
DATASET = "dots"
NAME = "@"
BOUNDARY = "noisewell-fuzz"
Json = Mapping[str, Any]

_JOB = {"model": "mnist", "dataset": DATASET, "kimg": 1}
_FULL_JOB = {
    **_JOB,
    "preset": "tiny",
    "until": {"fd": 5.5},
    "overrides": {"batch_size": 8, "g_lr": 0.001},
    "promote": "never",
    "seed": 3,
    "base": "mnist@1",
}
_MIX = {"model": "mnist", "n": 2, "seed": 1, "class": {"3": 0.5, "7": 0.5}, "response": "ndjson"}
_FOLDER = {
    "root": "shelf",
    "path": "parts/2026",
    "name": "dots",
    "resolution": 28,
    "channels": 1,
    "background": "white",
    "classes": "a,b",
    "max_per_class": 5,
    "licence": "CC0",
    "append_to": DATASET,
}
# Bodies by the name of the operation.
BODIES: Mapping[str, Sequence[Json]] = {
    "create_images": (
        {"model": "mnist"},
        {"model": "mnist@1", "seed": 7, "response": "image", "format": "webp", "truncation": 0.7},
        {"model": "mnist", "seeds": [1, 2], "classes": ["3", 4], "response": "grid"},
        {"model": "mnist", "n": 3, "response": "npy"},
        {"model": "mnist", "n": 2, "class": "3", "response": "zip", "format": "jpeg"},
        {**_MIX, "include_latents": True},
    ),
    "create_interpolation": (
        {"model": "mnist", "seeds": [1, 2], "frames": 3},
        {
            "model": "mnist",
            "seeds": [1, 2],
            "classes": ["3", {"1": 1}],
            "frames": 4,
            "space": "lerp",
            "loop": True,
            "truncation": 0.5,
            "format": "gif",
            "frame_ms": 40,
        },
        {"model": "mnist", "seeds": [5, 6], "class": 3, "frames": 2, "format": "grid"},
    ),
    "promote": ({"version": 1},),
    "create_job": (_JOB, _FULL_JOB, {"model": "mnist", "dataset": DATASET, "minutes": 1.5}),
    "create_dataset": ({"root": "shelf", "name": "dots"}, _FOLDER),
}
# Query and header parameters by name; paths take those of the house.
VALUES = {
    "class": "3",
    "truncation": "0.7",
    "limit": "5",
    "after": "3",
    "status": "queued",
    "model": "mnist",
    "verdict": "accept",
    "start": "1",
    "idempotency-key": "once",
    "accept": "application/json",
    "last-event-id": "2",
}
# What any request may carry, and something here or below reads.
HEADERS = {
    "sec-fetch-site": "same-origin",
    "x-request-id": "fuzz-1",
    "x-api-key": KEY,
    "if-none-match": '"x"',
    "if-modified-since": "Thu, 01 Jan 2026 00:00:00 GMT",
    "range": "bytes=0-9",
    "if-range": '"x"',
    "accept-encoding": "gzip",
    "x-forwarded-for": "127.0.0.1",
    "cookie": "a=b",
}
PAGES = ("/", "/docs", "/openapi.json")


@dataclass(frozen=True)
class Part:
    """A part of a form; with a filename it is a file."""

    name: str | bytes
    value: bytes
    filename: str | bytes | None = None


@dataclass(frozen=True)
class Order:
    """A request in its parts. path: with {names} for what `values` has; text of any kind may be
    put anywhere, and is written so that the request stays whole."""

    method: str
    path: str
    values: Mapping[str, str | bytes] = field(default_factory=dict)
    query: Mapping[str, str | bytes] = field(default_factory=dict)
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    json: Any = None
    parts: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def bytes(self, port: int) -> bytes:
        kind, body = self._body()
        headers = {"host": f"127.0.0.1:{port}", "authorization": f"Bearer {KEY}", **self.headers}
        if kind:
            headers |= {"content-type": kind, "content-length": str(len(body))}
        lines = [f"{self.method} ".encode() + self._url() + b" HTTP/1.1"]
        lines += [name.encode() + b": " + header(value) for name, value in headers.items()]
        return b"\r\n".join([*lines, b"", b""]) + body

    def _url(self) -> bytes:
        path = self.path.encode()
        for name, value in self.values.items():
            path = path.replace(f"{{{name}}}".encode(), in_url(value))
        asked = b"&".join(name.encode() + b"=" + in_url(v) for name, v in self.query.items())
        return path + b"?" + asked if asked else path

    def _body(self) -> tuple[str, bytes]:
        if self.json is not None:
            return "application/json", json.dumps(self.json).encode()
        return form(self.parts) if self.parts else ("", b"")


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def in_url(value: str | bytes) -> bytes:
    """As it is where a URL may hold it, else in percents."""
    return quote(as_bytes(value), safe="/%:@!$'()*+,;=~.\\|^`{}[]<>\"").encode()


def header(value: str | bytes) -> bytes:
    """Without what would end the header or the request."""
    return as_bytes(value).translate(None, b"\r\n\0")


def form(parts: Sequence[Part]) -> tuple[str, bytes]:
    """The type and the body of a form."""
    body = bytearray()
    for part in parts:
        body += f"--{BOUNDARY}\r\ncontent-disposition: form-data; name=".encode()
        body += _quoted(part.name)
        if part.filename is not None:
            body += b"; filename=" + _quoted(part.filename)
            body += b"\r\ncontent-type: application/octet-stream"
        body += b"\r\n\r\n" + part.value + b"\r\n"
    return f"multipart/form-data; boundary={BOUNDARY}", bytes(body + f"--{BOUNDARY}--\r\n".encode())


def _quoted(text: str | bytes) -> bytes:
    return b'"' + header(text).replace(b'"', b"%22") + b'"'


# From the routes


def orders(openapi: Json, routes: Sequence[BaseRoute], values: Mapping[str, str]) -> list[Order]:
    """At least one for each route and method; `values` are those of paths."""
    told = [
        order
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
        for order in _of_operation(method.upper(), path, operation, values)
    ]
    pages = [Order("GET", page) for page in PAGES]
    pages += [Order("GET", f"{at}/{{path}}", {"path": "style.css"}) for at in ("", "/static")]
    unmet = _paths(routes) - {o.path for o in (*told, *pages)} - {"/static"}
    if unmet:
        raise ValueError(f"no request is known for {sorted(unmet)}; put them in PAGES")
    others = [Order(method, "/v1/models") for method in ("HEAD", "OPTIONS", "PATCH", "TRACE")]
    return [*told, *pages, *others, *_others(values)]


def _paths(routes: Sequence[BaseRoute]) -> set[str]:
    return {route.path for route in iter_route_contexts(routes) if route.path is not None}


def _of_operation(
    method: str, path: str, operation: Json, values: Mapping[str, str]
) -> Iterator[Order]:
    named = {place: _given(operation, place) for place in ("query", "header")}
    places = {
        p["name"]: values[p["name"]] for p in operation.get("parameters", []) if p["in"] == "path"
    }
    order = Order(method, path, places, named["query"], named["header"])
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        yield order
        yield replace(order, query={}, headers=HEADERS)
    if "application/json" in content:
        yield from (replace(order, json=body) for body in BODIES[operation["operationId"]])
    if "multipart/form-data" in content:
        yield from (replace(order, parts=parts) for parts in FORMS[operation["operationId"]])


def _given(operation: Json, place: str) -> dict[str, str]:
    wanted = [p["name"] for p in operation.get("parameters", []) if p["in"] == place]
    return {name: VALUES[name] for name in wanted}


def _others(values: Mapping[str, str]) -> list[Order]:
    """Ways through a route that its parameters do not tell: streams, latents, keys."""
    events = Order("GET", "/v1/training/jobs/{job_id}/events", values)
    latents = [[0.5] * 8]
    images = {"model": "mnist", "latents": latents, "response": "json"}
    return [
        replace(events, headers={"accept": "text/event-stream", "last-event-id": "0"}),
        Order("POST", "/v1/images", json=images),
        Order("GET", "/v1/models", headers={"authorization": "Bearer wrong"}),
        Order("GET", "/v1/models", headers={"authorization": "Basic eDp5"}),
        Order("POST", "/v1/images", headers={"origin": "https://evil.test"}, json=images),
    ]


def dots(count: int = 24) -> bytes:
    """A zip of small grey images of two classes, none like another."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(count):
            image = Image.new("L", (28, 28), 5 * i)
            image.putpixel((i, 27 - i), 255)
            png = io.BytesIO()
            image.save(png, "PNG")
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", png.getvalue())
    return buffer.getvalue()


def png() -> bytes:
    """A PNG that nobody here made."""
    buffer = io.BytesIO()
    Image.new("L", (28, 28), 7).save(buffer, "PNG")
    return buffer.getvalue()


_SEVERAL = (
    *(Part("name", b"dots"), Part("resolution", b"28"), Part("channels", b"1")),
    *(Part("background", b"#fff"), Part("classes", b"a,b"), Part("max_per_class", b"5")),
    *(Part("licence", b"CC0"), Part("append_to", DATASET.encode())),
    Part("labels", b"file,class\n1.png,a\n", "labels.csv"),
)
# A real zip is sent by the last alone: each one that is taken starts a process.
FORMS: Mapping[str, Sequence[tuple[Part, ...]]] = {
    "create_dataset": (
        (Part("name", b"dots"), Part("file", b"no zip at all", "dots.zip")),
        (*_SEVERAL, Part("file", b"PK\x05\x06" + bytes(18), "dots.zip")),
        (Part("file", dots(2)[:-9], "a.zip"), Part("name", b"dots")),
    ),
    "verify_image": (
        (Part("file", png(), "7.png"),),
        (Part("file", base64.b64decode("iVBORw0KGgo="), "7.png"),),
    ),
}


# Where a text can be put


@dataclass(frozen=True)
class Input:
    """A text that an order brings: its name, what it says, and how to say something else there."""

    name: str
    value: bytes
    put: Callable[[bytes], Order]


def inputs(order: Order) -> Iterator[Input]:
    """Every text of an order."""
    for kind in ("values", "query", "headers"):
        for name, value in getattr(order, kind).items():
            if kind != "values" or f"{{{name}}}" in order.path:
                yield Input(f"{kind}.{name}", as_bytes(value), _in_mapping(order, kind, name))
    if order.json is not None:
        for path, value in _texts(order.json):
            yield Input("json." + ".".join(map(str, path)), value.encode(), _in_json(order, path))
    for number, part in enumerate(order.parts):
        for name in ("name", "value") if part.filename is None else ("name", "filename"):
            value = as_bytes(getattr(part, name))
            yield Input(f"form.{part.name!s}.{name}", value, _in_part(order, number, name))


def _in_mapping(order: Order, kind: str, name: str) -> Callable[[bytes], Order]:
    return lambda text: replace(order, **{kind: {**getattr(order, kind), name: text}})


def _in_part(order: Order, number: int, name: str) -> Callable[[bytes], Order]:
    def put(text: bytes) -> Order:
        part = replace(order.parts[number], **{name: text})
        return replace(order, parts=(*order.parts[:number], part, *order.parts[number + 1 :]))

    return put


def _in_json(order: Order, path: Sequence[Any]) -> Callable[[bytes], Order]:
    """What is no UTF-8 becomes lone surrogates."""

    def put(text: bytes) -> Order:
        return replace(order, json=_put(order.json, path, text.decode("utf-8", "surrogateescape")))

    return put


def _texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Texts, and of each object the first name (its path ends in NAME)."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _texts(item, (*path, i))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, (*path, name))
        yield (*path, next(iter(value)), NAME), next(iter(value))


def _put(value: Any, path: Sequence[Any], text: str) -> Any:
    if not path:
        return text
    first, rest = path[0], path[1:]
    if isinstance(value, list):
        return [_put(v, rest, text) if i == first else v for i, v in enumerate(value)]
    if rest == (NAME,):
        return {text if name == first else name: v for name, v in value.items()}
    return {name: _put(v, rest, text) if name == first else v for name, v in value.items()}
