"""Owns the proof that a worker stopped past its lease and continued does no harm.

Real worker processes, trainers of a few lines. The first worker is stopped by SIGSTOP while its
trainer trains; when its lease has run out a second one takes the job over. In one half of the tries
the first is continued while the second is at work, in the other when the job has ended. Either way
the second finishes the job, and the first one writes nothing about it and starts nothing.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from verdicts import Verdicts

from app.store.jobs import Job, NewJob
from app.store.store import Store
from training.model.registry import FILES, Registry

PATIENCE_SEC = 30.0
SETTLE_SEC = 1.0  # for a continued worker to do what it must not

DRIVER = """
import sys
from pathlib import Path
from app.settings import Settings
from app.worker import run_worker

settings = {"data_dir": Path(sys.argv[1]), "lease_sec": 0.5, "poll_sec": 0.05}
command = [sys.executable, sys.argv[2]]
run_worker(Settings.model_validate(settings), trainer_command=lambda _, run: [*command, str(run)])
"""

# Trains until SIGUSR1, if it is the first, and leaves a result; one at a time, like the real one.
TRAINER = """
import fcntl, json, os, signal, sys
from pathlib import Path

run_dir = Path(sys.argv[1])
lock = open(run_dir / "lock", "ab")
fcntl.flock(lock, fcntl.LOCK_EX)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
with open(run_dir / "starts.txt", "a") as f:
    f.write(f"{os.getpid()}\\n")
if len((run_dir / "starts.txt").read_text().split()) == 1:
    signal.sigwait({signal.SIGUSR1})
decision = {"promote": True, "reason": "better", "checks": []}
result = {"model": "m", "version": 2, "champion": 1, "decision": decision}
(run_dir / "result.json").write_text(json.dumps(result))
"""


class Try:
    """A data folder with two versions, one queued job, and workers for it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._data_dir = scratch / "data"
        self.registry = Registry(self._data_dir / "models")
        for number in (1, 2):
            self.registry.register("m", dict.fromkeys(FILES, b"{}"), {}, f"run{number}")
        self.store = Store.open(self._data_dir / "noisewell.sqlite3")
        self.store.create_dataset("ds", "d", None)
        self.store.finish_dataset("ds", "ready", summary={})
        new = NewJob("m", "ds", "d", "tiny", 1.0, None, None, {}, "if_better", 0)
        self.job = self.store.create_job(new, 10)
        (scratch / "driver.py").write_text(DRIVER)
        (scratch / "trainer.py").write_text(TRAINER)

    @contextmanager
    def worker(self) -> Generator[subprocess.Popen[bytes]]:
        files = ("driver.py", "trainer.py")
        driver, trainer = (str(self._scratch / name) for name in files)
        command = [sys.executable, driver, str(self._data_dir), trainer]
        with (self._scratch / "log.txt").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(PATIENCE_SEC)

    def now(self) -> Job:
        return self.store.get_job(self.job.id)

    def starts(self) -> list[int]:
        path = self._data_dir / "runs" / self.job.run / "starts.txt"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SEC:g} s")
        time.sleep(0.01)


def stop_and_continue(scratch: Path, *, late: bool) -> list[str]:
    """What went wrong in one try; late: the worker is continued when the job has ended."""
    attempt = Try(scratch)
    with attempt.worker() as first:
        wait(lambda: len(attempt.starts()) == 1)
        first.send_signal(signal.SIGSTOP)
        with attempt.worker() as second:
            wait(lambda: attempt.now().attempt == 2)
            if late:
                os.kill(attempt.starts()[0], signal.SIGUSR1)  # ends by itself, unattended
            else:
                first.send_signal(signal.SIGCONT)  # finds its lease gone and kills its trainer
            wait(lambda: attempt.now().ended)
            told = attempt.store.events(attempt.job.id)
            first.send_signal(signal.SIGCONT)
            time.sleep(SETTLE_SEC)
            return list(_wrong(attempt, len(told), second.pid))


def _wrong(attempt: Try, told: int, second: int) -> Generator[str]:
    now, events = attempt.now(), attempt.store.events(attempt.job.id)
    if (now.status, now.attempt, now.crashes) != ("succeeded", 2, 1):
        yield f"the job is {now.status}, attempt {now.attempt}, {now.crashes} crashes"
    if len(events) != told:
        yield f"{len(events) - told} events after the end"
    workers = [e.data["worker"].split(":")[1] for e in events if e.type == "started"]
    if workers[1:] != [str(second)]:
        yield f"the second attempt was of {workers[1:]}"
    if len(attempt.starts()) != 2:
        yield f"{len(attempt.starts())} trainers were started"
    if attempt.registry.aliases("m") != {"champion": 2, "previous": 1}:
        yield f"aliases are {attempt.registry.aliases('m')}"


def main(tries: Annotated[int, typer.Option(help="Half of them late.")] = 10) -> None:
    """Stop a worker past its lease and continue it, so many times."""
    verdicts, good = Verdicts(), 0
    for number in range(tries):
        with tempfile.TemporaryDirectory(prefix="noisewell-stopped-") as scratch:
            wrong = stop_and_continue(Path(scratch), late=number % 2 == 1)
        good += not wrong
        for text in wrong:
            verdicts.note(f"try {number}: {text}")
    verdicts.check(f"a stopped and continued worker did no harm: {good} of {tries}", good == tries)
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
