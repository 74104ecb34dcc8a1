"""Owns one attempt at one job: the trainer it starts, the lease it keeps, how it ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError

from app.run_folder import RunFolder
from app.settings import Settings
from app.slots import Slot
from app.storage import is_failed, is_full
from app.store.jobs import Job
from app.store.store import Store
from training.model.files import locked
from training.model.registry import Registry

TrainerCommand = Callable[[Job, Path], list[str]]

BAD_INPUT = 2
DISK_FAILED = 74
STATE_SAVED = 75

log = structlog.get_logger(__name__)


class Attempt:
    """Runs a claimed job to one of its ends.

    A heartbeat thread keeps the lease and looks for a cancel or a pause, other threads wait for
    what blocks; all they do is to set a field and then `_news`, which the thread in `run` waits on.
    """

    def __init__(
        self,
        job: Job,
        slot: Slot,
        settings: Settings,
        store: Store,
        registry: Registry,
        command: TrainerCommand,
        stopping: threading.Event,
        stop_grace_sec: float,
    ) -> None:
        self._job = job
        self._slot = slot
        self._settings = settings
        self._store = store
        self._registry = registry
        self._command = command
        self._stopping = stopping
        self._stop_grace_sec = stop_grace_sec
        self._folder = RunFolder(settings.runs_dir / job.run, job.events_told)
        # One of several that saves unasked does so because another one died, which is a crash.
        self._several = len(slot.devices) > 1
        self._log = log.bind(job=job.id, attempt=job.attempt)
        self._news = threading.Event()
        self._look = threading.Event()
        self._ended = False
        self._lost = False
        self._cancelled = False
        self._pausing = False
        self._renewed_at = time.monotonic()

    def wake(self) -> None:
        """Look at the job and at `stopping` now; callable from any thread."""
        self._look.set()
        self._news.set()

    def run(self) -> None:
        """Returns when the job has ended, was given back, or belongs to another worker."""
        try:
            with self._heartbeat():
                self._go()
        except OperationalError as error:
            # Nothing can be told now. The lease ends, and whoever claims the job then goes on.
            self._log.error("the store does not answer; giving up", error=str(error.orig))

    def _go(self) -> None:
        try:
            self._folder.begin()
            if self._wait_for_orphan():
                self._train()
            elif not self._lost:
                self._store.release_job(self._job)
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 (job → its row)
            self._break_off(error)

    def _break_off(self, error: Exception) -> None:
        self._log.exception("attempt broke off")
        if is_full(error) or is_failed(error):
            self._pause_for_disk(str(error))
        else:
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
        if now.pause_requested and not self._pausing:
            self._pausing = True
            self._news.set()
        self._copy()

    def _lose(self) -> None:
        self._lost = True
        self._news.set()

    def _copy(self) -> None:
        """The trainer writes files and knows no store: its loop never waits for the database."""
        progress = self._folder.new_progress()
        if progress is not None:
            self._store.record_progress(self._job, progress)
        self._folder.tell_events(partial(self._store.append_events, self._job))

    # The trainer

    def _wait_for_orphan(self) -> bool:
        """Wait until no trainer of an earlier attempt holds the run folder; False if told to end.

        That trainer sees its worker is gone and ends by itself, after it has saved its state.
        """
        free = threading.Event()

        def wait() -> None:
            with locked(self._folder.path / "lock"):
                pass
            free.set()
            self._news.set()

        threading.Thread(target=wait, name="wait for the run folder", daemon=True).start()
        while not free.is_set() and not self._must_end():
            self._news.wait()
            self._news.clear()
        return not self._must_end()

    def _must_end(self) -> bool:
        return self._lost or self._cancelled or self._pausing or self._stopping.is_set()

    def _train(self) -> None:
        with self._folder.log.open("ab") as output:
            code = self._run_trainer(output.fileno())
        if self._several:
            code = self._folder.exit_code(code)
        self._log.info("trainer ended", code=code)
        self._conclude(code)

    def _run_trainer(self, output: int) -> int:
        process = subprocess.Popen(
            self._command(self._job, self._folder.path),
            stdin=subprocess.PIPE,  # held open: its end tells the trainer that we died
            stdout=output,
            stderr=output,
            env=self._slot.environment(),
            start_new_session=True,
        )
        _lower_priority(process, self._settings.training_niceness)
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

    def _conclude(self, code: int) -> None:
        if self._lost:
            self._log.warning("lease lost; nothing is written")
            return
        self._copy()
        if code == 0:
            self._succeed()
        elif code == BAD_INPUT:
            self._store.finish_job(self._job, "failed", error=self._folder.error_line())
        elif self._cancelled:
            self._store.finish_job(self._job, "cancelled")
        elif code == DISK_FAILED:
            self._pause_for_disk(self._folder.error_line())
        elif self._pausing and not self._stopping.is_set():
            self._store.pause_job(self._job)
        elif self._must_end() or (code == STATE_SAVED and not self._several):
            self._store.release_job(self._job)
        else:
            self._crash(f"The trainer {_describe(code)}. {self._folder.log_tail()}".strip())

    def _succeed(self) -> None:
        result = self._folder.result()
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
        model, version, compared = self._job.model, result["version"], result["champion"]
        if not decision["promote"]:
            return decision
        if not self._store.renew_lease(self._job, self._settings.lease_sec):
            self._log.warning("lease lost before the promotion; nothing is written")
            return None
        if self._job.promote == "always":
            self._registry.promote(model, version, decision["reason"])
        elif not self._registry.promote_over(model, compared, version, decision["reason"]):
            champion = self._registry.champion(model)
            return {
                **decision,
                "promote": False,
                "reason": f"The champion became version {champion} while this job ran, which was"
                f" compared with version {compared}; promote it by hand if it is better.",
            }
        self._log.info("promoted", model=model, version=version)
        return decision

    def _pause_for_disk(self, reason: str) -> None:
        """Until a person has made room: trying again would only crash three times."""
        self._log.warning("the disk failed; the job is paused", reason=reason)
        self._store.pause_job(self._job, f"{reason}; make room on the disk and resume the job")

    def _crash(self, reason: str) -> None:
        self._log.warning("attempt crashed", reason=reason)
        self._store.crash_job(self._job, reason)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _lower_priority(process: subprocess.Popen[bytes], niceness: int) -> None:
    """Of what has just been started, before it starts threads: they take after it."""
    with suppress(ProcessLookupError):  # it has ended, which is told elsewhere
        inherited = os.getpriority(os.PRIO_PROCESS, process.pid)
        os.setpriority(os.PRIO_PROCESS, process.pid, max(niceness, inherited))


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"
