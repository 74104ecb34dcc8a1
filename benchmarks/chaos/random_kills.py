"""Owns random kills of server, worker and trainer, as real processes under a real load.

In each round a service of its own trains small jobs while it is sampled; one process after another
is killed at a random moment, and the next one only once its role is filled again. In the end every
job that was accepted has to have ended, once, and to have left one version or a reason.
"""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.bench.child import service
from app.store.jobs import Job
from app.store.store import Store
from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.clients import MODEL, Repeating, Sampler, Submitter, upload
from benchmarks.chaos.outcomes import Outcome
from benchmarks.chaos.processes import ROLES, Role, kill, processes
from benchmarks.chaos.soundness import DATABASE, MAX_JOBS, unsound
from training.model.registry import Registry

FAULT = "kill -9 at a random moment"
KILLS_A_ROUND = 25
MAX_RECOVERY_SEC = 10.0
GIVE_UP_SEC = 60.0
END_OF_JOBS_SEC = 300.0
LOOK_SEC = 0.05  # at other processes: nothing tells of their change


class Round:
    """One service from its start to the last check."""

    def __init__(self, number: int, kills: int) -> None:
        self._number = number
        self._kills = kills
        self._random = random.Random(number)
        self._outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        """An outcome a kill, and one for all jobs."""
        with tempfile.TemporaryDirectory(prefix="noisewell-chaos-") as scratch:
            self._data = Path(scratch) / "data"
            environment = {**os.environ, "NOISEWELL_TRAINING_THREADS": "1"}
            self._service = service(self._data, environment)
            with everything_ended(self._data), self._service:
                self._outcomes.append(self._jobs(*self._attack()))
        return self._outcomes

    def _attack(self) -> tuple[Sampler, Submitter]:
        url = f"http://127.0.0.1:{self._service.target.port}"
        upload(url)
        sampler, submitter = Sampler(url), Submitter(url)
        with ExitStack() as stack:
            self._store = Store.open(self._data / DATABASE)
            stack.callback(self._store.close)
            stack.enter_context(Repeating(sampler.ask, 0.1))
            with Repeating(submitter.ask, 0.2):
                for number in range(self._kills):
                    self._outcomes.append(self._kill_one(number))
            until(lambda: not _active(self._store), END_OF_JOBS_SEC)
        return sampler, submitter

    def _kill_one(self, number: int) -> Outcome:
        role = self._random.choice(ROLES)
        point = f"round {self._number}, kill {number}"
        time.sleep(self._random.uniform(0, 3))
        if not until(lambda: bool(processes(self._data)[role]), GIVE_UP_SEC):
            return Outcome(FAULT, role, point, wrong=[f"there is no {role} to be killed"])
        there = processes(self._data)[role]
        before = {job.worker for job in _active(self._store)}
        began = time.monotonic()
        for pid in there:
            kill(pid)
        seconds = self._recovery(role, there, before, began)
        wrong = []
        if seconds is None or seconds > MAX_RECOVERY_SEC:
            took = f"{seconds or GIVE_UP_SEC:.1f} s{'' if seconds else ' and more'}"
            wrong.append(f"recovery took {took}, {MAX_RECOVERY_SEC:.0f} are promised")
        return Outcome(FAULT, role, point, recovery_sec=seconds, wrong=wrong)

    def _recovery(
        self, role: Role, killed: set[int], before: set[str | None], began: float
    ) -> float | None:
        """Seconds until the role does its work again, None if it does not."""
        if role == "server":
            self._service.__enter__()
            return time.monotonic() - began

        def recovered() -> bool:
            if role == "trainer":
                return bool(processes(self._data)["trainer"] - killed)
            held = [job for job in _active(self._store) if job.status == "running"]
            return any(job.worker not in before for job in held)

        return time.monotonic() - began if until(recovered, GIVE_UP_SEC) else None

    def _jobs(self, sampler: Sampler, submitter: Submitter) -> Outcome:
        """What became of all that was accepted."""
        self._service.stop()
        with opened(self._data) as store:
            jobs = store.list_jobs(MAX_JOBS)
        ended = {job.id for job in jobs if job.ended}
        seeds = Counter(job.seed for job in jobs)
        wrong = [*sampler.wrong, *submitter.wrong, *unsound(self._data), *self._versions(jobs)]
        return Outcome(
            FAULT,
            "all jobs",
            f"round {self._number}",
            cases=len(jobs),
            lost=sum(job_id not in ended for job_id in submitter.accepted.values()),
            twice=sum(count - 1 for count in seeds.values()),
            half=sum("half a" in text for text in wrong),
            wrong=wrong,
        )

    def _versions(self, jobs: list[Job]) -> Iterator[str]:
        """A job that succeeded left the version it names; one that did not says why."""
        registry = Registry(self._data / "models")
        for job in jobs:
            if job.status == "succeeded":
                assert job.result is not None
                if registry.find_run(MODEL, job.run) != job.result["version"]:
                    yield f"{job.id} succeeded and its version is not there"
            elif not job.error:
                yield f"{job.id} is {job.status} and says no reason"


@contextmanager
def everything_ended(data: Path) -> Iterator[None]:
    """On exit nothing of the service is left, however it went."""
    try:
        yield
    finally:
        for pids in processes(data).values():
            for pid in pids:
                kill(pid)


@contextmanager
def opened(data: Path) -> Iterator[Store]:
    store = Store.open(data / DATABASE)
    try:
        yield store
    finally:
        store.close()


def _active(store: Store) -> list[Job]:
    return [job for job in store.list_jobs(MAX_JOBS) if not job.ended]


def until(true: Callable[[], bool], limit_sec: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + limit_sec
    while not (now := true()) and time.monotonic() < end:
        time.sleep(LOOK_SEC)
    return now


def kill_at_random(campaign: Campaign) -> None:
    """Rounds of kills; a round that was cut off is begun again."""
    rounds = campaign.of(12, 1)
    with campaign.part(FAULT, rounds) as part:
        for number in range(rounds):
            key = (FAULT, "all jobs", f"round {number}")
            part.case(key, Round(number, KILLS_A_ROUND).run)
