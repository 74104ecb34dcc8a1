"""Owns the models directory: versions that never change and the aliases that point at them.

NAME/VERSION/{manifest.json, generator.safetensors, card.md, samples.png, metrics.json, …}
NAME/aliases.json                      {"champion": 2, "previous": 1, …}, replaced atomically
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from training.model.files import locked, publish_dir, sha256_bytes, staging_dir, write_json

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
FILE_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9]+")
FILES = ("generator.safetensors", "card.md", "samples.png", "metrics.json")


class UnknownModelError(LookupError):
    """No version of a model of that name is registered."""


class UnknownVersionError(LookupError):
    """The model exists, that version of it does not."""


class DamagedError(ValueError):
    """A JSON file of the registry is gone or is no JSON object."""


def check_name(name: str) -> str:
    """Raises ValueError unless `name` is safe as a folder name and in a URL."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"model name {name!r} is not allowed; use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or a digit"
        )
    return name


def now_iso() -> str:
    """The time now, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Registry:
    """All models under one directory. Safe for several processes; every change holds a lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list_models(self) -> list[str]:
        """Names with at least one registered version, sorted."""
        if not self.root.is_dir():
            return []
        names = sorted(p.name for p in self.root.iterdir() if NAME.fullmatch(p.name))
        return [name for name in names if self._versions(name)]

    def versions(self, model: str) -> list[int]:
        """Ascending version numbers; raises UnknownModelError if there are none."""
        found = self._versions(model) if NAME.fullmatch(model) else []
        if not found:
            known = ", ".join(self.list_models()) or "none yet"
            raise UnknownModelError(f"Model {model!r} is not registered; registered: {known}.")
        return found

    def path(self, model: str, version: int) -> Path:
        """Directory of a registered version; raises UnknownModelError or UnknownVersionError."""
        if version not in self.versions(model):
            raise self._unknown(model, version)
        return self.root / model / str(version)

    def resolve(self, ref: str) -> tuple[str, int]:
        """`mnist@2` → ("mnist", 2); `mnist` and `mnist@champion` → its champion.

        Raises UnknownModelError or UnknownVersionError for what is not registered.
        """
        model, _, version = ref.partition("@")
        if version in ("", "champion"):
            newest = self.versions(model)[-1]
            return model, self.champion(model) or newest
        if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise self._unknown(model, version)
        self.path(model, int(version))
        return model, int(version)

    def manifest(self, model: str, version: int) -> dict[str, Any]:
        """manifest.json of a version; raises DamagedError if it cannot be read."""
        return _read_json(self.path(model, version) / "manifest.json")

    def metrics(self, model: str, version: int) -> dict[str, Any]:
        """metrics.json of a version; raises DamagedError if it cannot be read."""
        return _read_json(self.path(model, version) / "metrics.json")

    def aliases(self, model: str) -> dict[str, int]:
        """{"champion": v, "previous": v}: what is set, of what is registered."""
        registered = self.versions(model)
        return {k: v for k, v in self._aliases(model).items() if v in registered}

    def champion(self, model: str) -> int | None:
        """The version served by default, or None if the model has none yet."""
        return self._aliases(model).get("champion") if self._versions(model) else None

    def find_run(self, model: str, run_id: str) -> int | None:
        """The version that training run `run_id` registered, if it did."""
        for version in self._versions(model):
            with suppress(DamagedError):  # told where it is loaded; it must not stop the others
                if self.manifest(model, version).get("run_id") == run_id:
                    return version
        return None

    def register(
        self, model: str, files: Mapping[str, bytes], manifest: Mapping[str, Any], run_id: str
    ) -> int:
        """Publish a version, whole or not at all, and return its number.

        Idempotent by `run_id`: a run that registered and was killed gets its version back. The
        first version of a model becomes champion. `files` holds FILES and what else belongs to the
        version; the manifest gains model, version, run_id, created_at, digest and every file's
        SHA-256.
        """
        odd = [name for name in files if not FILE_NAME.fullmatch(name) or name == "manifest.json"]
        if not set(FILES) <= set(files) or odd:
            raise ValueError(
                f"a version is made of {sorted(FILES)} and files of other names such as card.json, "
                f"got {sorted(files)}"
            )
        with self._locked(check_name(model)):
            version = self.find_run(model, run_id)
            if version is None:
                version = max(self._versions(model), default=0) + 1
                self._publish(model, version, files, {**manifest, "run_id": run_id})
            if "champion" not in self._aliases(model):
                self._point(model, version, "the first version of the model")
        return version

    def promote(self, model: str, version: int, reason: str) -> None:
        """Make `version` the champion and the one before it `previous`, in one step."""
        self.path(model, version)
        with self._locked(model):
            if self.champion(model) != version:
                self._point(model, version, reason)

    def rollback(self, model: str) -> int:
        """Make `previous` the champion again and return it; raises UnknownVersionError if unset."""
        self.versions(model)
        with self._locked(model):
            previous = self.aliases(model).get("previous")
            if previous is None:
                raise UnknownVersionError(f"Model {model!r} has no previous version to go back to.")
            self._point(model, previous, "rolled back")
        return previous

    def _unknown(self, model: str, version: int | str) -> UnknownVersionError:
        known = ", ".join(str(v) for v in self.versions(model))
        return UnknownVersionError(
            f"Model version {version!r} of {model!r} is not registered; registered: {known}."
        )

    def _versions(self, model: str) -> list[int]:
        folder = self.root / model
        if not folder.is_dir():
            return []
        return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch(r"[1-9]\d*", p.name))

    def _aliases(self, model: str) -> dict[str, int]:
        path = self.root / model / "aliases.json"
        if not path.is_file():
            return {}
        stored = _read_json(path)
        return {name: stored[name] for name in ("champion", "previous") if stored.get(name)}

    def _point(self, model: str, version: int, reason: str) -> None:
        value = {
            "champion": version,
            "previous": self._aliases(model).get("champion"),
            "reason": reason,
            "changed_at": now_iso(),
        }
        write_json(self.root / model / "aliases.json", value)

    def _publish(
        self, model: str, version: int, files: Mapping[str, bytes], manifest: Mapping[str, Any]
    ) -> None:
        full = {
            **manifest,
            "format": 1,
            "model": model,
            "version": version,
            "created_at": now_iso(),
            "digest": sha256_bytes(files["generator.safetensors"]),
            "files": {name: sha256_bytes(data) for name, data in files.items()},
        }
        with staging_dir(self.root / model, "version") as staged:
            for name, data in files.items():
                (staged / name).write_bytes(data)
            write_json(staged / "manifest.json", full)
            publish_dir(staged, self.root / model / str(version))

    def _locked(self, model: str):  # noqa: ANN202 (a context manager)
        return locked(self.root / model / ".lock")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}; restore the file") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path} holds no JSON object; restore the file")
    return cast(dict[str, Any], value)
