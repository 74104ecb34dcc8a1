"""Owns the models directory: versions that never change and the aliases that point at them.

NAME/VERSION/{manifest.json, generator.safetensors, card.md, samples.png, metrics.json, …}
NAME/aliases.json                      {"champion": 2, "previous": 1, …}, replaced atomically
NAME/.3.deleted, NAME/.4.quarantined   numbers that were used, and are never used again
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.model.files import (
    locked,
    publish_dir,
    remove,
    rename,
    sha256_bytes,
    sha256_file,
    staging_dir,
    write_json,
)
from training.model.manifest import SEAL, DamagedError, read_manifest, read_object, sealed

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
FILE_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9]+")
FORMAT = 2  # 1 had no seal
ALIASES: tuple[str, ...] = ("champion", "previous")
_OLD_ALIAS_FIELDS = {*ALIASES, "reason", "changed_at"}
_ALIAS_FIELDS = {*_OLD_ALIAS_FIELDS, "format", SEAL}
_USED = re.compile(r"([1-9]\d*)|\.([1-9]\d*)\.(deleted|quarantined)")
FILES = ("generator.safetensors", "card.md", "samples.png", "metrics.json")


class UnknownModelError(LookupError):
    """No version of a model of that name is registered."""


class UnknownVersionError(LookupError):
    """The model exists, that version of it does not."""


class AliasedError(ValueError):
    """An alias names the version, so that it must stay."""


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
        return read_manifest(self.path(model, version))

    def metrics(self, model: str, version: int) -> dict[str, Any]:
        """metrics.json of a version; raises DamagedError if it cannot be read."""
        return read_object(self.path(model, version) / "metrics.json")

    def aliases(self, model: str) -> dict[str, int]:
        """{"champion": v, "previous": v}: what is set, of what is registered."""
        registered = self.versions(model)
        return {k: v for k, v in self._aliases(model).items() if v in registered}

    def named(self, model: str) -> dict[str, int]:
        """What aliases.json names, registered or not; raises DamagedError."""
        return self._aliases(model)

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
            known = self.find_run(model, run_id)
            version = known or self._next(model)
            if "champion" not in self._aliases(model):
                # Before it is there: in no moment there are versions and no champion.
                self._point(model, version, "the first version of the model")
            if known is None:
                self._publish(model, version, files, {**manifest, "run_id": run_id})
        return version

    def promote(self, model: str, version: int, reason: str) -> None:
        """Make `version` the champion and the one before it `previous`, in one step."""
        self.path(model, version)
        with self._locked(model):
            if self.champion(model) != version:
                self._point(model, version, reason)

    def promote_over(self, model: str, compared: int | None, version: int, reason: str) -> bool:
        """Promote `version` if `compared` is the champion still; whether `version` is it now."""
        self.path(model, version)
        with self._locked(model):
            champion = self.champion(model)
            if champion == compared and champion != version:
                self._point(model, version, reason)
            return champion in (compared, version)

    def rollback(self, model: str) -> int:
        """Make `previous` the champion again and return it; raises UnknownVersionError if unset."""
        self.versions(model)
        with self._locked(model):
            previous = self.aliases(model).get("previous")
            if previous is None:
                raise UnknownVersionError(f"Model {model!r} has no previous version to go back to.")
            self._point(model, previous, "rolled back")
        return previous

    def delete(self, model: str, version: int) -> None:
        """Remove a version for good: it is whole, or it is gone. Its number is not used again.

        Raises AliasedError if an alias names it, UnknownModelError or UnknownVersionError.
        """
        self.path(model, version)
        with self._locked(model):
            path = self.path(model, version)
            named = [alias for alias, v in self.aliases(model).items() if v == version]
            if named:
                raise AliasedError(
                    f"Version {version} of {model!r} is its {named[0]} and stays; promote another "
                    "version first."
                )
            hidden = path.with_name(f".{version}.deleted")
            rename(path, hidden)
            empty(hidden)

    def damage(self, model: str, version: int) -> str | None:
        """What is wrong with the files of a version, by their SHA-256; None if nothing is."""
        folder = self.path(model, version)
        try:
            manifest = read_manifest(folder)
            if (manifest.get("model"), manifest.get("version")) != (model, version):
                return f"its manifest is that of {manifest.get('model')}@{manifest.get('version')}"
            digests: dict[str, str] = manifest["files"]
            changed = [n for n, digest in digests.items() if sha256_file(folder / n) != digest]
        except (DamagedError, OSError, KeyError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return f"{', '.join(changed)} changed since it was registered" if changed else None

    def derived_aliases(self, model: str) -> dict[str, int]:
        """What the aliases would be, judged by the versions alone, where aliases.json is lost.

        The newest undamaged version that was found worth promoting, else the oldest undamaged one;
        `previous` the next of this order.
        """
        good = [v for v in self.versions(model) if self.damage(model, v) is None]
        return dict(zip(ALIASES, dict.fromkeys(self._derived(model, good)), strict=False))

    def restore_aliases(self, model: str) -> dict[str, int]:
        """Write what is still good of the aliases, then `derived_aliases`; returns what it wrote.

        Where no version is undamaged there is nothing to point at, and {} is returned.
        """
        with self._locked(model):
            named: dict[str, int] = {}
            with suppress(DamagedError):
                named = self._aliases(model)
            good = [v for v in self._versions(model) if self.damage(model, v) is None]
            order = [v for v in named.values() if v in good] + self._derived(model, good)
            aliases = dict(zip(ALIASES, dict.fromkeys(order), strict=False))
            if aliases:
                self._write_aliases(model, aliases, "derived from the versions by doctor --repair")
        return aliases

    def quarantine(self, model: str, version: int) -> Path:
        """Hide a damaged version, an aliased one too, and return where it lies."""
        path = self.path(model, version)
        hidden = path.with_name(f".{version}.quarantined")
        with self._locked(model):
            rename(path, hidden)
        return hidden

    def _derived(self, model: str, good: list[int]) -> list[int]:
        return [v for v in reversed(good) if self._found_better(model, v)] + good[:1]

    def _found_better(self, model: str, version: int) -> bool:
        promotion: Any = self.manifest(model, version).get("promotion")
        return isinstance(promotion, dict) and promotion["decision"]["promote"] is True

    def _next(self, model: str) -> int:
        """Above every number that was ever used: a URL of a version means one thing for good."""
        folder = self.root / model
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        used = [_USED.fullmatch(name) for name in names]
        return max((int(match[1] or match[2]) for match in used if match), default=0) + 1

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
        stored = read_object(path)
        named = {name: stored[name] for name in ALIASES if stored.get(name) is not None}
        well_formed = "champion" in named and all(type(v) is int for v in named.values())
        # All fields of either format: what was cut short has fewer.
        if not (well_formed and stored.keys() in (_ALIAS_FIELDS, _OLD_ALIAS_FIELDS)):
            raise DamagedError(f"{path} is no file of aliases; restore it or run doctor --repair")
        return named

    def _point(self, model: str, version: int, reason: str) -> None:
        before = self._aliases(model).get("champion")
        self._write_aliases(model, {"champion": version, "previous": before}, reason)

    def _write_aliases(self, model: str, aliases: Mapping[str, int | None], reason: str) -> None:
        named = {**dict.fromkeys(ALIASES), **aliases}
        value = {"format": FORMAT, **named, "reason": reason, "changed_at": now_iso()}
        write_json(self.root / model / "aliases.json", sealed(value))

    def _publish(
        self, model: str, version: int, files: Mapping[str, bytes], manifest: Mapping[str, Any]
    ) -> None:
        full = {
            **manifest,
            "format": FORMAT,
            "model": model,
            "version": version,
            "created_at": now_iso(),
            "digest": sha256_bytes(files["generator.safetensors"]),
            "files": {name: sha256_bytes(data) for name, data in files.items()},
        }
        with staging_dir(self.root / model, "version") as staged:
            for name, data in files.items():
                (staged / name).write_bytes(data)
            write_json(staged / "manifest.json", sealed(full))
            publish_dir(staged, self.root / model / str(version))

    def _locked(self, model: str):  # noqa: ANN202 (a context manager)
        return locked(self.root / model / ".lock")


def empty(folder: Path) -> None:
    """Remove what is in a folder; what a kill leaves of it is removed next time."""
    for path in folder.iterdir():
        remove(path)
