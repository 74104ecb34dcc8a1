"""Owns an import watched from outside: what its processes weigh, what it says, how it ends (Linux).

The import is the command itself, `python -m training.data import`, so that its start counts and
nothing of the measuring process is weighed with it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from app.bench.child import cpu_of, descendants

LOOK_SEC = 0.1
ORPHANS_SEC = 10.0
MB = 1_000_000


@dataclass(frozen=True)
class Look:
    """What is held at one moment, in bytes: memory of its own and shared, no mapped files.

    cpu_sec: what each worker has used so far, by its process id.
    """

    sec: float
    main: int
    workers: int
    cpu_sec: dict[int, float]

    @property
    def all(self) -> int:
        return self.main + self.workers


class Eye:
    """Weighs a process and all that it starts, every so often, from `with` on.

    began: the moment from which the seconds of its looks count. peaks: the most that each process
    ever had resident, mapped files too.
    """

    def __init__(self, pid: int, began: float, look_sec: float = LOOK_SEC) -> None:
        self._pid, self._began, self._look_sec = pid, began, look_sec
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.looks: list[Look] = []
        self.peaks: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def worker_peak(self) -> int:
        return max((peak for pid, peak in self.peaks.items() if pid != self._pid), default=0)

    @property
    def main_peak(self) -> int:
        return self.peaks.get(self._pid, 0)

    @property
    def num_workers(self) -> int:
        return len(self.peaks) - (self._pid in self.peaks)

    def quarters(self, of: Callable[[Look], int]) -> list[int]:
        """The most at any look of each quarter of the time."""
        found, end = [0] * 4, self.looks[-1].sec if self.looks else 0.0
        for look in self.looks:
            quarter = min(3, int(4 * look.sec / max(end, 1e-9)))
            found[quarter] = max(found[quarter], of(look))
        return found

    def busiest(self, since: float, until: float) -> float:
        """Seconds of CPU of the worker that used most of it between two moments."""
        looks = [look.cpu_sec for look in self.looks if since <= look.sec <= until]
        before = looks[0] if looks else {}
        used = (sec - before.get(pid, 0.0) for look in looks for pid, sec in look.items())
        return max(used, default=0.0)

    def alive(self) -> list[int]:
        """Which of the processes still live; one that only waits to be buried has no memory."""
        return [pid for pid in self.peaks if "VmHWM" in _sizes(pid)]

    def _watch(self) -> None:
        while not self._ended.wait(self._look_sec):
            now, workers = time.monotonic() - self._began, descendants(self._pid)
            cpu_sec = {pid: _cpu_until_gone(pid) for pid in workers}
            held = sum(self._weigh(pid) for pid in workers)
            self.looks.append(Look(now, self._weigh(self._pid), held, cpu_sec))

    def _weigh(self, pid: int) -> int:
        """What a process holds now, 0 if it is gone; its peak is kept."""
        sizes = _sizes(pid)
        if "VmHWM" in sizes:
            self.peaks[pid] = max(self.peaks.get(pid, 0), sizes["VmHWM"])
        return sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)


def _sizes(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status, in bytes; none of a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = [line.split() for line in lines if line.endswith(" kB")]
    return {name.removesuffix(":"): 1024 * int(size) for name, size, _ in pairs}


def _cpu_until_gone(pid: int) -> float:
    """Seconds of CPU that a process has used, 0 if it is gone."""
    try:
        return cpu_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


@dataclass(frozen=True)
class Said:
    """One line of progress, and when it came."""

    sec: float
    done: int
    total: int

    def moved(self, before: "Said | None") -> bool:
        return before is None or self.done > before.done


@dataclass
class Watched:
    """One import from its start to its end.

    orphans: its processes that still lived a while after it had ended. cpu_sec: of all its
    processes that it waited for. stopped_after_sec: when it was told to stop, if it was.
    """

    eye: Eye
    code: int = 0
    sec: float = 0.0
    cpu_sec: float = 0.0
    said: list[Said] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)
    manifest: dict[str, Any] | None = None
    error: str = ""
    stopped_after_sec: float | None = None

    @property
    def silences(self) -> list[tuple[float, float]]:
        """From the start to the first step, from each that was told to the next, and to the end."""
        steps = [new.sec for old, new in pairwise((None, *self.said)) if new and new.moved(old)]
        return list(pairwise((0.0, *steps, self.sec)))

    @property
    def longest_silence(self) -> float:
        return max(until - since for since, until in self.silences)

    @property
    def longest_work(self) -> float:
        """The most CPU of one worker in one silence, which is as much as any file can have had."""
        return max(self.eye.busiest(*silence) for silence in self.silences)


@dataclass(frozen=True)
class Stop:
    """End an import once this share of its steps is done: by a signal, or by the end of stdin."""

    signal: signal.Signals | None
    share: float = 0.5

    @property
    def name(self) -> str:
        return "the end of stdin" if self.signal is None else self.signal.name


def watch(
    source: Path,
    out: Path,
    *options: str,
    look_sec: float = LOOK_SEC,
    stop: Stop | None = None,
    timeout_sec: float = 3600.0,
) -> Watched:
    """Import `source` into `out` and watch it; raises TimeoutError after ending what takes longer.

    options: of the command, beside those by which the service starts it too.
    """
    command = [sys.executable, "-m", "training.data", "import", str(source), f"--out={out}"]
    command += ["--json-progress", "--exit-with-stdin", *options]
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdin is not None
        assert process.stdout is not None
        watched = Watched(Eye(process.pid, began, look_sec))
        too_late = threading.Timer(timeout_sec, process.kill)
        too_late.start()
        try:
            with watched.eye, process.stdin, process.stdout:
                _listen(process, watched, began, stop)
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = watched.code = os.waitstatus_to_exitcode(status)
        finally:
            too_late.cancel()
        watched.sec = time.monotonic() - began
        watched.cpu_sec = usage.ru_utime + usage.ru_stime
        watched.error = _tail(errors)
    if watched.sec > timeout_sec:
        raise TimeoutError(f"the import of {source.name!r} was ended after {timeout_sec:.0f} s")
    watched.orphans = _orphans(watched.eye)
    return watched


def _listen(
    process: subprocess.Popen[bytes], watched: Watched, began: float, stop: Stop | None
) -> None:
    """Take in what it says until its end; stop it when the time has come."""
    assert process.stdout is not None
    for line in process.stdout:
        message = _message(line)
        if message is None:
            continue
        if "done" not in message:
            watched.manifest = message
            continue
        now = time.monotonic() - began
        watched.said.append(Said(now, message["done"], message["total"]))
        if stop and message["done"] >= stop.share * message["total"]:
            _stop(process, stop)
            watched.stopped_after_sec, stop = now, None


def _stop(process: subprocess.Popen[bytes], stop: Stop) -> None:
    assert process.stdin is not None
    if stop.signal is None:
        process.stdin.close()
    else:
        process.send_signal(stop.signal)


def _message(line: bytes) -> dict[str, Any] | None:
    """A line of JSON; None for one that was cut short by a kill."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _orphans(eye: Eye) -> list[int]:
    """Which of its processes still live; they have a while to notice that it is gone."""
    end = time.monotonic() + ORPHANS_SEC
    while (alive := eye.alive()) and time.monotonic() < end:
        time.sleep(LOOK_SEC)
    for pid in alive:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return alive


def _tail(errors: Any, most: int = 4000) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - most))
    return errors.read().decode("utf-8", "replace").strip()


def visible(folder: Path) -> list[str]:
    """What a reader of the folder sees: all but hidden names."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def in_mb(sizes: Sequence[int]) -> str:
    return " / ".join(f"{size / MB:,.0f}" for size in sizes)
