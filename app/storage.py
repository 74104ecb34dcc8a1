"""Owns what a failing disk looks like: full or broken, below a file or below the database."""

import errno
import shutil
from pathlib import Path

from sqlalchemy.exc import OperationalError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: Exception) -> bool:
    """Whether there was no room for what was to be written."""
    if isinstance(error, OperationalError):
        return "disk is full" in str(error.orig)
    return isinstance(error, OSError) and error.errno in _FULL


def is_failed(error: Exception) -> bool:
    """Whether the disk answered with an error, or lets nothing be written."""
    if isinstance(error, OperationalError):
        text = str(error.orig)
        return "disk I/O error" in text or "readonly database" in text
    return isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS)


def free_bytes(folder: Path) -> int:
    """What a process of ours may still write there."""
    return shutil.disk_usage(folder).free
