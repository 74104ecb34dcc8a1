"""Owns what happens to an accepted upload: one import after another, each in a child process."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.children import scrubbed_environment
from app.errors import ConflictError, NotFoundError, QuotaError, UnavailableError
from app.settings import Settings
from app.store.datasets import StoredDataset
from app.store.store import Store
from training.model.files import fsync, write_json

MAX_QUEUED = 16
STOP_GRACE_SEC = 10.0
ERROR_TAIL_BYTES = 4_000
PROGRESS_TAIL_BYTES = 4_000
ARRIVING = "arriving"  # in a pack from its renaming until its row is in, in one transaction
CANCELLED = "The import was cancelled."
NOT_RECORDED = "The disk failed while the upload was recorded; upload it again."

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Step:
    """How far an import is: files done of all, and what became of them."""

    done: int
    total: int
    accepted: int
    rejected: int


@dataclass(frozen=True)
class ImportRequest:
    """What an upload is to become; None: the import chooses from the images, or does without.

    background: a colour as in CSS. classes: names between commas, as on the command line.
    append_to: id of the dataset whose images come first. source: a folder or file of the server
    that is read instead of an upload, and stays as it is.
    """

    name: str
    resolution: int | None = None
    channels: int | None = None
    background: str | None = None
    classes: str | None = None
    max_per_class: int | None = None
    licence: str | None = None
    append_to: str | None = None
    source: str | None = None


ImporterCommand = Callable[[Path, Path, ImportRequest], list[str]]


class DatasetImporter:
    """A bounded queue of uploads and the thread that imports them.

    A child process decodes, because decoders of untrusted bytes may crash or eat memory. Nothing
    is lost when the service dies: the row says `importing`, the upload and its request lie in the
    uploads directory, and the next `start` takes them up again.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        command: ImporterCommand | None = None,
        max_queued: int = MAX_QUEUED,
        stop_grace_sec: float = STOP_GRACE_SEC,
    ) -> None:
        self._settings = settings
        self._store = store
        self._command = command or default_command(settings)
        self._max_queued = max_queued
        self._stop_grace_sec = stop_grace_sec
        self._queue: deque[str] = deque()
        self._news = threading.Condition()
        self._stopping = False
        self._receiving: dict[str, int] = {}
        self._current: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._told: BinaryIO | None = None
        self._thread = threading.Thread(target=self._work, name="dataset importer")

    def start(self) -> None:
        """Take up what an earlier service left behind, and begin."""
        self._settings.uploads_dir.mkdir(parents=True, exist_ok=True)
        self._settings.datasets_dir.mkdir(parents=True, exist_ok=True)
        known = self._store.list_datasets()
        for dataset in known:
            if dataset.error == CANCELLED:
                self.remove(dataset.id)
        self._end_deletions({dataset.id for dataset in known})
        waiting = [d for d in known if d.status == "importing"]
        self._clear_leftovers({d.id for d in waiting})
        self.clear_strays()
        for dataset in sorted(waiting, key=lambda d: d.id):
            self._recover(dataset)
        self._thread.start()

    def close(self) -> None:
        """End the child and the thread; what was not finished stays `importing` for next time."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
            self._signal_child(signal.SIGTERM)
        if self._thread.ident is None:
            return
        self._thread.join(self._stop_grace_sec)
        with self._news:
            self._signal_child(signal.SIGKILL)
        self._thread.join()

    def upload_path(self, dataset_id: str) -> Path:
        """Where the upload of a dataset lies until its import has ended."""
        return self._settings.uploads_dir / f"{dataset_id}.zip"

    def labels_path(self, dataset_id: str) -> Path:
        """Where the labels of an upload lie that came with it, until its import has ended."""
        return self._settings.uploads_dir / f"{dataset_id}.csv"

    def dataset_path(self, dataset_id: str) -> Path:
        """Where the packed dataset lies once it is ready."""
        return self._settings.datasets_dir / dataset_id

    def check_room(self) -> None:
        """Raises UnavailableError when as many imports wait as may."""
        if len(self._queue) >= self._max_queued:
            raise UnavailableError(
                f"{len(self._queue)} datasets wait to be imported, as many as may; try again once"
                " one has ended.",
                retry_after_sec=10,
            )

    def check_quota(self, more_bytes: int = 0, dataset_id: str = "") -> None:
        """Raises QuotaError unless one more dataset, that one, of so many bytes, may be."""
        settings = self._settings
        ready = [d.id for d in self._store.list_datasets() if d.status != "failed"]
        held = {*ready, *self._receiving} - {dataset_id}
        if len(held) >= settings.max_datasets:
            raise QuotaError(
                f"There are {len(held):,} datasets, as many as max_datasets allows; delete one"
                " first."
            )
        used = sum(map(self._bytes_of, held))
        if used + more_bytes > settings.max_datasets_bytes:
            raise QuotaError(
                f"Datasets and uploads take {used:,} bytes and this one {more_bytes:,};"
                f" max_datasets_bytes allows {settings.max_datasets_bytes:,}: delete a dataset"
                " first."
            )

    def expect(self, dataset_id: str, num_bytes: int) -> None:
        """Keep room for an upload that begins, until `accept` or `unexpect`; 0 bytes: not said.

        Raises QuotaError.
        """
        with self._news:
            self.check_quota(num_bytes, dataset_id)
            self._receiving[dataset_id] = num_bytes

    def unexpect(self, dataset_id: str) -> None:
        """The upload has ended, however it did."""
        self._receiving.pop(dataset_id, None)

    def _bytes_of(self, dataset_id: str) -> int:
        """What its upload takes, or will as was said, and its packed files."""
        upload = max(self._receiving.get(dataset_id, 0), _size(self.upload_path(dataset_id)))
        return upload + self._packed_bytes(dataset_id)

    def _packed_bytes(self, dataset_id: str) -> int:
        pack = self.dataset_path(dataset_id)
        return sum(map(_size, pack.iterdir())) if pack.is_dir() else 0

    def accept(self, dataset_id: str, request: ImportRequest) -> StoredDataset:
        """Record and queue the upload at `upload_path`; when this returns it is on the disk.

        Raises UnavailableError, QuotaError, or ConflictError for a dataset to append to that is
        not ready; the upload is removed then.
        """
        upload = self.upload_path(dataset_id)
        try:
            with self._news:
                self.check_room()
                self.check_quota(_size(upload), dataset_id)
                self._check_base(request)
                self._settings.uploads_dir.mkdir(parents=True, exist_ok=True)
                write_json(self._request_path(dataset_id), asdict(request))
                name = None if request.source else upload.name
                dataset = self._store.create_dataset(dataset_id, request.name, name)
                self._queue.append(dataset_id)
                self._news.notify_all()
        except BaseException:
            self._take_back(dataset_id)
            raise
        return dataset

    def _take_back(self, dataset_id: str) -> None:
        """The upload, and its row: it may be there although its commit failed, in a last sync."""
        try:
            self._store.finish_dataset(dataset_id, "failed", error=NOT_RECORDED)
        except SQLAlchemyError:
            log.exception("upload is left for the next start", dataset=dataset_id)
        else:
            self._remove_upload(dataset_id)

    def _check_base(self, request: ImportRequest) -> None:
        if request.append_to is None:
            return
        base = self._store.get_dataset(request.append_to)
        if base.status != "ready":
            raise ConflictError(
                f"Dataset {request.append_to!r} is {base.status}; images are added to one that is"
                " ready."
            )

    def cancel(self, dataset_id: str) -> StoredDataset:
        """End an import and take back what there is of it; its name and its place are free then.

        Raises NotFoundError, or ConflictError if the import has ended.
        """
        with self._news:
            if not self._store.finish_dataset(dataset_id, "failed", error=CANCELLED):
                status = self._store.get_dataset(dataset_id).status
                raise ConflictError(
                    f"Dataset {dataset_id!r} is {status}; only an import that has not ended can be"
                    " cancelled. DELETE removes the dataset."
                )
            if dataset_id == self._current:
                self._signal_child(signal.SIGKILL)  # the thread clears up behind it
            else:
                with suppress(ValueError):  # it is left for the next start
                    self._queue.remove(dataset_id)
                self._remove_upload(dataset_id)
        log.info("import cancelled", dataset=dataset_id)
        return self._store.get_dataset(dataset_id)

    def progress(self, dataset_id: str) -> Step | None:
        """How far the import is; None if it waits, has ended or has told nothing yet."""
        with self._news:
            if dataset_id != self._current or self._told is None:
                return None
            return _last_step(_tail(self._told, PROGRESS_TAIL_BYTES))

    def delete(self, dataset_id: str, check: Callable[[], None]) -> None:
        """Forget a dataset that is no import, then delete its images.

        check: raises what else forbids it; called once no job can come to need the dataset.
        Killed behind the first half, the next start does the second. Raises NotFoundError,
        ConflictError, OSError.
        """

        def doom() -> None:
            check()
            if self.dataset_path(dataset_id).exists():
                self._tombstone(dataset_id).touch()
                fsync(self._settings.datasets_dir)

        with self._news:  # so that no import begins to add to it meanwhile
            self._check_unadded(dataset_id)
            self._store.delete_dataset(dataset_id, doom)
        self.remove(dataset_id)

    def _check_unadded(self, dataset_id: str) -> None:
        waiting = [d.id for d in self._store.list_datasets() if d.status == "importing"]
        requests = ((id, self._request(id)) for id in waiting)
        if adding := [id for id, r in requests if r is not None and r.append_to == dataset_id]:
            raise ConflictError(
                f"Dataset {dataset_id!r} is being added to by {', '.join(adding)}; wait until that"
                " has ended, or cancel it."
            )

    def remove(self, dataset_id: str) -> None:
        """Delete the packed dataset; it vanishes at once, however long its files take."""
        path = self.dataset_path(dataset_id)
        hidden = path.with_name(f".{dataset_id}.deleted.tmp")
        with suppress(FileNotFoundError):
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        self._tombstone(dataset_id).unlink(missing_ok=True)

    def _tombstone(self, dataset_id: str) -> Path:
        """An empty file: its images go if no row names them, which a kill may have left so."""
        return self._settings.datasets_dir / f".{dataset_id}.deleted"

    def clear_strays(self) -> None:
        """Remove what was put in its place by a command that was killed before its row was in."""
        marks = list(self._settings.datasets_dir.glob(f"ds_*/{ARRIVING}"))

        def clear(ids: set[str]) -> None:
            for mark in marks:
                if mark.parent.name in ids:
                    mark.unlink(missing_ok=True)
                else:
                    self.remove(mark.parent.name)

        if marks:
            self._store.while_none_is_added(clear)

    # Start

    def _end_deletions(self, known: set[str]) -> None:
        """What was killed, or failed, half-way: done if its row is gone, else not done."""
        for tombstone in self._settings.datasets_dir.glob(".ds_*.deleted"):
            dataset_id = tombstone.stem.removeprefix(".")
            if dataset_id in known:
                tombstone.unlink()
            else:
                self.remove(dataset_id)

    def _clear_leftovers(self, waiting: set[str]) -> None:
        for path in self._settings.datasets_dir.glob(".ds_*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        uploads = self._settings.uploads_dir
        for path in (*uploads.glob("ds_*"), *uploads.glob(".ds_*.tmp")):
            if path.stem not in waiting:
                path.unlink()

    def _recover(self, dataset: StoredDataset) -> None:
        ready = (self.dataset_path(dataset.id) / "manifest.json").exists()
        request = self._request(dataset.id)
        if ready or (request and (request.source or self.upload_path(dataset.id).exists())):
            self._queue.append(dataset.id)
            return
        log.warning("upload lost", dataset=dataset.id)
        self._store.finish_dataset(
            dataset.id, "failed", error="The upload was lost before its import; upload it again."
        )

    # The thread

    def _work(self) -> None:
        while (dataset_id := self._next()) is not None:
            try:
                self._import(dataset_id)
            except Exception as error:
                log.exception("import broke off", dataset=dataset_id)
                self._give_up(dataset_id, f"{type(error).__name__}: {error}")
            with self._news:
                self._current = None

    def _next(self) -> str | None:
        with self._news:
            while not self._queue and not self._stopping:
                self._news.wait()
            self._current = None if self._stopping else self._queue.popleft()
            return self._current

    def _import(self, dataset_id: str) -> None:
        error = ""
        if self._manifest(dataset_id) is None:
            request = self._request(dataset_id)
            assert request is not None, "accept writes it before the row"
            error = self._run_child(dataset_id, request)
        with self._news:
            interrupted = self._stopping and self._manifest(dataset_id) is None
        if not interrupted or self._is_cancelled(dataset_id):
            self._finish(dataset_id, error)

    def _run_child(self, dataset_id: str, request: ImportRequest) -> str:
        """Import to the end; returns what to tell the user if there is no packed dataset then."""
        command = self._command(
            self.upload_path(dataset_id), self.dataset_path(dataset_id), request
        )
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as told:
            with self._news:
                if self._stopping or self._is_cancelled(dataset_id):
                    return ""
                child = self._child = start_child(command, output, told)
                self._told = told
            log.info("import started", dataset=dataset_id, pid=child.pid)
            code = child.wait()
            with self._news:
                self._child = self._told = None
            assert child.stdin is not None
            child.stdin.close()
            log.info("import ended", dataset=dataset_id, code=code)
            return _explain(code, output)

    def _finish(self, dataset_id: str, error: str) -> None:
        """By what lies on the disk, since a pack is published whole or not at all."""
        manifest = self._manifest(dataset_id)
        if manifest is not None and (over := self._over_quota(dataset_id)):
            self.remove(dataset_id)
            manifest, error = None, over
        if manifest is not None:
            self._store.finish_dataset(dataset_id, "ready", summary=manifest)
        else:
            self._store.finish_dataset(dataset_id, "failed", error=error)
        if self._is_cancelled(dataset_id):
            self.remove(dataset_id)
        self._remove_staged(dataset_id)
        self._remove_upload(dataset_id)

    def _over_quota(self, dataset_id: str) -> str:
        """Packed images may take more than their upload did; what there is to say if too much."""
        try:
            self.check_quota(self._packed_bytes(dataset_id), dataset_id)
        except QuotaError as error:
            return error.detail
        return ""

    def _is_cancelled(self, dataset_id: str) -> bool:
        try:
            return self._store.get_dataset(dataset_id).status == "failed"
        except NotFoundError:  # and deleted since
            return True

    def _give_up(self, dataset_id: str, reason: str) -> None:
        try:
            self._finish(dataset_id, f"The import broke off: {reason}")
        except (SQLAlchemyError, OSError):
            log.exception("import is left for the next start", dataset=dataset_id)

    def _manifest(self, dataset_id: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.dataset_path(dataset_id) / "manifest.json").read_bytes())
        except FileNotFoundError:
            return None

    def _request_path(self, dataset_id: str) -> Path:
        return self._settings.uploads_dir / f"{dataset_id}.json"

    def _request(self, dataset_id: str) -> ImportRequest | None:
        try:
            return ImportRequest(**json.loads(self._request_path(dataset_id).read_bytes()))
        except FileNotFoundError:
            return None

    def _remove_upload(self, dataset_id: str) -> None:
        self.upload_path(dataset_id).unlink(missing_ok=True)
        for path in label_files(self.upload_path(dataset_id)):
            path.unlink(missing_ok=True)
        self._request_path(dataset_id).unlink(missing_ok=True)

    def _remove_staged(self, dataset_id: str) -> None:
        """What a child left that could not clear up behind itself, because it was killed."""
        for path in self._settings.datasets_dir.glob(f".{dataset_id}.*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def _signal_child(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(number)


def new_dataset_id() -> str:
    """`ds_` and 16 hex digits, the first 12 of them milliseconds, so that ids sort by time."""
    return f"ds_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(2)}"


def label_files(upload: Path) -> tuple[Path, Path]:
    """Where labels for an upload may lie: as CSV, or as JSON lines."""
    return upload.with_suffix(".csv"), upload.with_suffix(".jsonl")


def default_command(settings: Settings) -> ImporterCommand:
    """The real import, as `noisewell data import` runs it."""

    def command(upload: Path, out: Path, request: ImportRequest) -> list[str]:
        options = {
            "--out": out,
            "--name": request.name,
            "--resolution": request.resolution,
            "--channels": request.channels,
            "--background": request.background,
            "--labels": next(filter(Path.exists, label_files(upload)), None),
            "--classes": request.classes,
            "--max-per-class": request.max_per_class,
            "--licence": request.licence,
            "--append-to": request.append_to and settings.datasets_dir / request.append_to,
            "--max-files": settings.max_dataset_files,
            "--max-bytes": settings.max_dataset_bytes,
            "--max-zip-ratio": settings.max_dataset_zip_ratio,
            "--max-image-bytes": settings.max_image_bytes,
            "--max-image-pixels": settings.max_image_pixels,
            "--max-image-sec": settings.max_image_sec,
            "--max-decoder-bytes": settings.max_decoder_bytes,
        }
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        base = [sys.executable, "-m", "training.data", "import", request.source or str(upload)]
        return [*base, *given, "--exit-with-stdin", "--json-progress"]

    return command


def start_child(
    command: list[str], output: BinaryIO, told: BinaryIO | None = None
) -> subprocess.Popen[bytes]:
    """A child that sees none of our settings (a key may be among them), and ends when we do.

    output: where its errors go. told: where what it says goes.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # held open: its end tells the child that we died
        stdout=told or subprocess.DEVNULL,
        stderr=output,
        env=scrubbed_environment(),
        start_new_session=True,
    )


def _explain(code: int, output: BinaryIO) -> str:
    """The child's last `Error: …` line, or else how it ended."""
    lines = _tail(output, ERROR_TAIL_BYTES)
    for line in reversed(lines):
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")
    if code < 0:
        name = signal.Signals(-code).name
        return f"The import was killed by {name}; it may have run out of memory."
    return f"The import ended with exit code {code}; {lines[-1] if lines else 'it said nothing'}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tail(file: BinaryIO, num_bytes: int) -> list[str]:
    """The lines at the end of a file, the first of them perhaps cut; leaves its position alone."""
    size = os.fstat(file.fileno()).st_size
    data = os.pread(file.fileno(), num_bytes, max(0, size - num_bytes))
    return data.decode("utf-8", "replace").splitlines()


def _last_step(lines: list[str]) -> Step | None:
    """The last line that tells a step; others may be cut, or be the manifest."""
    for line in reversed(lines):
        try:
            return Step(**json.loads(line))
        except (ValueError, TypeError):
            continue
    return None
