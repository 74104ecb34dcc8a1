"""Owns what a run folder shows while its job runs and after: grids, checkpoints, the log."""

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.schemas import Checkpoint, CheckpointKind

MAX_LOG_BYTES = 64 * 1024
MAX_METRICS_BYTES = 1_000_000

# What training leaves on its way; the number is how many images it had seen.
_LEFT: dict[CheckpointKind, tuple[str, re.Pattern[str]]] = {
    "state": (".", re.compile(r"state-(\d{12})-\d+\.safetensors")),
    "snapshot": ("snapshots", re.compile(r"(\d{12})\.safetensors")),
    "samples": ("samples", re.compile(r"(\d{12})\.png")),
}


def list_checkpoints(run_dir: Path, url: str) -> list[Checkpoint]:
    """What there is by now, by images seen; `url` is where the job is."""
    metrics = {row.get("cur_nimg"): row for row in _rows(run_dir / "metrics.jsonl")}
    grids = {nimg for nimg, _ in _files(run_dir, "samples")}
    found = [
        Checkpoint(
            kind=kind,
            cur_nimg=nimg,
            bytes=stat.st_size,
            created_at=datetime.fromtimestamp(stat.st_mtime, UTC),
            samples=f"{url}/samples/{nimg}.png" if nimg in grids else None,
            metrics=metrics.get(nimg),
        )
        for kind in _LEFT
        for nimg, stat in _files(run_dir, kind)
    ]
    return sorted(found, key=lambda c: (c.cur_nimg, c.kind))


def grid_path(run_dir: Path, cur_nimg: int) -> Path:
    """Where the grid of samples of that moment is, if there is one."""
    return run_dir / "samples" / f"{cur_nimg:012d}.png"


def log_tail(path: Path) -> bytes:
    """Whole lines, as many as fit; an encoding error becomes U+FFFD. Empty without a log."""
    if not path.exists():
        return b""
    with path.open("rb") as f:
        start = max(0, f.seek(0, os.SEEK_END) - MAX_LOG_BYTES)
        f.seek(start)
        tail = f.read(MAX_LOG_BYTES)
    if start > 0 and b"\n" in tail:
        tail = tail.split(b"\n", 1)[1]
    return tail.decode("utf-8", "replace").encode()


def _files(run_dir: Path, kind: CheckpointKind) -> Iterator[tuple[int, os.stat_result]]:
    """Images seen and what the file system tells; a trainer may take files away meanwhile."""
    folder, name = run_dir / _LEFT[kind][0], _LEFT[kind][1]
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := name.fullmatch(path.name):
            try:
                yield int(match[1]), path.stat()
            except FileNotFoundError:
                continue


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that a killed trainer may have left in the middle of one."""
    try:
        with path.open("rb") as f:
            lines = f.read(MAX_METRICS_BYTES).splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
