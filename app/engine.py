"""Owns the models in memory: loads versions, checks them, and swaps the champion of each model."""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import nn

from app import png
from app.errors import NotFoundError, UnavailableError
from app.machine import is_device_broken
from training.model.checkpoint import CheckpointError, load_generator, read_manifest
from training.model.networks.config import NetworkConfig
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

    @cached_property
    def tag(self) -> str:
        """Differs from that of any version whose files differ. Model and version too, though the
        digest says what is drawn: the files' metadata names them."""
        text = f"{self.ref} {self.digest} {self.certificate_id}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def certificate(self) -> Certificate:
        """Where the bytes of its images are the same."""
        return self.sampler.certificate


@dataclass(frozen=True)
class Refusal:
    """A champion by alias that cannot be loaded, so that another version serves, or none.

    version: None where the aliases themselves cannot be read.
    """

    version: int | None
    reason: str


class Engine:
    """Versions in memory, at most `max_loaded_bytes` of them: the least recently used goes first.

    Any thread may call it. A swap loads and checks the new version beside the old one and then
    replaces one reference: a batch that began runs to its end on the version it began with.
    """

    def __init__(
        self,
        registry: Registry,
        device: torch.device,
        max_batch_size: int,
        max_loaded_bytes: int,
        on_swap: Callable[[str, int], None] = lambda model, version: None,
        die: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._registry = registry
        self._device = device
        self._max_batch_size = max_batch_size
        self._max_loaded_bytes = max_loaded_bytes
        self._on_swap = on_swap
        self._die = die
        self._serving: dict[str, int] = {}
        self._loaded: OrderedDict[tuple[str, int], Loaded] = OrderedDict()
        self._refused: dict[str, Refusal] = {}
        self._loading = threading.Lock()
        self._ordering = threading.Lock()  # of _loaded; never held for long

    @property
    def device(self) -> torch.device:
        return self._device

    def refresh(self, max_bytes: float = math.inf) -> None:
        """Follow the aliases: load what became champion, keep the old one if that is broken.

        Small models come first. When one serves and weights of `max_bytes` were read, others are
        left to the next look, or to the first who asks for them: a large model must not keep a
        service from starting.
        """
        with self._loading:
            models, read = self._registry.list_models(), 0
            new = {
                model: self._weights_bytes(model) for model in models if model not in self._serving
            }
            for model in sorted(models, key=lambda name: new.get(name, 0)):
                read += new.get(model, 0)
                if model in new and self._serving and read > max_bytes:
                    break
                try:
                    self._follow(model)
                except (DamagedError, OSError) as error:
                    log.error("model refused", model=model, reason=str(error))
            for gone in self._serving.keys() - set(models):
                del self._serving[gone]
            self._forget_deleted()

    def _weights_bytes(self, model: str) -> int:
        """Of its champion, or of any version if that cannot be told."""
        try:
            version = self._registry.champion(model) or self._registry.versions(model)[-1]
            path = self._registry.path(model, version) / "generator.safetensors"
            return path.stat().st_size
        except (DamagedError, LookupError, OSError):
            return 0

    def _forget_deleted(self) -> None:
        """Take out of memory what is no longer registered, but for what serves."""
        for loaded in self.loaded():
            known = (self._registry.root / loaded.model / str(loaded.version)).is_dir()
            if not known and self._serving.get(loaded.model) != loaded.version:
                with self._ordering:
                    del self._loaded[loaded.model, loaded.version]
                log.info("unloaded", model=loaded.model, version=loaded.version)

    def serving(self) -> dict[str, int]:
        """The version that answers for each model by default; checked, if not in memory now."""
        return dict(self._serving)

    def refused(self) -> dict[str, Refusal]:
        """Of each model whose champion could not be loaded, which and why."""
        return dict(self._refused)

    def loaded(self) -> list[Loaded]:
        """What is in memory, the least recently used first."""
        with self._ordering:
            return list(self._loaded.values())

    def in_memory(self, model: str, version: int | None) -> Loaded | None:
        """Like `get`, but None instead of loading; cheap enough for the event loop."""
        wanted = self._serving.get(model) if version is None else version
        if wanted is None:
            return None
        with self._ordering:
            found = self._loaded.get((model, wanted))
            if found is not None:
                self._loaded.move_to_end((model, wanted))
        return found

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
            if version is None:
                self._registry.versions(model)
                self._follow(model)
                version = self._serving.get(model)
            if version is None:
                raise UnavailableError(f"no version of model {model!r} can be loaded; see the log")
            return self._ensure(model, version)
        except (UnknownModelError, UnknownVersionError) as error:
            raise NotFoundError(str(error), field="model") from error
        except (CheckpointError, DamagedError) as error:
            ref = model if version is None else f"{model}@{version}"
            raise UnavailableError(f"{ref} cannot be served: {error}") from error

    def _ensure(self, model: str, version: int) -> Loaded:
        """From memory, or from disk into memory, where others may have to make room."""
        found = self.in_memory(model, version)
        if found is not None:
            return found
        loaded = self._load(model, version)
        with self._ordering:
            self._loaded[model, version] = loaded
            while len(self._loaded) > 1 and self._loaded_bytes() > self._max_loaded_bytes:
                _, gone = self._loaded.popitem(last=False)
                log.info("unloaded", model=gone.model, version=gone.version)
        return loaded

    def _loaded_bytes(self) -> int:
        return sum(loaded.sampler.num_bytes for loaded in self._loaded.values())

    def _follow(self, model: str) -> None:
        current = self._serving.get(model)
        try:
            wanted = self._registry.champion(model)
        except DamagedError as error:
            self._refuse(model, None, error)
            wanted = None
        if wanted is None and current is None:
            self._serve_first(model, list(self._registry.derived_aliases(model).values()), None)
        elif wanted == current:
            self._refused.pop(model, None)
        elif wanted is not None and not self._known_as_broken(model, wanted):
            self._serve_first(model, self._candidates(model, wanted), wanted)

    def _known_as_broken(self, model: str, wanted: int) -> bool:
        """Refused before, and not been mended and loaded since; something else serves."""
        refusal = self._refused.get(model)
        broken = refusal is not None and refusal.version == wanted
        return broken and model in self._serving and self.in_memory(model, wanted) is None

    def _serve_first(self, model: str, versions: Sequence[int], wanted: int | None) -> None:
        """Serve the first that can be loaded; `wanted` is what the alias says."""
        for version in versions:
            try:
                self._ensure(model, version)
            except (CheckpointError, UnknownVersionError) as error:
                self._refuse(model, wanted, error)
                continue
            self._serving[model] = version
            if version == wanted:
                self._refused.pop(model, None)
                log.info("serving", model=model, version=version)
            else:
                log.warning(
                    "serving another version", model=model, version=version, champion=wanted
                )
            self._on_swap(model, version)
            return

    def _refuse(self, model: str, version: int | None, error: Exception) -> None:
        refusal = Refusal(version, str(error))
        if self._refused.get(model) != refusal:  # told once, not at every look
            log.error("version refused", model=model, version=version, reason=str(error))
        self._refused[model] = refusal

    def _candidates(self, model: str, wanted: int) -> list[int]:
        """At start-up: the champion, then the one before it, then the newest that is left."""
        if model in self._serving:
            return [wanted]
        previous = self._registry.aliases(model).get("previous")
        order = [wanted, previous, *reversed(self._registry.versions(model))]
        return list(dict.fromkeys(v for v in order if v is not None))

    def _load(self, model: str, version: int) -> Loaded:
        path = self._registry.path(model, version)
        generator, network, manifest = read_version(path)
        try:
            sampler = Sampler(generator, network, self._device, self._max_batch_size)
        except (ValueError, RuntimeError) as error:  # NaN, or no room on the device
            if is_device_broken(error):
                self._die(f"the device failed: {error}")
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


def read_version(path: Path) -> tuple[nn.Module, NetworkConfig, dict[str, Any]]:
    """What a version folder NAME/VERSION holds, if all of it can be served.

    Raises CheckpointError, for the folder of another version too.
    """
    generator, network = load_generator(path)
    manifest = read_manifest(path)
    names, of = manifest.get("class_names"), (manifest.get("model"), manifest.get("version"))
    if not isinstance(names, list) or len(names) != network.num_classes:
        raise CheckpointError(f"{path} names {names!r}; expected {network.num_classes} class names")
    if of != (path.parent.name, int(path.name)):
        raise CheckpointError(f"{path} is a copy of {of[0]}@{of[1]}; restore its own files")
    return generator, network, manifest
