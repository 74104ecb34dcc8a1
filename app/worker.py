"""Owns the worker process: jobs, as many at once as it has slots, until it is told to stop."""

import json
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Literal

import structlog
import typer
from sqlalchemy.exc import OperationalError

from app.attempt import Attempt, TrainerCommand
from app.caretaker import Caretaker
from app.logs import configure_logs
from app.pids import is_alive
from app.settings import Settings
from app.slots import Slot, slots
from app.store.database import SchemaError
from app.store.jobs import Job
from app.store.store import Store
from training.model.files import locked
from training.model.registry import Registry

STOP_GRACE_SEC = 20.0

Device = Literal["auto", "cpu", "cuda", "mps"]
Request = Literal["wake", "stop", "ended"]

log = structlog.get_logger(__name__)


class Worker:
    """Claims jobs and runs as many at once as there are slots.

    One worker is at work in a data folder. Another one stands by: it claims only while a lease has
    run out, which says that the first one is stuck.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: Registry,
        *,
        trainer_command: TrainerCommand | None = None,
        stop_grace_sec: float = STOP_GRACE_SEC,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._trainer_command = trainer_command
        self._stop_grace_sec = stop_grace_sec
        self._caretaker = Caretaker(settings, store, registry)
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._free = deque(slots(settings))
        self._attempts: set[Attempt] = set()
        self._lock = threading.Lock()  # of _attempts
        self._alone: bool | None = None  # None before it is known
        # No worker before or after has this name, so that no lease is mistaken for ours.
        self.name = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"

    def wake(self) -> None:
        """There may be a new job, or a cancel; callable from any thread, not from a signal."""
        self._news.set()
        with self._lock:
            attempts = list(self._attempts)
        for attempt in attempts:
            attempt.wake()

    def stop(self) -> None:
        """End the trainers, give their jobs back and return from `run`; callable like `wake`."""
        self._stopping.set()
        self.wake()

    def run(self) -> None:
        """Returns after `stop`."""
        attempts = ThreadPoolExecutor(len(self._free), "attempt")
        with self._caretaker, ExitStack() as stack, attempts as pool:
            while not self._stopping.is_set():
                self._news.clear()
                while self._free and (job := self._claim(stack)) is not None:
                    pool.submit(self._run_job, job, self._free.popleft())
                self._news.wait(self._settings.poll_sec)

    def _claim(self, stack: ExitStack) -> Job | None:
        if self._stopping.is_set():
            return None
        try:
            if self._is_alone(stack) or self._store.has_silent_worker():
                return self._store.claim_job(self.name, self._settings.lease_sec)
        except OperationalError as error:
            log.warning("the store does not answer", error=str(error.orig))
        return None

    def _is_alone(self, stack: ExitStack) -> bool:
        """Hold the folder's worker lock, from the first call that can until `stack` ends.

        The lock ends with its process however that dies, so one that follows a crash goes on at
        once, and one that follows a stop waits until the old one has given its jobs back.
        """
        if self._alone:
            return True
        path = self._settings.data_dir / "worker.lock"
        try:
            stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            if self._alone is None:
                log.info("another worker is at work; standing by", lock=str(path))
            self._alone = False
        else:
            log.info("worker started", worker=self.name)
            self._alone = True
            self._store.free_jobs_of(_has_died)
            self._caretaker.tidy()
        return self._alone

    def _run_job(self, job: Job, slot: Slot) -> None:
        log.info("job claimed", job=job.id, attempt=job.attempt, devices=slot.devices)
        attempt = Attempt(
            job,
            slot,
            self._settings,
            self._store,
            self._registry,
            self._trainer_command or default_trainer_command(self._settings, slot),
            self._stopping,
            self._stop_grace_sec,
        )
        with self._lock:
            self._attempts.add(attempt)
        try:
            attempt.run()
        except Exception:  # of one job; the others go on
            log.exception("attempt ended without a word to the store", job=job.id)
        finally:
            with self._lock:
                self._attempts.remove(attempt)
            self._free.append(slot)
            self._news.set()
            self._caretaker.tidy()


def _has_died(worker: str) -> bool:
    """Whether the worker of this name ran on this machine and its process is gone.

    A wrong yes would do no harm: what that worker writes is refused, and its trainer holds the lock
    of the run folder until it ends.
    """
    parts = worker.rsplit(":", 2)
    return parts[0] == socket.gethostname() and len(parts) == 3 and not is_alive(int(parts[1]))


def default_trainer_command(settings: Settings, slot: Slot) -> TrainerCommand:
    """`python -m training.train`, under torchrun on several devices, asked for what a job asks."""

    def command(job: Job, run_dir: Path) -> list[str]:
        amount = ("--minutes", job.minutes) if job.minutes is not None else ("--kimg", job.kimg)
        options = {
            "--data": settings.datasets_dir / job.dataset_id,
            "--run-dir": run_dir,
            "--preset": job.preset,
            amount[0]: amount[1],
            "--seed": job.seed,
            "--model": job.model,
            "--data-dir": settings.data_dir,
            "--promote": job.promote,
            "--job": job.id,
            "--device": slot.kind,
            "--threads": slot.threads,
            "--give-way": settings.pressure_path,
            **({"--base": job.base} if job.base else {}),
        }
        args = [str(part) for option in options.items() for part in option]
        for name, goal in (job.until or {}).items():
            args += ["--until", f"{name}={goal}"]
        for name, value in job.overrides.items():
            text = value if isinstance(value, str) else json.dumps(value)
            args += ["--set", f"{name}={text}"]
        for rule in settings.promotion_rules:
            args += ["--rule", rule]
        return [sys.executable, *_launcher(len(slot.devices)), *args, "--exit-with-stdin"]

    return command


def _launcher(processes: int) -> list[str]:
    trainer = ["-m", "training.train"]
    if processes == 1:
        return trainer
    return [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *trainer,
    ]


def run_worker(
    settings: Settings,
    *,
    follow_stdin: bool = False,
    trainer_command: TrainerCommand | None = None,
) -> None:
    """Work in this process until SIGTERM or SIGINT; call it from the main thread.

    follow_stdin: a line on standard input wakes the worker, its end stops it.
    """
    requests: SimpleQueue[Request] = SimpleQueue()
    store = Store.open(settings.database_path)
    worker = Worker(settings, store, Registry(settings.models_dir), trainer_command=trainer_command)
    try:
        # A handler may interrupt anything; putting into this queue is allowed to it, and only that.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: requests.put("stop"))
        if follow_stdin:
            threading.Thread(target=_follow_stdin, args=(requests.put,), daemon=True).start()
        _serve_requests(worker, requests)
    finally:
        store.close()


def _serve_requests(worker: Worker, requests: SimpleQueue[Request]) -> None:
    with ThreadPoolExecutor(1, "worker") as pool:
        running = pool.submit(worker.run)
        running.add_done_callback(lambda _: requests.put("ended"))
        while (request := requests.get()) != "ended":
            if request == "stop":
                worker.stop()
            else:
                worker.wake()
        running.result()


def _follow_stdin(put: Callable[[Request], None]) -> None:
    # Unbuffered: a thread that sits in a buffered read keeps the interpreter from shutting down.
    while os.read(sys.stdin.fileno(), 4096):
        put("wake")
    put("stop")


def main(
    data_dir: Annotated[Path, typer.Option(help="Where jobs, datasets and models are.")],
    device: Annotated[Device | None, typer.Option(help="Where to train.")] = None,
    follow_stdin: Annotated[
        bool, typer.Option("--follow-stdin", help="A line wakes the worker, the end stops it.")
    ] = False,
) -> None:
    """Run training jobs until told to stop."""
    given = {"data_dir": data_dir} if device is None else {"data_dir": data_dir, "device": device}
    configure_logs()
    try:
        run_worker(Settings.model_validate(given), follow_stdin=follow_stdin)
    except SchemaError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
