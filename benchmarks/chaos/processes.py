"""Owns a service that is killed: the real processes of one data folder, and who they are."""

import os
import signal
from pathlib import Path
from typing import Literal, get_args

Role = Literal["server", "worker", "trainer"]

ROLES: tuple[Role, ...] = get_args(Role)
_MODULES: dict[str, Role] = {
    "app.cli": "server",
    "app.worker": "worker",
    "training.train": "trainer",
}


def processes(data: Path) -> dict[Role, set[int]]:
    """The living processes of a service by role, orphans too: all name its data folder (Linux)."""
    found: dict[Role, set[int]] = {role: set() for role in ROLES}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        role = next((_MODULES[a] for a in arguments if a in _MODULES), None)
        if role is not None and str(data) in arguments:
            found[role].add(int(path.parent.name))
    return found


def kill(pid: int) -> None:
    """SIGKILL, to one process alone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
