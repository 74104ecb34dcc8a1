"""Owns what is thrown away, when and why: run folders, states, evaluators, versions, leftovers.

Everything that goes is renamed out of sight before it is removed, so a kill leaves it whole or
leaves a leftover for the next time. What a job that has not ended needs is never touched.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from app.pids import is_alive
from app.settings import Settings
from app.store.store import Store
from training.model.files import hide, locked, remove
from training.model.registry import DamagedError, Registry, empty

Kind = Literal["leftover", "states", "run", "evaluator", "version"]

# What only a run that goes on needs, the pointers to states before the states.
_TO_GO_ON = ("state.json", "good.json", "state-*.safetensors", "snapshots", "averages", "dataset")
_LEFTOVER = re.compile(r"\..*?\.(\d{1,9})(?:\.[0-9a-f]{8})?\.tmp")
_DAY_SEC = 86_400


@dataclass(frozen=True)
class Item:
    """Something to throw away, and why. `remove` answers False if it is needed by now."""

    path: Path
    kind: Kind
    num_bytes: int
    reason: str
    remove: Callable[[], bool] = field(repr=False)


def collect(settings: Settings, store: Store, registry: Registry, *, dry_run: bool) -> list[Item]:
    """Throw away what the settings allow no more; returns what went, or would go.

    Raises BlockingIOError while another process does the same, OSError.
    """
    with locked(settings.data_dir / "gc.lock", wait=False):
        items = list(_items(settings, store, registry))
        return [item for item in items if dry_run or item.remove()]


def _items(settings: Settings, store: Store, registry: Registry) -> Iterator[Item]:
    yield from leftovers(settings)
    yield from _runs(settings, store)
    yield from _evaluators(settings.evaluators_dir, settings.max_evaluators_bytes)
    if settings.max_versions_per_model:
        yield from _versions(registry, store, settings.max_versions_per_model)


# Leftovers


def leftovers(settings: Settings) -> Iterator[Item]:
    """What processes that are gone were writing, and what was left of deleted versions."""
    for tree in (
        settings.models_dir,
        settings.runs_dir,
        settings.evaluators_dir,
        settings.datasets_dir,
        settings.uploads_dir,
    ):
        last = None
        for path in sorted(tree.rglob(".*.tmp")):
            within = last is not None and path.is_relative_to(last)  # goes with it
            if not within and _is_left(path):
                last = path
                size, removal = size_of(path), partial(_removed, path)
                yield Item(path, "leftover", size, "its process is gone", removal)
    for path in sorted(settings.models_dir.glob("*/.*.deleted")):
        if any(path.iterdir()):
            size = size_of(path)
            yield Item(path, "leftover", size, "of a deleted version", partial(_emptied, path))


def _is_left(path: Path) -> bool:
    """Whether whoever wrote it is gone: by its process id, which may be another's by now."""
    match = _LEFTOVER.fullmatch(path.name)
    try:
        age_sec = time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return False
    return match is not None and (age_sec > _DAY_SEC or not is_alive(int(match[1])))


def _removed(path: Path) -> bool:
    try:
        remove(path)
    except FileNotFoundError:  # a service that starts clears up as well
        return False
    return True


def _emptied(folder: Path) -> bool:
    empty(folder)
    return True


# Runs


def _runs(settings: Settings, store: Store) -> Iterator[Item]:
    """The oldest go whole beyond max_run_folders; beyond max_runs_bytes they lose their states
    first. The newest stays."""
    runs = _ended_runs(settings.runs_dir, store.runs_needed())
    for run in runs[settings.max_run_folders :]:
        reason = f"over max_run_folders, {settings.max_run_folders}"
        yield _run(run, store, size_of(run), reason)
    kept = runs[: settings.max_run_folders]
    sizes = {run: size_of(run) for run in kept}
    reason = f"over max_runs_bytes, {settings.max_runs_bytes}"
    for run in reversed(kept):
        states = [path for pattern in _TO_GO_ON for path in sorted(run.glob(pattern))]
        size = sum(map(size_of, states))
        if size and sum(sizes.values()) > settings.max_runs_bytes:
            sizes[run] -= size
            yield Item(run, "states", size, reason, partial(_unless_needed, store, run, states))
    for run in reversed(kept[1:]):
        if sum(sizes.values()) > settings.max_runs_bytes:
            yield _run(run, store, sizes.pop(run), reason)


def _ended_runs(runs_dir: Path, needed: Iterable[str]) -> list[Path]:
    """Folders that no job needs and no trainer holds, the newest first."""
    folders = [p for p in runs_dir.glob("[!.]*") if p.is_dir() and not p.is_symlink()]
    ended = [p for p in folders if p.name not in set(needed) and not _is_held(p)]
    return sorted(ended, key=lambda p: (_worked_at(p), p.name), reverse=True)


def _worked_at(run: Path) -> float:
    """When its trainer last said something; the folder's own time changes as states go."""
    said = run / "progress.json"
    return (said if said.exists() else run).stat().st_mtime


def _is_held(run: Path) -> bool:
    if not (run / "lock").exists():
        return False
    try:
        with locked(run / "lock", wait=False):
            return False
    except BlockingIOError:
        return True


def _run(run: Path, store: Store, size: int, reason: str) -> Item:
    return Item(run, "run", size, reason, partial(_unless_needed, store, run, [run]))


def _unless_needed(store: Store, run: Path, paths: Iterable[Path]) -> bool:
    """Hide `paths` of the run while neither a trainer nor a job can come to need it, and remove."""
    hidden: list[Path] = []
    try:
        with locked(run / "lock", wait=False):
            done = store.unless_run_needed(run.name, lambda: hidden.extend(map(hide, paths)))
    except BlockingIOError:
        return False
    for path in hidden:
        remove(path)
    return done


# Evaluators and versions


def _evaluators(folder: Path, max_bytes: int) -> Iterator[Item]:
    """The oldest beyond the quota; a run trains one again if it needs it. The newest stays."""
    files = sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > max_bytes and path != files[0]:
            reason = f"over max_evaluators_bytes, {max_bytes}"
            size, removal = path.stat().st_size, partial(_remove_evaluator, path)
            yield Item(path, "evaluator", size, reason, removal)


def _remove_evaluator(path: Path) -> bool:
    try:
        with locked(path.with_suffix(".lock"), wait=False):
            path.with_suffix(".json").unlink(missing_ok=True)  # it says that the weights are whole
            path.unlink()
    except BlockingIOError:
        return False
    return True


def _versions(registry: Registry, store: Store, most: int) -> Iterator[Item]:
    """The oldest without an alias; none that a job goes on from, and never the newest."""
    needed = store.bases_needed()
    for model in registry.list_models():
        versions = registry.versions(model)
        try:
            named = set(registry.aliases(model).values())
        except DamagedError:
            continue  # who knows which of them serves
        free = [v for v in versions[:-1] if v not in named and f"{model}@{v}" not in needed]
        for version in free[: max(0, len(versions) - most)]:
            path, reason = registry.path(model, version), f"over max_versions_per_model, {most}"
            removal = partial(_delete_version, registry, model, version)
            yield Item(path, "version", size_of(path), reason, removal)


def _delete_version(registry: Registry, model: str, version: int) -> bool:
    registry.delete(model, version)
    return True


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a directory; what vanishes meanwhile counts nothing."""
    paths = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(map(_file_size, paths))


def _file_size(path: Path) -> int:
    try:
        return 0 if path.is_dir() else path.lstat().st_size
    except FileNotFoundError:
        return 0
