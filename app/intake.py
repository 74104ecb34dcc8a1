"""Owns how a command brings images into a data folder: packed by a child, then like an upload."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.imports import ARRIVING, DatasetImporter, new_dataset_id
from app.retention import size_of
from app.settings import Settings
from app.store.datasets import StoredDataset
from app.store.store import Store
from app.terminal import run_child
from training.model.files import rename, staging_dir

MAX_NAME = 63


def name_from(source: Path) -> str:
    """What a dataset of that folder or file is called, of what names may hold."""
    whole = source.resolve()
    name = whole.name if source.is_dir() else whole.name.partition(".")[0]
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:MAX_NAME] or "images"


def bring_in(
    settings: Settings, store: Store, source: Path, name: str, options: Sequence[str] = ()
) -> tuple[StoredDataset, bool]:
    """Import `source` as the next version of `name`; the dataset, and whether it is a new one.

    Images that are a version of that name already stay that version. options: more of them for
    `data import`. Raises QuotaError, OSError, SystemExit as the import ended.
    """
    importer = DatasetImporter(settings, store)
    importer.clear_strays()
    importer.check_quota()
    with staging_dir(settings.datasets_dir, f"import-{name}") as staged:
        packed = staged / "packed"
        command = ["import", str(source), "--out", str(packed), "--name", name, *options]
        if code := run_child("training.data", command, tied=True):
            raise SystemExit(code)
        manifest = json.loads((packed / "manifest.json").read_bytes())
        known = [d for d in with_hash(store, manifest["hash"]) if d.name == name]
        if known:
            return known[0], False
        importer.check_quota(size_of(packed))
        return _publish(importer, store, packed, manifest), True


def _publish(
    importer: DatasetImporter, store: Store, packed: Path, manifest: dict[str, Any]
) -> StoredDataset:
    """One transaction adds the row and renames the pack; killed in it, the mark is what is left."""
    dataset_id = new_dataset_id()
    place = importer.dataset_path(dataset_id)
    (packed / ARRIVING).touch()
    dataset = store.add_dataset(
        dataset_id, manifest["name"], manifest, lambda: rename(packed, place)
    )
    (place / ARRIVING).unlink(missing_ok=True)
    return dataset


def with_hash(store: Store, content: str) -> list[StoredDataset]:
    """The ready datasets of just those images, the newest first."""
    ready = (d for d in store.list_datasets() if d.status == "ready" and d.summary is not None)
    return [d for d in ready if d.summary is not None and d.summary["hash"] == content]
