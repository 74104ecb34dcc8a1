"""Owns what can be wrong in a data directory, and how what can be derived is put right again."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from app.retention import leftovers
from app.settings import Settings
from app.store.store import Store
from training.model.files import locked, remove
from training.model.registry import DamagedError, Registry

_LOST = "Its folder is gone from the disk; upload it again."


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `repair` puts it right and says what it did."""

    what: str
    problem: str
    repair: Callable[[], str] = field(repr=False)


@contextmanager
def alone(settings: Settings) -> Generator[bool]:
    """Whether no service and no worker uses the data directory; none can start meanwhile."""
    with ExitStack() as stack:
        try:
            for name in ("serve.lock", "worker.lock"):
                stack.enter_context(locked(settings.data_dir / name, wait=False))
        except BlockingIOError:
            yield False
        else:
            yield True


def examine(
    settings: Settings, store: Store | None, registry: Registry, *, undisturbed: bool
) -> list[Finding]:
    """All that is wrong, in the order in which it is to be repaired. Changes nothing.

    store: None where there is no database. undisturbed: also what only looks wrong while a service
    is at work.
    """
    findings = [f for model in registry.list_models() for f in _versions(registry, model)]
    findings += [f for model in registry.list_models() for f in _aliases(registry, model)]
    if store is not None:
        findings += _datasets(settings, store)
    if store is not None and undisturbed:
        findings += _uploads(settings, store)
    return [*findings, *_leftovers(settings)]


def _versions(registry: Registry, model: str) -> Iterator[Finding]:
    for version in registry.versions(model):
        problem = registry.damage(model, version)
        if problem is not None:
            repair = partial(_quarantine, registry, model, version)
            yield Finding(f"{model}@{version}", problem, repair)


def _quarantine(registry: Registry, model: str, version: int) -> str:
    return f"moved out of sight, to {registry.quarantine(model, version)}"


def _aliases(registry: Registry, model: str) -> Iterator[Finding]:
    problem = _alias_problem(registry, model)
    if problem is not None:
        repair = partial(_restore_aliases, registry, model)
        yield Finding(f"{model}/aliases.json", problem, repair)


def _alias_problem(registry: Registry, model: str) -> str | None:
    try:
        named = registry.named(model)
    except DamagedError as error:
        return str(error)
    if "champion" not in named:
        return "it names no champion"
    registered = registry.versions(model)
    for alias, version in named.items():
        if version not in registered:
            return f"its {alias}, version {version}, is not registered"
        if registry.damage(model, version) is not None:
            return f"its {alias}, version {version}, is damaged"
    return None


def _restore_aliases(registry: Registry, model: str) -> str:
    aliases = registry.restore_aliases(model)
    if not aliases:
        return "no version is left that could be champion; import or train one"
    return ", ".join(f"{alias} is version {version}" for alias, version in aliases.items())


def _datasets(settings: Settings, store: Store) -> Iterator[Finding]:
    for dataset in store.list_datasets():
        folder = settings.datasets_dir / dataset.id
        if dataset.status == "ready" and not (folder / "manifest.json").is_file():
            repair = partial(_lose_dataset, store, dataset.id)
            yield Finding(f"dataset {dataset.name}", f"{folder} is gone or empty", repair)


def _uploads(settings: Settings, store: Store) -> Iterator[Finding]:
    importing = {dataset.id for dataset in store.list_datasets() if dataset.status == "importing"}
    left = [p for p in settings.uploads_dir.glob("ds_*") if p.stem not in importing]
    for path in [*left, *settings.datasets_dir.glob(".ds_*.tmp")]:
        yield Finding(
            str(path),
            "it was left by an upload that ended",
            partial(_removed, partial(remove, path)),
        )


def _lose_dataset(store: Store, dataset_id: str) -> str:
    store.lose_dataset(dataset_id, _LOST)
    return "marked as failed; its version is free"


def _leftovers(settings: Settings) -> Iterator[Finding]:
    for item in leftovers(settings):
        yield Finding(str(item.path), f"a leftover: {item.reason}", partial(_removed, item.remove))


def _removed(remove: Callable[[], object]) -> str:
    remove()
    return "removed"
