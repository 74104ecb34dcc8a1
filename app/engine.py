"""Owns the models in memory: loads versions, checks them, and swaps the champion of each model."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from app import png
from app.errors import NotFoundError, UnavailableError
from training.model.checkpoint import CheckpointError, load_generator, read_manifest
from training.model.registry import (
    DamagedError,
    Registry,
    UnknownModelError,
    UnknownVersionError,
)
from training.model.sampling import Certificate, Sampler

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Loaded:
    """One version in memory, ready to be sampled. `sampler` belongs to the batcher's thread."""

    model: str
    version: int
    digest: str
    class_names: tuple[str, ...]
    manifest: dict[str, Any]
    sampler: Sampler
    certificate_id: str

    @property
    def ref(self) -> str:
        """`mnist@2`, as in URLs."""
        return f"{self.model}@{self.version}"

    @property
    def certificate(self) -> Certificate:
        """Where the bytes of its images are the same."""
        return self.sampler.certificate


class Engine:
    """Champions stay loaded; versions asked for by number are kept while they are in use.

    Any thread may call it. A swap loads and checks the new version beside the old one and then
    replaces one reference: a batch that began runs to its end on the version it began with.
    """

    def __init__(
        self,
        registry: Registry,
        device: torch.device,
        max_batch_size: int,
        max_loaded_versions: int,
        on_swap: Callable[[str, int], None] = lambda model, version: None,
    ) -> None:
        self._registry = registry
        self._device = device
        self._max_batch_size = max_batch_size
        self._max_loaded = max_loaded_versions
        self._on_swap = on_swap
        self._champions: dict[str, Loaded] = {}
        self._pinned: OrderedDict[tuple[str, int], Loaded] = OrderedDict()
        self._refused: dict[str, int] = {}
        self._loading = threading.Lock()
        self._ordering = threading.Lock()  # of _pinned; never held for long

    @property
    def device(self) -> torch.device:
        return self._device

    def refresh(self) -> None:
        """Follow the aliases: load what became champion, keep the old one if that is broken."""
        with self._loading:
            models = self._registry.list_models()
            for model in models:
                try:
                    self._follow(model)
                except DamagedError as error:
                    log.error("aliases refused", model=model, reason=str(error))
            for gone in self._champions.keys() - set(models):
                del self._champions[gone]

    def champions(self) -> dict[str, Loaded]:
        """The version served for each model by default."""
        return dict(self._champions)

    def refused(self) -> dict[str, int]:
        """Champions by alias that could not be loaded, so that another version serves."""
        return dict(self._refused)

    def in_memory(self, model: str, version: int | None) -> Loaded | None:
        """Like `get`, but None instead of loading; cheap enough for the event loop."""
        champion = self._champions.get(model)
        if champion is not None and version in (None, champion.version):
            return champion
        return self._used(model, version) if version is not None else None

    def get(self, model: str, version: int | None) -> Loaded:
        """The champion, or a version by number, loaded from disk if need be (seconds).

        Raises NotFoundError if it is not registered, UnavailableError if it cannot be loaded.
        """
        found = self.in_memory(model, version)
        if found is not None:
            return found
        with self._loading:
            found = self.in_memory(model, version)
            return found or self._load_asked(model, version)

    def _load_asked(self, model: str, version: int | None) -> Loaded:
        try:
            if version is not None:
                self._registry.path(model, version)
                return self._pin(self._load(model, version))
            self._registry.versions(model)
            self._follow(model)
        except (UnknownModelError, UnknownVersionError) as error:
            raise NotFoundError(str(error), field="model") from error
        except (CheckpointError, DamagedError) as error:
            ref = model if version is None else f"{model}@{version}"
            raise UnavailableError(f"{ref} cannot be served: {error}") from error
        if model not in self._champions:
            raise UnavailableError(f"no version of model {model!r} can be loaded; see the log")
        return self._champions[model]

    def _pin(self, loaded: Loaded) -> Loaded:
        with self._ordering:
            self._pinned[loaded.model, loaded.version] = loaded
            while len(self._pinned) > self._max_loaded:
                self._pinned.popitem(last=False)
        return loaded

    def _used(self, model: str, version: int) -> Loaded | None:
        with self._ordering:
            found = self._pinned.get((model, version))
            if found is not None:
                self._pinned.move_to_end((model, version))
        return found

    def _unpin(self, model: str, version: int) -> Loaded | None:
        with self._ordering:
            return self._pinned.pop((model, version), None)

    def _follow(self, model: str) -> None:
        wanted = self._registry.champion(model)
        current = self._champions.get(model)
        if wanted is None or (current is not None and current.version == wanted):
            self._refused.pop(model, None)
            return
        refused = self._refused.get(model) == wanted and self._used(model, wanted) is None
        if refused and current is not None:
            return
        for version in [wanted] if current is not None else self._candidates(model, wanted):
            try:
                loaded = self._unpin(model, version) or self._load(model, version)
                self._champions[model] = loaded
            except (CheckpointError, UnknownVersionError) as error:
                log.error("version refused", model=model, version=version, reason=str(error))
                self._refused[model] = wanted
                continue
            if version == wanted:
                self._refused.pop(model, None)
            log.info("serving", model=model, version=version)
            self._on_swap(model, version)
            return

    def _candidates(self, model: str, wanted: int) -> list[int]:
        """At start-up: the champion, then the one before it, then the newest that is left."""
        previous = self._registry.aliases(model).get("previous")
        order = [wanted, previous, *reversed(self._registry.versions(model))]
        return list(dict.fromkeys(v for v in order if v is not None))

    def _load(self, model: str, version: int) -> Loaded:
        path = self._registry.path(model, version)
        generator, network = load_generator(path)
        manifest = _checked_manifest(path, network.num_classes)
        try:
            sampler = Sampler(generator, network, self._device, self._max_batch_size)
        except (ValueError, RuntimeError) as error:  # NaN, or no room on the device
            raise CheckpointError(f"{path} cannot be run: {error}") from error
        return Loaded(
            model=model,
            version=version,
            digest=manifest["digest"],
            class_names=tuple(manifest["class_names"]),
            manifest=manifest,
            sampler=sampler,
            certificate_id=sampler.certificate.id(png.ENCODER),
        )


def _checked_manifest(path: Path, num_classes: int) -> dict[str, Any]:
    manifest = read_manifest(path)
    names = manifest.get("class_names")
    if not isinstance(names, list) or len(names) != num_classes:
        raise CheckpointError(f"{path} names {names!r}; expected {num_classes} class names")
    return manifest
