"""Owns what a service needs of its machine: a check each, with what mends it and an exit code."""

import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

from app.settings import Settings
from app.storage import free_bytes
from training.model.sampling import pick_device

MIN_FREE_BYTES = 500_000_000
# How `noisewell doctor` ends where this check is the first that failed; 1 is damage of data.
CODES = {
    "versions": 10,
    "device": 11,
    "permissions": 12,
    "disk": 13,
    "port": 14,
    "database": 15,
}


@dataclass(frozen=True)
class Check:
    """What was looked at and found; `fix` where it is not as it must be, else empty."""

    name: str
    detail: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return not self.fix

    @property
    def line(self) -> str:
        """For people."""
        mark, fix = ("✓", "") if self.ok else ("✗", f"; {self.fix}")
        return f"{mark} {self.name:<12} {self.detail}{fix}"


def checks(settings: Settings, device: str, other: str | None) -> Iterator[Check]:
    """All of them, in the order in which they are to be mended; changes nothing.

    device: as an option names it. other: which service uses the data directory, if one does.
    """
    yield _versions()
    yield _device(device)
    yield _permissions(settings)
    yield _disk(settings)
    yield _port(settings, other)
    yield _database(settings)


def exit_code(found: list[Check]) -> int:
    """Of the first that failed; 0 if none did."""
    return next((CODES[check.name] for check in found if not check.ok), 0)


def _versions() -> Check:
    python = ".".join(map(str, sys.version_info[:3]))
    detail = f"python {python}, torch {torch.__version__}"
    try:
        pinned = [
            r.partition("==")[2] for r in requires("noisewell") or () if r.startswith("torch==")
        ]
        missing = next((p for p in pinned if version("torch").partition("+")[0] != p), None)
    except PackageNotFoundError:
        return Check("versions", f"{detail}, not installed as a package", "pip install .")
    if missing is not None:
        return Check("versions", f"{detail}, expected torch {missing}", "install noisewell again")
    return Check("versions", f"noisewell {version('noisewell')}, {detail}")


def _device(name: str) -> Check:
    try:
        device = pick_device(name)
        torch.ones(1, device=device).add_(1).cpu()
    except (ValueError, RuntimeError) as error:
        return Check("device", f"{name}: {error}", "set NOISEWELL_DEVICE, or mend its driver")
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return Check("device", f"{device}{gpu}")


def _permissions(settings: Settings) -> Check:
    used = (settings.data_dir, settings.models_dir, settings.runs_dir, settings.datasets_dir)
    there = [folder for folder in (*used, settings.uploads_dir) if folder.exists()]
    closed = [folder for folder in there if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]
    if settings.database_path.exists() and not os.access(settings.database_path, os.W_OK):
        closed.append(settings.database_path)
    if closed:
        shown = ", ".join(map(str, closed))
        fix = f"chown -R {os.geteuid()} {settings.data_dir}, or run as its owner"
        return Check("permissions", f"no writing to {shown}", fix)
    return Check("permissions", f"{settings.data_dir} can be written")


def _disk(settings: Settings) -> Check:
    free = free_bytes(settings.data_dir)
    detail = f"{free / 1e9:.1f} GB free at {settings.data_dir}"
    if free < MIN_FREE_BYTES:
        fix = "noisewell gc, or make room: training and uploads will be refused"
        return Check("disk", detail, fix)
    return Check("disk", detail)


def _port(settings: Settings, other: str | None) -> Check:
    if other is not None:
        return Check("port", f"a service runs here: {other}")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        detail = f"{settings.host}:{settings.port}: {error.strerror}"
        return Check("port", detail, "stop what listens there, or set NOISEWELL_PORT")
    return Check("port", f"{settings.host}:{settings.port} is free")


def _database(settings: Settings) -> Check:
    path = settings.database_path
    if not path.exists():
        return Check("database", "none yet")
    try:
        told = _quick_check(path)
    except sqlite3.Error as error:
        told = str(error)
    if told != "ok":
        fix = "stop the service and put a copy in its place, such as noisewell.sqlite3.before-NNNN"
        return Check("database", f"{path}: {told}", fix)
    return Check("database", f"{path} is sound")


def _quick_check(path: Path) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("PRAGMA quick_check(1)").fetchall()
    return str(rows[0][0])
