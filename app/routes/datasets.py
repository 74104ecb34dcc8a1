"""Owns the routes of datasets: upload or import from a folder of the server, list, show, delete."""

import json
import re
import zipfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import ImageColor
from pydantic import ValidationError

from app.context import Context, Ctx
from app.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    StorageFullError,
    TooLargeError,
)
from app.imports import ImportRequest, Step, label_files, new_dataset_id
from app.schemas import (
    MAX_RESOLUTION,
    MIN_RESOLUTION,
    NAME_PATTERN,
    Dataset,
    Datasets,
    ServerFolder,
    Verdicts,
)
from app.server_folders import server_source
from app.storage import free_bytes
from app.store.datasets import StoredDataset
from app.uploads import receive_upload, remove
from training.model.registry import DamagedError, Registry

FIELDS = (
    "name",
    "resolution",
    "channels",
    "background",
    "classes",
    "max_per_class",
    "licence",
    "append_to",
)
MAX_NAMED = 10
MAX_JSON_BYTES = 64_000
MAX_PER_CLASS = 1_000_000_000
MAX_LINE = 2**31 - 1
EMPTY_ZIP = b"PK\x05\x06"  # the end record stands where the first entry would

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "string",
            "contentMediaType": "application/zip",
            "description": "A zip of class folders, or of images without classes.",
        },
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "resolution": {"type": "integer", "minimum": MIN_RESOLUTION, "maximum": MAX_RESOLUTION},
        "channels": {"type": "integer", "enum": [1, 3]},
        "background": {
            "type": "string",
            "default": "white",
            "description": "Under transparent pixels: a colour as in CSS.",
        },
        "classes": {
            "type": "string",
            "description": "Only these, between commas; a name with a comma stands in quotes.",
        },
        "max_per_class": {
            "type": "integer",
            "minimum": 1,
            "description": "Images of each class, not more.",
        },
        "licence": {"type": "string", "description": "Of the images; model cards tell it."},
        "append_to": {
            "type": "string",
            "description": "A dataset, by id, name or name@version, whose images come first.",
        },
        "labels": {
            "type": "string",
            "contentMediaType": "text/csv",
            "description": "A file with a line for each image, its file and class: CSV with a"
            " header, or JSON lines.",
        },
    },
    "additionalProperties": False,
}


@router.post(
    "",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": FORM},
                "application/json": {"schema": ServerFolder.model_json_schema()},
            },
        }
    },
)
async def create_dataset(request: Request, ctx: Ctx, response: Response) -> Dataset:
    """Queue the import of a zip, streamed to the disk, or of a folder that the server has.

    `name` may be left out where `append_to` names the dataset that this is the next version of.
    Whatever was sent is safely stored once this answers 202.
    """
    ctx.importer.check_room()
    if _is_json(request):
        dataset = await _from_server(request, ctx)
    else:
        dataset = await _from_upload(request, ctx)
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return _answer(dataset)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "application/json"


async def _from_server(request: Request, ctx: Context) -> StoredDataset:
    """Its JSON is short, although the route takes large bodies."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise TooLargeError(f"The JSON is longer than {MAX_JSON_BYTES:,} bytes.")
    try:
        asked = ServerFolder.model_validate_json(bytes(body))
    except ValidationError as error:
        raise RequestValidationError(
            [{**e, "loc": ("body", *e["loc"])} for e in error.errors()]
        ) from error
    return await to_thread.run_sync(_accept_folder, ctx, asked)


def _accept_folder(ctx: Context, asked: ServerFolder) -> StoredDataset:
    source = server_source(ctx.settings, asked.root, asked.path)
    fields = {
        key: str(value)
        for key, value in asked.model_dump(exclude={"root", "path"}, exclude_none=True).items()
    }
    request = replace(_import_request(ctx, fields), source=str(source))
    return ctx.importer.accept(new_dataset_id(), request)


async def _from_upload(request: Request, ctx: Context) -> StoredDataset:
    dataset_id = new_dataset_id()
    path = ctx.importer.upload_path(dataset_id)
    try:
        length = request.headers.get("content-length", "")
        await to_thread.run_sync(_make_room, ctx, dataset_id, length)
        fields = await receive_upload(
            request,
            {"file": path, "labels": ctx.importer.labels_path(dataset_id)},
            names=FIELDS,
            max_file_bytes=ctx.settings.max_upload_bytes,
        )
        return await to_thread.run_sync(_accept, ctx, dataset_id, path, fields)
    finally:
        ctx.importer.unexpect(dataset_id)


@router.get("")
def list_datasets(ctx: Ctx) -> Datasets:
    """The newest first, without their rejections."""
    return Datasets(data=[_answer(d, rejections=False) for d in ctx.store.list_datasets()])


@router.get("/{dataset_id}")
def get_dataset(dataset_id: str, ctx: Ctx) -> Dataset:
    """By id, name or name@version: how far the import is, and what became of the files."""
    dataset = ctx.store.get_dataset(dataset_id)
    return _answer(dataset, progress=ctx.importer.progress(dataset.id))


@router.post("/{dataset_id}/cancel")
def cancel_dataset(dataset_id: str, ctx: Ctx) -> Dataset:
    """End an import; nothing of it stays but the word that it was cancelled."""
    return _answer(ctx.importer.cancel(ctx.store.get_dataset(dataset_id).id))


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: str, ctx: Ctx) -> None:
    """Forget a dataset and delete its images; refused while a job or a model version needs it."""
    dataset = ctx.store.get_dataset(dataset_id)
    if dataset.status == "importing":
        raise ConflictError(
            f"Dataset {dataset_id!r} is importing; cancel that first"
            f" (POST /v1/datasets/{dataset.id}/cancel)."
        )
    ctx.importer.delete(dataset.id, lambda: _check_unneeded(ctx, dataset))


def _check_unneeded(ctx: Context, dataset: StoredDataset) -> None:
    """Raises ConflictError while a model version was trained on these images."""
    needed_by = _trained_on(ctx.registry, (dataset.summary or {}).get("hash"))
    twins = [d.id for d in ctx.store.list_datasets() if _is_twin(d, dataset)]
    if needed_by and not twins:
        named = ", ".join(needed_by[:MAX_NAMED])
        more = f" and {len(needed_by) - MAX_NAMED} more" if len(needed_by) > MAX_NAMED else ""
        raise ConflictError(
            f"Dataset {dataset.name}@{dataset.version} is needed by {named}{more}, trained on it;"
            " delete these versions first."
        )


def _is_twin(other: StoredDataset, dataset: StoredDataset) -> bool:
    """Whether `other` holds the same images, so that one of the two can go."""
    same = (other.summary or {}).get("hash") == (dataset.summary or {}).get("hash")
    return other.id != dataset.id and other.status == "ready" and same


def _trained_on(registry: Registry, content_hash: str | None) -> list[str]:
    """model@version of each that was trained on images of this hash."""
    if content_hash is None:
        return []
    return [
        f"{model}@{version}"
        for model in registry.list_models()
        for version in registry.versions(model)
        if _lineage_hash(registry, model, version) == content_hash
    ]


def _lineage_hash(registry: Registry, model: str, version: int) -> str | None:
    """None where the manifest is damaged, or tells of no dataset."""
    try:
        return (registry.manifest(model, version).get("lineage") or {}).get("dataset_hash")
    except (DamagedError, LookupError):  # damaged, or deleted meanwhile: it needs nothing
        return None


# What an import tells of its files

REPORT_POLICY = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@router.get("/{dataset_id}/verdicts")
def get_verdicts(
    dataset_id: str,
    ctx: Ctx,
    verdict: Literal["accept", "convert", "reject"] | None = None,
    start: Annotated[int, Query(ge=0, le=MAX_LINE, description="The line to start at.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Verdicts:
    """What became of each file, with the reason; only those of one verdict if it is named."""
    data: list[dict[str, Any]] = []
    with _told(ctx, dataset_id, "verdicts.jsonl") as lines:
        for number, line in enumerate(islice(lines, start, None), start):
            if verdict is not None and verdict.encode() not in line:
                continue
            found = json.loads(line)
            if verdict in (None, found["verdict"]):
                if len(data) == limit:
                    return Verdicts(data=data, next=number)
                data.append(found)
    return Verdicts(data=data, next=None)


@router.get(
    "/{dataset_id}/report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}},
)
def get_report(dataset_id: str, ctx: Ctx) -> Response:
    """The import as a page, which may run nothing and fetch nothing."""
    with _told(ctx, dataset_id, "report.html") as page:
        return Response(page.read(), media_type="text/html", headers=REPORT_POLICY)


@router.get(
    "/{dataset_id}/thumbnails.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def get_thumbnails(dataset_id: str, ctx: Ctx) -> Response:
    """A sheet of images as they were packed."""
    with _told(ctx, dataset_id, "thumbnails.png") as sheet:
        return Response(sheet.read(), media_type="image/png")


def _told(ctx: Context, dataset_id: str, name: str) -> BinaryIO:
    """A file of a packed dataset, opened. Raises NotFoundError, which says why there is none."""
    dataset = ctx.store.get_dataset(dataset_id)
    path = ctx.importer.dataset_path(dataset.id) / name
    if dataset.status != "ready":
        raise NotFoundError(
            f"Dataset {dataset_id!r} is {dataset.status}; {name} is there once it is ready."
        )
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFoundError(
            f"Dataset {dataset_id!r} has no {name}: it was imported before there was one, or has"
            " just been deleted; import its images again."
        ) from None


# What an upload may ask for


def _make_room(ctx: Context, dataset_id: str, declared: str) -> None:
    """Before the body is read, by its length if its sender said it."""
    num_bytes = int(declared) if declared.isdecimal() else 0
    ctx.importer.expect(dataset_id, num_bytes)
    free = free_bytes(ctx.settings.data_dir)
    if num_bytes > free:
        raise StorageFullError(num_bytes, free)


def _accept(ctx: Context, dataset_id: str, path: Path, fields: dict[str, str]) -> StoredDataset:
    try:
        request = _import_request(ctx, fields)
        _check_zip(path)
        _name_labels(ctx.importer.labels_path(dataset_id))
    except BaseException:
        remove(path, *label_files(path))
        raise
    return ctx.importer.accept(dataset_id, request)


def _import_request(ctx: Context, fields: dict[str, str]) -> ImportRequest:
    append_to = fields.get("append_to")
    base = ctx.store.get_dataset(append_to) if append_to else None
    return ImportRequest(
        name=_name(fields.get("name") or (base.name if base else None)),
        resolution=_integer(
            fields,
            "resolution",
            range(MIN_RESOLUTION, MAX_RESOLUTION + 1),
            f"{MIN_RESOLUTION} to {MAX_RESOLUTION}",
        ),
        channels=_integer(fields, "channels", (1, 3), "1 (grey) or 3 (colour)"),
        background=_colour(fields.get("background")),
        classes=fields.get("classes") or None,
        max_per_class=_integer(
            fields, "max_per_class", range(1, MAX_PER_CLASS), "a whole number from 1 on"
        ),
        licence=fields.get("licence") or None,
        append_to=base.id if base else None,
    )


def _name(name: str | None) -> str:
    if name is None:
        raise BadRequestError("Field 'name' is missing; name the dataset.", field="name")
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadRequestError(
            f"Dataset name {name!r} is not allowed; expected 1 to 63 of a-z, 0-9, '.', '_', '-',"
            " the first a letter or digit.",
            field="name",
        )
    return name


def _integer(
    fields: dict[str, str], field: str, allowed: range | tuple[int, ...], words: str
) -> int | None:
    """A form field as a number; a field that is missing or empty (as browsers send it) is None."""
    text = fields.get(field, "")
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) not in allowed:
        raise BadRequestError(f"{field} {text!r} is not allowed; expected {words}.", field=field)
    return int(text)


def _colour(text: str | None) -> str | None:
    """A form field as a colour without transparency; what is missing or empty is None."""
    if not text:
        return None
    try:
        parts = len(ImageColor.getrgb(text))
    except ValueError:
        parts = 0
    if parts != 3:
        raise BadRequestError(
            f"background {text!r} is not a colour; expected a name or a number as in CSS, such as"
            " 'white' or '#f0f0f0'.",
            field="background",
        )
    return text


def _name_labels(path: Path) -> None:
    """JSON lines are told from CSV by the end of their name; what is sent has none."""
    if path.exists():
        with path.open("rb") as f:
            is_json = f.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
        if is_json:
            path.rename(path.with_suffix(".jsonl"))


def _check_zip(path: Path) -> None:
    """What can be told without reading the archive's directory, which is the child's to judge."""
    if not zipfile.is_zipfile(path):
        raise BadRequestError(
            f"The file of {path.stat().st_size:,} bytes is not a zip; expected a zip of class"
            " folders with images.",
            field="file",
        )
    with path.open("rb") as f:
        if f.read(4) == EMPTY_ZIP:
            raise BadRequestError(
                "The zip is empty; expected class folders with images in it.", field="file"
            )


# Answers


def _answer(
    dataset: StoredDataset, *, rejections: bool = True, progress: Step | None = None
) -> Dataset:
    hidden = set() if rejections else {"rejections"}
    facts = {k: v for k, v in (dataset.summary or {}).items() if k not in hidden}
    ended = dataset.finished_at
    known = {
        "id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "status": dataset.status,
        "error": dataset.error,
        "progress": None if progress is None else asdict(progress),
        "created_at": datetime.fromtimestamp(dataset.created_at, UTC),
        "finished_at": None if ended is None else datetime.fromtimestamp(ended, UTC),
    }
    return Dataset.model_validate(facts | known)
