"""Owns which saved states outlive the next one: the last that a healthy look at G came after.

A collapse is seen only afterwards. A state saved meanwhile may hold it already, so what a run goes
back to is the state that was the latest when the last healthy window began.
"""

import json
from pathlib import Path
from typing import Any

from training.model.files import write_json

LATEST, _PINS = "state.json", "good.json"

Pointer = dict[str, Any]


def read_pointer(run_dir: Path) -> Pointer | None:
    """The latest saved state: its file, SHA-256 and counters; None before the first."""
    return _read(run_dir / LATEST)


def good_pointer(run_dir: Path) -> Pointer | None:
    """The last state known to be good; the latest where none is known yet."""
    return _pins(run_dir).get("good") or read_pointer(run_dir)


def begin_window(run_dir: Path) -> None:
    """The latest state will be known to be good if the window that begins turns out healthy."""
    _write(run_dir, {**_pins(run_dir), "pending": read_pointer(run_dir)})


def confirm_window(run_dir: Path) -> None:
    """The window was healthy."""
    pending = _pins(run_dir)["pending"]
    _write(run_dir, {"good": pending, "pending": pending})


def pinned_files(run_dir: Path) -> set[str]:
    """Names of state files that must not be dropped, whatever is the latest."""
    return {pointer["file"] for pointer in _pins(run_dir).values() if pointer}


def unpin(run_dir: Path) -> None:
    """The run is over: only its latest state is of use."""
    latest = read_pointer(run_dir)
    assert latest is not None
    (run_dir / _PINS).unlink(missing_ok=True)
    for path in run_dir.glob("state-*.safetensors"):
        if path.name != latest["file"]:
            path.unlink()


def _write(run_dir: Path, pins: dict[str, Pointer | None]) -> None:
    if pins != _pins(run_dir):  # windows are many, states are few
        write_json(run_dir / _PINS, pins)


def _pins(run_dir: Path) -> dict[str, Pointer | None]:
    return _read(run_dir / _PINS) or {}


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
