"""Owns how files come to be: whole or not at all, and locked where two could write."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def fsync(path: Path) -> None:
    """Make a file's content, or the renames inside a directory, survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write; on exit it takes the place of `path`, whole, or after an error not at all.

    Raises OSError (a failed fsync included); the temporary file is removed then.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tmp.open("wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        tmp.replace(path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` with `data` so that a reader or a crash sees the old file or the new one."""
    with replacing(path) as f:
        f.write(data)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` for JSON; NaN and infinities are refused, since no JSON reader takes them."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def publish_dir(staged: Path, final: Path) -> None:
    """Rename a fully written directory into place; raises OSError if a non-empty `final` exists."""
    for path in [*staged.rglob("*"), staged]:
        fsync(path)
    rename(staged, final)


def rename(path: Path, final: Path) -> None:
    """Rename within a directory, for good: what a failed sync makes doubtful is taken back."""
    path.rename(final)
    try:
        fsync(final.parent)
    except OSError:
        final.rename(path)
        raise


def hide(path: Path) -> Path:
    """Rename a file or a directory to a leftover of ours, out of sight, and return where it is."""
    hidden = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    rename(path, hidden)
    return hidden


def remove(path: Path) -> None:
    """Delete a file or a directory with all in it; a kill leaves part of it, so `hide` it first."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def staging_dir(parent: Path, prefix: str) -> Generator[Path]:
    """A hidden directory beside the final one (same filesystem), gone on exit unless renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / f".{prefix}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Generator[None]:
    """Hold an exclusive lock on the file `path`; it ends with the process, however that dies.

    Raises BlockingIOError at once if another process holds it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
