"""Owns one attempt at one job: the trainer it starts, the lease it keeps, how it ends."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError

from app.children import scrubbed_environment
from app.settings import Settings
from app.store.jobs import Job
from app.store.store import Store
from training.model.files import locked
from training.model.registry import Registry

TrainerCommand = Callable[[Job, Path], list[str]]

BAD_INPUT = 2
STATE_SAVED = 75
MAX_RESULT_BYTES = 1_000_000
LOG_TAIL_BYTES = 2_000

log = structlog.get_logger(__name__)


class Attempt:
    """Runs a claimed job to one of its ends.

    A heartbeat thread keeps the lease and looks for a cancel, other threads wait for what blocks;
    all they do is to set a field and then `_news`, which the thread in `run` waits on.
    """

    def __init__(
        self,
        job: Job,
        settings: Settings,
        store: Store,
        registry: Registry,
        command: TrainerCommand,
        stopping: threading.Event,
        stop_grace_sec: float,
    ) -> None:
        self._job = job
        self._settings = settings
        self._store = store
        self._registry = registry
        self._command = command
        self._stopping = stopping
        self._stop_grace_sec = stop_grace_sec
        self._run_dir = settings.runs_dir / job.id
        self._log = log.bind(job=job.id, attempt=job.attempt)
        self._news = threading.Event()
        self._look = threading.Event()
        self._ended = False
        self._lost = False
        self._cancelled = False
        self._renewed_at = time.monotonic()
        self._progress: bytes | None = None

    def wake(self) -> None:
        """Look at the job and at `stopping` now; callable from any thread."""
        self._look.set()
        self._news.set()

    def run(self) -> None:
        """Returns when the job has ended, was given back, or belongs to another worker."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with self._heartbeat():
            try:
                if self._wait_for_orphan():
                    self._train()
                elif not self._lost:
                    self._store.release_job(self._job)
            except Exception as error:  # noqa: BLE001 (job → its row)
                self._log.exception("attempt broke off")
                self._crash(f"{type(error).__name__}: {error}")

    # The heartbeat thread

    @contextmanager
    def _heartbeat(self) -> Generator[None, None, None]:
        thread = threading.Thread(target=self._keep_lease, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            self._ended = True
            self._look.set()
            thread.join()

    def _keep_lease(self) -> None:
        try:
            while not self._ended and not self._lost:
                self._try_beat()
                self._look.wait(min(self._settings.poll_sec, self._settings.lease_sec / 3))
                self._look.clear()
        finally:
            # However this thread ends, nobody renews the lease from here on.
            self._lost = self._lost or not self._ended
            self._news.set()

    def _try_beat(self) -> None:
        try:
            self._beat()
        except OperationalError as error:
            self._log.warning("heartbeat failed", error=str(error.orig))
            if time.monotonic() - self._renewed_at > self._settings.lease_sec:
                self._lose()

    def _beat(self) -> None:
        asked_at = time.monotonic()
        if asked_at - self._renewed_at >= self._settings.lease_sec / 3:
            if not self._store.renew_lease(self._job, self._settings.lease_sec):
                self._lose()
                return
            self._renewed_at = asked_at
        now = self._store.get_job(self._job.id)
        if (now.status, now.attempt) != ("running", self._job.attempt):
            self._lose()
            return
        if now.cancel_requested and not self._cancelled:
            self._cancelled = True
            self._news.set()
        self._copy_progress()

    def _lose(self) -> None:
        self._lost = True
        self._news.set()

    def _copy_progress(self) -> None:
        """The trainer writes a file and knows no store: its loop never waits for the database."""
        raw = _read_bytes(self._run_dir / "progress.json")
        if raw is None or raw == self._progress:
            return
        self._progress = raw
        progress = _parse_object(raw)
        if progress is not None:
            self._store.record_progress(self._job, progress)

    # The trainer

    def _wait_for_orphan(self) -> bool:
        """Wait until no trainer of an earlier attempt holds the run folder; False if told to end.

        That trainer sees its worker is gone and ends by itself, after it has saved its state.
        """
        free = threading.Event()

        def wait() -> None:
            with locked(self._run_dir / "lock"):
                pass
            free.set()
            self._news.set()

        threading.Thread(target=wait, name="wait for the run folder", daemon=True).start()
        while not free.is_set() and not self._must_end():
            self._news.wait()
            self._news.clear()
        return not self._must_end()

    def _must_end(self) -> bool:
        return self._lost or self._cancelled or self._stopping.is_set()

    def _train(self) -> None:
        log_path = self._run_dir / "log.txt"
        with log_path.open("ab") as output:
            log_start = output.tell()
            code = self._run_trainer(output.fileno())
        self._log.info("trainer ended", code=code)
        self._conclude(code, _tail(log_path, log_start))

    def _run_trainer(self, output: int) -> int:
        process = subprocess.Popen(
            self._command(self._job, self._run_dir),
            stdin=subprocess.PIPE,  # held open: its end tells the trainer that we died
            stdout=output,
            stderr=output,
            env=scrubbed_environment(),
            start_new_session=True,
        )
        self._log.info("trainer started", pid=process.pid)
        waiter = threading.Thread(target=self._reap, args=(process,), name="reap the trainer")
        waiter.start()
        try:
            self._watch(process)
        finally:
            if process.returncode is None:
                _signal_group(process, signal.SIGKILL)
            waiter.join()
            assert process.stdin is not None
            process.stdin.close()
        return process.wait()

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        # What the trainer started goes with it: a data loader left behind may hold its lock.
        _signal_group(process, signal.SIGKILL)
        self._news.set()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Until the trainer has ended; asks it to, and insists, once this attempt must end."""
        kill_at: float | None = None
        while process.returncode is None:
            if self._lost:
                return
            if self._must_end() and kill_at is None:
                process.terminate()
                kill_at = time.monotonic() + self._stop_grace_sec
            left = None if kill_at is None else kill_at - time.monotonic()
            if left is not None and left <= 0:
                return
            self._news.wait(left)
            self._news.clear()

    # The end

    def _conclude(self, code: int, log_tail: str) -> None:
        if self._lost:
            self._log.warning("lease lost; nothing is written")
            return
        self._copy_progress()
        if code == 0:
            self._succeed()
        elif code == BAD_INPUT:
            self._store.finish_job(self._job, "failed", error=_error_line(log_tail))
        elif self._cancelled:
            self._store.finish_job(self._job, "cancelled")
        elif self._stopping.is_set() or code == STATE_SAVED:
            self._store.release_job(self._job)
        else:
            self._crash(f"The trainer {_describe(code)}. {log_tail}".strip())

    def _succeed(self) -> None:
        raw = _read_bytes(self._run_dir / "result.json")
        result = _parse_object(raw) if raw is not None else None
        if result is None:
            self._crash("The trainer ended without a readable result.json.")
        elif self._cancelled:
            self._store.finish_job(self._job, "cancelled", result=result)
        else:
            decision = self._promote(result)
            if decision is not None:
                result = {**result, "decision": decision}
                self._store.finish_job(self._job, "succeeded", result=result)

    def _promote(self, result: dict[str, Any]) -> dict[str, Any] | None:
        """Move the alias if the trainer found so; the decision as carried out, None if lease lost.

        Moving it again after a crash in between changes nothing.
        """
        decision: dict[str, Any] = result["decision"]
        champion = self._registry.champion(self._job.model)
        if not decision["promote"] or champion == result["version"]:
            return decision
        compared = result["champion"]
        if champion != compared and self._job.promote != "always":
            return {
                **decision,
                "promote": False,
                "reason": f"The champion became version {champion} while this job ran, which was"
                f" compared with version {compared}; promote it by hand if it is better.",
            }
        if not self._store.renew_lease(self._job, self._settings.lease_sec):
            self._log.warning("lease lost before the promotion; nothing is written")
            return None
        self._registry.promote(self._job.model, result["version"], decision["reason"])
        self._log.info("promoted", model=self._job.model, version=result["version"])
        return decision

    def _crash(self, reason: str) -> None:
        self._log.warning("attempt crashed", reason=reason)
        self._store.crash_job(self._job, reason)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _read_bytes(path: Path) -> bytes | None:
    """The content of a small file that may not be there yet."""
    try:
        with path.open("rb") as f:
            return f.read(MAX_RESULT_BYTES)
    except FileNotFoundError:
        return None


def _parse_object(raw: bytes) -> dict[str, Any] | None:
    """A JSON object without NaN or infinities, None if `raw` is something else."""
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _tail(path: Path, start: int) -> str:
    """The last 2,000 bytes behind `start`, from the beginning of a line where there is one."""
    with path.open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(max(start, size - LOG_TAIL_BYTES))
        text = f.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
    cut = size - start > LOG_TAIL_BYTES and "\n" in text
    return (text.split("\n", 1)[1] if cut else text).strip()


def _error_line(log_tail: str) -> str:
    """What follows `Error:` in the trainer's last such line."""
    for line in reversed(log_tail.splitlines()):
        if line.startswith("Error:"):
            return line.removeprefix("Error:").strip()
    return f"The trainer refused its input: {log_tail}"
