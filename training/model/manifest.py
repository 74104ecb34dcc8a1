"""Owns the JSON files of the registry: sealed when written, refused when anything in them changed.

The seal is a SHA-256 of the content. It keeps a flipped bit from making another network, another
class name or another champion; it is no signature. Files older than the seal have none.
"""

import json
from pathlib import Path
from typing import Any, cast

from training.model.files import sha256_bytes

SEAL = "seal"
_HELP = "restore the file, or run noisewell doctor --repair"


class DamagedError(ValueError):
    """A JSON file of the registry is gone, is no JSON object, or is not what was written."""


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with the seal of all else in it. Raises ValueError for NaN and infinities."""
    content = {name: value[name] for name in value if name != SEAL}
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return {**content, SEAL: sha256_bytes(text.encode())}


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object; sealed, unless it is of format 1. Raises DamagedError naming `what`."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise DamagedError(f"{what} holds no JSON object; {_HELP}")
        found = cast(dict[str, Any], value)
        if SEAL in found and sealed(found) != found:
            raise DamagedError(f"{what} was changed since it was written; {_HELP}")
        if SEAL not in found and found.get("format", 1) != 1:
            raise DamagedError(f"{what} has lost its seal; {_HELP}")
    except DamagedError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{what} cannot be read: {error}; {_HELP}") from error
    return found


def read_object(path: Path) -> dict[str, Any]:
    """`parse_object` of a file. Raises DamagedError if it is gone, OSError if the disk fails."""
    return parse_object(_bytes(path), str(path))


def read_manifest(version_dir: Path) -> dict[str, Any]:
    """manifest.json of a version directory. Raises like `read_object`."""
    return read_object(version_dir / "manifest.json")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedError(f"{path} cannot be read: {error}; {_HELP}") from error
