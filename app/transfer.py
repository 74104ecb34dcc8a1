"""Owns a version as one file: a zip out of a registry, and back in only if all of it is sound.

The zip holds the files of the version directory as they are, uncompressed, sorted, dateless: the
same version gives the same bytes. Anybody may have made the file that is imported.
"""

import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from app.errors import BadRequestError, ConflictError, TooLargeError
from training.model.checkpoint import CheckpointError, checked_generator
from training.model.files import replacing, sha256_bytes
from training.model.manifest import SEAL, DamagedError, parse_object
from training.model.registry import FILE_NAME, FILES, Registry, check_name
from training.model.sampling import Sampler

MAX_ENTRIES = 32
MAX_MANIFEST_BYTES = 1_000_000
_MANIFEST = "manifest.json"
_FIELDS = {
    **{"model": str, "run_id": str, "digest": str, "class_names": list, "network": dict},
    **{"lineage": dict, "num_parameters": int},
}
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = (stat.S_IFREG | 0o644) << 16
_ENCRYPTED = 0x1
# What the registry it comes from said; this one says its own.
_OF_THE_OTHER = ("model", "version", "created_at", "format", "promotion", SEAL)


def export_version(registry: Registry, model: str, version: int, out: Path) -> None:
    """Write the version to the zip `out`, whole or not at all.

    Raises BadRequestError for a damaged version, OSError.
    """
    folder = registry.path(model, version)
    wrong = registry.damage(model, version)
    if wrong is not None:
        raise BadRequestError(f"{model}@{version} cannot be exported: {wrong}")
    names = sorted([_MANIFEST, *registry.manifest(model, version)["files"]])
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as target, zipfile.ZipFile(target, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr, entry.create_system = _MODE, 3
            archive.writestr(entry, (folder / name).read_bytes())


def import_version(
    registry: Registry, path: Path, name: str | None, max_bytes: int
) -> tuple[str, int]:
    """Register the version in the zip `path` as the next of its model, or of `name`.

    A run that is registered there already gives its version back. Returns model and version.
    Raises BadRequestError, TooLargeError, ConflictError; nothing has changed then.
    """
    if path.stat().st_size > max_bytes:
        raise TooLargeError(f"{path} is over the {max_bytes:,} bytes that max_upload_bytes allows")
    files = _read(path)
    manifest = _checked(files, str(path))
    model, run_id = name or manifest["model"], manifest["run_id"]
    check_name(model)
    known = registry.find_run(model, run_id)
    if known is not None and registry.manifest(model, known)["digest"] != manifest["digest"]:
        raise ConflictError(
            f"{model}@{known} is of run {run_id!r} too, but has other weights; give --name"
        )
    origin = {name: manifest[name] for name in _OF_THE_OTHER if name in manifest}
    kept = {k: v for k, v in manifest.items() if k not in _OF_THE_OTHER}
    del files[_MANIFEST]
    return model, registry.register(model, files, {**kept, "imported_from": origin}, run_id)


def _read(path: Path) -> dict[str, bytes]:
    """Every file in the zip, none of them larger than the zip itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, path)
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise BadRequestError(f"{path} is no exported version: {error}") from error


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > MAX_ENTRIES or len(set(names)) != len(names):
        _refuse(path, f"it has {len(names)} entries; expected at most {MAX_ENTRIES}, each once")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if not FILE_NAME.fullmatch(entry.orig_filename) or kind not in (0, stat.S_IFREG):
            _refuse(path, f"entry {entry.orig_filename!r} is no file of a version")
        if entry.flag_bits & _ENCRYPTED or entry.compress_type != zipfile.ZIP_STORED:
            _refuse(path, f"entry {entry.filename!r} is encrypted or compressed; export stores")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        _refuse(path, "its entries are larger than itself")


def _checked(files: Mapping[str, bytes], what: str) -> dict[str, Any]:
    """The manifest of files that are all as it says and make a generator that can be run."""
    data = files.get(_MANIFEST, b"")
    if len(data) > MAX_MANIFEST_BYTES:
        _refuse(what, f"its manifest has {len(data):,} bytes, over {MAX_MANIFEST_BYTES:,}")
    try:
        manifest = parse_object(data, f"{what}'s manifest.json")
        _check_digests(manifest, files, what)
        parse_object(files["metrics.json"], f"{what}'s metrics.json")
        generator, network = checked_generator(files["generator.safetensors"], manifest, what)
        if len(manifest["class_names"]) != network.num_classes:
            _refuse(what, "its class names are not those of its network")
        Sampler(generator, network, torch.device("cpu"), 1)
    except (DamagedError, CheckpointError, ValueError, RuntimeError) as error:
        raise BadRequestError(f"{what} is no exported version: {error}") from error
    return manifest


def _check_digests(manifest: Mapping[str, Any], files: Mapping[str, bytes], what: str) -> None:
    odd = [name for name, kind in _FIELDS.items() if not isinstance(manifest.get(name), kind)]
    if odd or not all(isinstance(name, str) for name in manifest["class_names"]):
        _refuse(what, f"its manifest names no {' and no '.join(odd or ['class names'])}")
    digests = manifest.get("files")
    found = {name: sha256_bytes(data) for name, data in files.items() if name != _MANIFEST}
    if digests != found or not set(FILES) <= found.keys():
        _refuse(what, "its files are not those that its manifest names")
    if manifest["digest"] != found["generator.safetensors"]:
        _refuse(what, "its manifest names two digests of the weights")


def _refuse(what: object, why: str) -> NoReturn:
    raise BadRequestError(f"{what} is no exported version: {why}; export it again")
