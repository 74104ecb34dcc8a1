"""Owns what is tried with datasets: packed, uploaded, imported, brought in, deleted.

A service works in threads; here each operation has one that counts, which is the one that is
struck: that of the request for an upload and a deletion, the importer's for an import.
"""

import asyncio
import io
import os
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from starlette.requests import Request

from app.bench.child import descendants
from app.imports import DatasetImporter, ImportRequest, new_dataset_id
from app.intake import bring_in
from app.retention import collect
from app.settings import Settings
from app.store.datasets import StoredDataset
from app.store.store import Store
from app.uploads import receive_upload
from benchmarks.chaos.operations import Act, Operation
from benchmarks.chaos.soundness import DATABASE
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.model.registry import Registry

NAME, BOUNDARY = "letters", "a-line-that-no-image-has"
REQUEST = ImportRequest(NAME, None, None)
MAX_BYTES = 10_000_000
IMAGES, SIDE = 24, 28
LOOK_SEC = 0.05
IDLE_SEC = 1.0  # without a child for so long, an importer has given up
END_SEC = 20.0


def archive() -> bytes:
    """A zip of two classes, with a file that is no image."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for i in range(IMAGES):
            png = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(png, "PNG")
            made.writestr(f"{'ab'[i % 2]}/{i}.png", png.getvalue())
        made.writestr("a/broken.png", b"\x89PNG and no more")
    return buffer.getvalue()


class Pack(Operation):
    """A zip into a packed dataset, as the command does it and the child of a service."""

    can_be_repeated = False  # it is there already

    def prepare(self, data: Path) -> None:
        data.mkdir(exist_ok=True)
        (data / "letters.zip").write_bytes(archive())

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        out = data / "datasets" / NAME
        return lambda: import_dataset(data / "letters.zip", out, ImportOptions(NAME))

    def effects(self, data: Path) -> int:
        return int((data / "datasets" / NAME).exists())

    def left(self, data: Path) -> Iterator[str]:
        """Nothing hidden once `noisewell gc` has been."""
        store, registry = Store.open(data / DATABASE), Registry(data / "models")
        collect(Settings(data_dir=data), store, registry, dry_run=False)
        store.close()
        yield from _others(data / "datasets", {NAME})


class ServiceOperation(Operation):
    """What a service does; `begin` is its start, which ends what was begun before."""

    def __init__(self) -> None:
        self._open: list[tuple[DatasetImporter, Store]] = []

    def prepare(self, data: Path) -> None:
        Store.open(data / DATABASE).close()

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        importer, store = self.started(data, now)
        _wait(store)
        return lambda: self.act(importer, store)

    def started(
        self, data: Path, now: Callable[[], float] = time.time
    ) -> tuple[DatasetImporter, Store]:
        """Until `close`."""
        store = Store.open(data / DATABASE, now)
        importer = DatasetImporter(Settings(data_dir=data), store)
        self._open.append((importer, store))
        importer.start()
        return importer, store

    def close(self) -> None:
        while self._open:
            importer, store = self._open.pop()
            importer.close()
            store.close()

    def act(self, importer: DatasetImporter, store: Store) -> object:
        raise NotImplementedError

    def effects(self, data: Path) -> int:
        store = Store.open(data / DATABASE)
        try:
            return self.count([d for d in store.list_datasets() if d.status != "failed"])
        finally:
            store.close()

    def count(self, datasets: list[StoredDataset]) -> int:
        """How often it has taken effect, by the datasets that have not failed."""
        raise NotImplementedError

    def left(self, data: Path) -> Iterator[str]:
        """After another start there is nothing but what the rows name, hidden or not."""
        _, store = self.started(data)
        _wait(store)
        rows = store.list_datasets()
        self.close()
        yield from (f"{d.id} is importing for ever" for d in rows if d.status == "importing")
        yield from _others(data / "datasets", {d.id for d in rows if d.status == "ready"})
        yield from _others(data / "uploads", set())


class Upload(ServiceOperation):
    """A request with a zip, up to its answer; nothing is imported yet."""

    can_be_repeated = False  # sent again, it is the next version

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        importer, store = self.started(data, now)
        importer.close()
        return lambda: self.act(importer, store)

    def act(self, importer: DatasetImporter, store: Store) -> object:
        return receive(importer)

    def count(self, datasets: list[StoredDataset]) -> int:
        return len(datasets)


class DatasetImport(ServiceOperation):
    """An upload that was accepted, until it is ready."""

    def held(self) -> int:
        ids = (t.native_id for t in threading.enumerate() if t.name == "dataset importer")
        return next(number for number in ids if number is not None)

    def act(self, importer: DatasetImporter, store: Store) -> object:
        if _ready(store.list_datasets()):
            return None  # the start has ended what was begun
        dataset_id = receive(importer)
        _wait(store)
        _wait_until_gone(importer.upload_path(dataset_id))
        dataset = store.get_dataset(dataset_id)
        if dataset.status != "ready":
            raise OSError(f"{dataset.status}: {dataset.error}")
        return dataset_id

    def count(self, datasets: list[StoredDataset]) -> int:
        return len(_ready(datasets))


class BringIn(ServiceOperation):
    """What `noisewell data import` does, and `noisewell train`: a file into the data folder."""

    def prepare(self, data: Path) -> None:
        super().prepare(data)
        (data / "letters.zip").write_bytes(archive())

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        importer, store = self.started(data, now)
        _wait(store)
        importer.close()
        return lambda: bring_in(Settings(data_dir=data), store, data / "letters.zip", NAME)

    def count(self, datasets: list[StoredDataset]) -> int:
        return len(_ready(datasets))

    def left(self, data: Path) -> Iterator[str]:
        """As of all a service does, once `noisewell gc` has been."""
        store, registry = Store.open(data / DATABASE), Registry(data / "models")
        collect(Settings(data_dir=data), store, registry, dry_run=False)
        store.close()
        yield from super().left(data)


class DatasetDelete(ServiceOperation):
    """A dataset that is ready, gone."""

    can_be_repeated = False  # there is no such dataset then

    def prepare(self, data: Path) -> None:
        before = DatasetImport()
        before.prepare(data)
        before.begin(data)()
        before.close()

    def act(self, importer: DatasetImporter, store: Store) -> object:
        dataset = store.get_dataset(NAME)
        importer.delete(dataset.id, lambda: None)
        return dataset.id

    def count(self, datasets: list[StoredDataset]) -> int:
        return 1 - len(datasets)


def _ready(datasets: list[StoredDataset]) -> list[StoredDataset]:
    return [dataset for dataset in datasets if dataset.status == "ready"]


def _wait(store: Store) -> None:
    """Until nothing is being imported, or the importer has left it for the next start."""
    seen = end = time.monotonic()
    while any(d.status == "importing" for d in store.list_datasets()):
        now = time.monotonic()
        seen = now if descendants(os.getpid()) else seen
        if now > seen + IDLE_SEC or now > end + END_SEC:
            return
        time.sleep(LOOK_SEC)


def _wait_until_gone(upload: Path) -> None:
    """The last that an importer does; where it cannot, not for long."""
    end = time.monotonic() + IDLE_SEC
    while (upload.exists() or upload.with_suffix(".json").exists()) and time.monotonic() < end:
        time.sleep(LOOK_SEC)


def _others(folder: Path, known: set[str]) -> Iterator[str]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in known:
            yield f"{folder.name}/{path.name} is left lying about"


def receive(importer: DatasetImporter) -> str:
    """What the route does with a request, all of it in this thread; returns the dataset's id."""
    dataset_id = new_dataset_id()
    path = importer.upload_path(dataset_id)
    with mock.patch("anyio.to_thread.run_sync", _here):
        fields = asyncio.run(_received(path))
    assert fields == {"name": NAME}
    importer.accept(dataset_id, REQUEST)
    return dataset_id


async def _here(do: Callable[..., Any], *arguments: Any) -> Any:
    """Instead of another thread."""
    return do(*arguments)


def _received(path: Path) -> Awaitable[dict[str, str]]:
    return receive_upload(_request(), {"file": path}, names=("name",), max_file_bytes=MAX_BYTES)


def _request() -> Request:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="name"\r\n\r\n{NAME}\r\n'
    head += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
    body = head.encode() + archive() + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    parts = _parts(body)

    async def receive() -> dict[str, Any]:
        return await anext(parts)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
    return Request(scope, receive)


async def _parts(body: bytes) -> AsyncIterator[dict[str, Any]]:
    """In three pieces, so that a part of it can be on the disk."""
    third = len(body) // 3
    for start, end in ((0, third), (third, 2 * third), (2 * third, len(body))):
        yield {"type": "http.request", "body": body[start:end], "more_body": end < len(body)}


IMPORTS: tuple[Operation, ...] = (
    Pack(),
    Upload(),
    DatasetImport(),
    BringIn(),
    DatasetDelete(),
)
