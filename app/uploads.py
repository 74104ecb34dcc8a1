"""Owns a multipart upload on its way to the disk: files, a few short fields, never in memory."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from app.errors import BadRequestError, TooLargeError, UnsupportedTypeError
from training.model.files import fsync

MAX_FIELD_BYTES = 1_000
# Part headers, boundaries and fields; each file has a limit of its own.
MAX_FORM_BYTES = 64_000


@dataclass
class _Part:
    """The part the parser is in; `name` is None until its headers are read."""

    name: str | None = None
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)


class _Form:
    """Callbacks of the parser: text fields to `fields`, the parts in `files` to their paths."""

    def __init__(
        self, files: Mapping[str, Path], names: Collection[str], max_file_bytes: int
    ) -> None:
        self.fields: dict[str, str] = {}
        self.ended = False
        self.received: list[str] = []
        self._files = files
        self._names = names
        self._max_file_bytes = max_file_bytes
        self._part = _Part()
        self._seen: set[str] = set()
        self._target: BinaryIO | None = None
        self._file_bytes = 0

    def close(self) -> None:
        """Close the file of the part that the parser is in, if it is a file."""
        if self._target is not None:
            self._target.close()
            self._target = None

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._name_part,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def _begin_part(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _end_header(self) -> None:
        self._part.headers[bytes(self._part.header).lower()] = bytes(self._part.value)
        self._part.header.clear()
        self._part.value.clear()

    def _name_part(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in self._files and name not in self._names:
            allowed = ", ".join(map(repr, (*self._files, *self._names)))
            raise BadRequestError(
                f"Form field {name!r} is unknown; expected {allowed}.", field=name
            )
        if name in self._seen:
            raise BadRequestError(f"Form field {name!r} appears twice; send it once.", field=name)
        self._seen.add(name)
        self._part.name = name
        if name in self._files:
            self._target, self._file_bytes = _create(self._files[name]), 0
            self.received.append(name)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._target is not None:
            self._file_bytes += end - start
            if self._file_bytes > self._max_file_bytes:
                raise too_large(str(self._part.name), self._max_file_bytes)
            self._target.write(memoryview(data)[start:end])
            return
        self._part.value += data[start:end]
        if len(self._part.value) > MAX_FIELD_BYTES:
            raise BadRequestError(
                f"Form field {self._part.name!r} is longer than {MAX_FIELD_BYTES} bytes.",
                field=self._part.name,
            )

    def _end_part(self) -> None:
        name = self._part.name
        if self._target is not None:
            self.close()
        elif name is not None:
            self.fields[name] = self._part.value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


async def receive_upload(
    request: Request, files: Mapping[str, Path], *, names: Collection[str], max_file_bytes: int
) -> dict[str, str]:
    """Stream the form's files to new files, synced to the disk; returns the other fields.

    files: where to by the name of the part; the first is wanted, the others may be missing.
    Raises TooLargeError, BadRequestError naming the field, UnsupportedTypeError, ClientDisconnect;
    all the files are gone then.
    """
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_file_bytes + MAX_FORM_BYTES:
        raise too_large(next(iter(files)), max_file_bytes)
    form = _Form(files, names, max_file_bytes)
    try:
        return await _receive(request, boundary, form, files, max_file_bytes)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove, *files.values())
        raise


async def _receive(
    request: Request,
    boundary: bytes,
    form: _Form,
    files: Mapping[str, Path],
    max_file_bytes: int,
) -> dict[str, str]:
    wanted = next(iter(files))
    try:
        await _parse(request, form.parser(boundary), max_file_bytes + MAX_FORM_BYTES, wanted)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(form.close)
    if not form.ended:
        raise BadRequestError("The multipart body ends before its closing boundary; send it again.")
    if wanted not in form.received:
        raise BadRequestError(f"Form field {wanted!r} is missing.", field=wanted)
    await anyio.to_thread.run_sync(_sync, [files[name] for name in form.received])
    return form.fields


async def _parse(
    request: Request, parser: MultipartParser, max_bytes: int, file_field: str
) -> None:
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise too_large(file_field, max_bytes - MAX_FORM_BYTES)
            if chunk:
                await anyio.to_thread.run_sync(parser.write, chunk)
    except FormParserError as e:
        raise BadRequestError(f"The body is not valid multipart/form-data: {e}.") from e


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
        shown = request.headers.get("content-type")
        raise UnsupportedTypeError(
            f"Content-Type {shown!r} cannot be read here; send multipart/form-data."
        )
    return boundary


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _sync(paths: list[Path]) -> None:
    for path in paths:
        fsync(path)
    fsync(paths[0].parent)


def remove(*paths: Path) -> None:
    """Delete files that may not exist."""
    for path in paths:
        path.unlink(missing_ok=True)


def too_large(file_field: str, max_bytes: int) -> TooLargeError:
    """The error for a file over the limit, by the name of its setting."""
    return TooLargeError(
        f"{file_field!r} is longer than {max_bytes:,} bytes, the limit that max_upload_bytes sets.",
        field=file_field,
    )
