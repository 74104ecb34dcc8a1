"""Owns the processes that a benchmark starts: waits until they answer, weighs them, ends them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.bench.load import fetch, run
from app.bench.wire import Target

START_TIMEOUT_SEC = 90
STOP_TIMEOUT_SEC = 30


class ChildError(Exception):
    """A process did not start or does not answer; says where its log is."""


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Child:
    """A server on a loopback port of its own, from `with` on until its end.

    command: its arguments. path: answers 200 once it is ready. env: its whole environment, None
    for ours. log: where its output goes. cwd: its working directory, None for ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        path: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        timeout_sec: float = START_TIMEOUT_SEC,
        cwd: Path | None = None,
    ) -> None:
        self.target = Target("127.0.0.1", port)
        self.started_in_sec = 0.0
        self._command = list(command)
        self._path = path
        self._log = log
        self._env = env
        self._cwd = cwd
        self._timeout_sec = timeout_sec
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._cwd,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            while not self._answers():
                self._check(time.monotonic() - began)
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise
        self.started_in_sec = time.monotonic() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def rss_bytes(self) -> int:
        """Resident memory of the process itself, without its children (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_sec(self) -> float:
        """CPU time that the process itself has used, without its children (Linux)."""
        return cpu_of(self.pid)

    def stop(self) -> None:
        """SIGTERM to it and all that it started, SIGKILL to what is left after a while."""
        assert self._process is not None
        started = [self.pid, *descendants(self.pid)]
        _signal([self.pid], signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_SEC)
        _signal(started, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            answer = run(fetch(self.target, self.target.get(self._path), timeout_sec=2))
        except ConnectionError:
            return False
        return answer.status == 200

    def _check(self, seconds: float) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is None and seconds < self._timeout_sec:
            return
        slow = f"does not answer after {seconds:.0f} s"
        why = slow if code is None else f"ended with code {code}"
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else "it printed nothing"
        raise ChildError(f"{' '.join(self._command[:4])} {why}; last in {self._log}: {last}")


def service(
    data_dir: Path,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    cwd: Path | None = None,
) -> Child:
    """`noisewell serve` as a person starts it, on a free port, with `data_dir`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = (sys.executable, "-m", "app.cli", "serve", "--port", str(port))
    log = log or data_dir / "serve.log"
    return Child((*command, "--data-dir", str(data_dir)), port, "/health/ready", log, env, cwd=cwd)


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used, without its children (Linux).

    Raises FileNotFoundError or ProcessLookupError if it is gone.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Processes that `pid` started, and theirs (Linux; elsewhere none are found)."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
