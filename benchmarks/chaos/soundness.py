"""Owns what must be true of a data folder at any moment, whoever was killed there a moment ago."""

import json
import re
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.store.jobs import END_STATUSES, Job
from app.store.store import Store
from training.data.dataset import DataError, content_hash, load_dataset
from training.model.files import sha256_file
from training.model.registry import FILES, Registry

DATABASE = "noisewell.sqlite3"
MAX_JOBS, MAX_EVENTS = 100_000, 100_000
_VERSION = re.compile(r"[1-9]\d*")
# What is on its way, and the numbers of versions that are gone.
_HIDDEN = re.compile(r"\..+\.tmp|\.(ds_)?[0-9a-f]+\.(deleted|quarantined)")


def unsound(data: Path) -> list[str]:
    """What is broken in the data folder, a sentence each; none if all is well.

    Reads what a service would read; only hidden names may be left over.
    """
    told = [*_database(data), *_models(data / "models"), *_runs(data / "runs")]
    told += _packs(data / "datasets")
    return told or [*_jobs(data), *_datasets(data)]


def leftovers(data: Path) -> int:
    """How many hidden temporary files and folders lie about."""
    return sum(1 for path in data.rglob(".*.tmp") if path.name.startswith("."))


# Jobs


def _database(data: Path) -> Iterator[str]:
    if not (data / DATABASE).is_file():
        return
    connection = sqlite3.connect(data / DATABASE)
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as error:
        found = [str(error)]
    finally:
        connection.close()
    if found != ["ok"]:
        yield f"the database is damaged: {found[:3]}"


def _jobs(data: Path) -> Iterator[str]:
    if not (data / DATABASE).is_file():
        return
    store = Store.open(data / DATABASE)
    try:
        for job in store.list_jobs(MAX_JOBS):
            yield from _job(store, job)
    finally:
        store.close()


def _job(store: Store, job: Job) -> Iterator[str]:
    events = store.events(job.id, limit=MAX_EVENTS)
    kinds = Counter(event.type for event in events)
    ends = sum(kinds[status] for status in END_STATUSES)
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        yield f"{job.id}: its events are numbered {[event.seq for event in events]}"
    if ends != job.ended or (job.ended and events[-1].type != job.status):
        yield f"{job.id} is {job.status} and has {ends} events of an end"
    if kinds["started"] != job.attempt:
        yield f"{job.id} is at attempt {job.attempt} and was started {kinds['started']} times"
    if (job.status == "running") != (job.worker is not None):
        yield f"{job.id} is {job.status} and held by {job.worker!r}"


# Datasets


def _packs(root: Path) -> Iterator[str]:
    for pack in sorted(root.iterdir()) if root.is_dir() else []:
        if not _HIDDEN.fullmatch(pack.name):
            yield from _pack(pack)


def _pack(pack: Path) -> Iterator[str]:
    try:
        dataset = load_dataset(pack)
    except (DataError, OSError, ValueError) as error:
        yield f"{pack} is half a dataset: {error}"
        return
    labels, names = dataset.labels, dataset.manifest["class_names"]
    if content_hash(dataset.images, labels, names) != dataset.manifest["hash"]:
        yield f"{pack} is half a dataset: its images are not those that its manifest says"


def _datasets(data: Path) -> Iterator[str]:
    """One that is ready has its images, one that is importing has an upload or has them already."""
    if not (data / DATABASE).is_file():
        return
    store = Store.open(data / DATABASE)
    try:
        rows = store.list_datasets()
    finally:
        store.close()
    for row in rows:
        packed = (data / "datasets" / row.id).is_dir()
        if row.status == "ready" and not packed and row.summary:
            yield f"{row.id} is half a dataset: it is ready and its images are not there"
        upload = data / "uploads" / (row.upload or "")
        if row.status == "importing" and not packed and not zipfile.is_zipfile(upload):
            yield f"{row.id} is half a dataset: it is importing and its upload is not there"


# Models


def _models(root: Path) -> Iterator[str]:
    if not root.is_dir():
        return
    for model in sorted(root.iterdir()):
        if not _HIDDEN.fullmatch(model.name):
            yield from _model(model)


def _model(model: Path) -> Iterator[str]:
    runs: Counter[str] = Counter()
    versions: list[int] = []
    for path in sorted(model.iterdir()):
        if _VERSION.fullmatch(path.name):
            versions.append(int(path.name))
            told = list(_version(path, runs))
            yield from told
        elif path.name not in ("aliases.json", ".lock") and not _HIDDEN.fullmatch(path.name):
            yield f"{path} is neither a version nor an alias"
    yield from (f"{model.name} has {n} versions of run {r!r}" for r, n in runs.items() if n > 1)
    if versions:
        yield from _aliases(model, versions)


def _version(path: Path, runs: Counter[str]) -> Iterator[str]:
    manifest = _read(path / "manifest.json")
    if not isinstance(manifest, dict):
        yield f"{path} is half a version: its manifest cannot be read"
        return
    runs[manifest["run_id"]] += 1
    found = {file.name for file in path.iterdir()} - {"manifest.json"}
    listed = manifest["files"]
    if found != set(listed) or not set(FILES) <= found:
        yield f"{path} is half a version: it lists {sorted(listed)} and holds {sorted(found)}"
        return
    for name, digest in listed.items():
        if sha256_file(path / name) != digest:
            yield f"{path} is half a version: {name} is not what its manifest says"


def _aliases(model: Path, versions: list[int]) -> Iterator[str]:
    path = model / "aliases.json"
    aliases = _read(path) or {}
    if path.exists() and not aliases:
        yield f"{path} is half a file"
        return
    if not aliases:
        yield f"{model.name} has versions {versions} and no champion"
        return
    champion, previous = (aliases.get(name) for name in ("champion", "previous"))
    if champion not in versions:
        yield f"{model.name}'s champion is {champion!r}, registered are {versions}"
    if previous is not None and previous not in versions:
        yield f"{model.name}'s previous is {previous!r}, registered are {versions}"


def champion(data: Path, model: str) -> int | None:
    """The one version that is served by default."""
    return Registry(data / "models").champion(model)


# Runs


def _runs(root: Path) -> Iterator[str]:
    for run_dir in sorted(root.iterdir()) if root.is_dir() else []:
        for name in ("run.json", "progress.json", "result.json"):
            if (run_dir / name).exists() and _read(run_dir / name) is None:
                yield f"{run_dir / name} is half a file"
        for name in ("state.json", "good.json"):
            yield from _pointers(run_dir, run_dir / name)


def _pointers(run_dir: Path, path: Path) -> Iterator[str]:
    if not path.exists():
        return
    value = _read(path)
    if not isinstance(value, dict):
        yield f"{path} is half a file"
        return
    for pointer in [value] if "file" in value else [p for p in value.values() if p]:
        file = run_dir / pointer["file"]
        if not file.is_file() or sha256_file(file) != pointer["sha256"]:
            yield f"{path} points at {pointer['file']!r}, which is not there whole"


def _read(path: Path) -> Any:
    """What the JSON file holds, None if it is not there whole."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
