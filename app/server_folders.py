"""Owns which folders and files of the server may be imported: those below a configured root."""

import os
import stat
from pathlib import Path

from app.errors import BadRequestError
from app.settings import Settings

_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def server_source(settings: Settings, root: str, path: str) -> Path:
    """Where a folder or file below the root of this name lies.

    Each step is opened through no link. Raises BadRequestError naming the field if `root` is none
    of those configured, or if `path` is not below it.
    """
    roots = settings.dataset_roots
    if not roots:
        raise BadRequestError(
            "No folder of the server may be imported; dataset_roots names those that may"
            " (NOISEWELL_DATASET_ROOTS=parts=/srv/parts).",
            field="root",
        )
    if root not in roots:
        known = ", ".join(map(repr, roots))
        raise BadRequestError(f"root {root!r} is not one of dataset_roots: {known}.", field="root")
    steps = _steps(path)
    handle = _opened(roots[root], path, None, last=not steps)
    try:
        for number, step in enumerate(steps, 1):
            inside = _opened(Path(step), path, handle, last=number == len(steps))
            os.close(handle)
            handle = inside
    finally:
        os.close(handle)
    return roots[root].joinpath(*steps)


def _steps(path: str) -> list[str]:
    """The names in a relative path with slashes; "" and "." are the root itself."""
    if "\0" in path or "\\" in path or path.startswith("/"):
        raise _refused(path, "has a NUL or a backslash, or begins with a slash")
    steps = [step for step in path.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise _refused(path, "has '..' in it")
    return steps


def _opened(name: Path, path: str, at: int | None, last: bool) -> int:
    """A folder, or at the end a regular file as well, opened through no link."""
    try:
        handle = os.open(name, _STEP if at is not None else _STEP & ~os.O_NOFOLLOW, dir_fd=at)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _refused(path, f"cannot be opened below its root, through no link ({why})") from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode) or (last and stat.S_ISREG(mode)):
        return handle
    os.close(handle)
    raise _refused(path, "is, or goes through, what is neither a folder nor a file")


def _refused(path: str, why: str) -> BadRequestError:
    return BadRequestError(
        f"path {path[:200]!r} {why}; expected a folder or file below the root, such as"
        " 'parts/2026'.",
        field="path",
    )
