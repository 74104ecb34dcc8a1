"""Owns who acts in a simulated run: a user, and workers that are stopped, killed or too late."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from app.store.jobs import UNDONE_STATUSES, EndStatus, Idempotency, Job, NewJob
from benchmarks.simulation.world import LEASE_SEC, MODEL, World
from training.model.registry import FILES

MAX_QUEUED = 4
CARELESS = 0.5  # of the times that a write is refused, its worker goes on all the same
SMALL_FILES = dict.fromkeys(FILES, b"{}\n")

T = TypeVar("T")


class User:
    """Everybody who sends requests."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._keys: list[Idempotency] = []
        self._datasets = 1  # of which the world begins with the first
        self._of_jobs: dict[Callable[[], None], int] = {
            self._submit: 6,
            partial(self._ask, "pause", world.store.request_pause): 3,
            partial(self._ask, "resume", world.store.request_resume): 3,
            partial(self._ask, "cancel", world.store.request_cancel): 2,
            partial(self._ask, "retry", partial(world.store.retry_job, max_queued=MAX_QUEUED)): 3,
            self._delete_dataset: 1,
            self._import_version: 2,
        }
        self._of_versions: dict[Callable[[], None], int] = {
            self._roll_back: 2,
            self._promote: 2,
            self._delete_version: 2,
        }

    def act(self) -> None:
        """One random request. Raises Died when the service dies of it."""
        versions = self._of_versions if self._world.shelf.runs else {}
        _choose(self._world, {**self._of_jobs, **versions})()

    def _submit(self) -> None:
        world, key = self._world, self._choose_key()
        new = NewJob(MODEL, self._dataset, "digits", "tiny", 1, None, None, {}, "if_better", 0)
        submit = partial(world.store.create_job, new, MAX_QUEUED, key)
        world.do("user", "submit", submit, on=key)

    def _choose_key(self) -> Idempotency | None:
        """None, a new one, a used one with the same body or one with another body."""
        rng = self._world.rng
        if rng.random() < 0.4:
            return None
        if not self._keys or rng.random() < 0.5:
            self._keys.append(Idempotency(f"key-{len(self._keys)}", "a"))
            return self._keys[-1]
        used = rng.choice(self._keys)
        return used if rng.random() < 0.7 else Idempotency(used.key, "b")

    def _ask(self, what: str, ask: Callable[[str], Job]) -> None:
        if not self._world.rows.jobs:
            self._submit()
            return
        jobs = self._world.rows.jobs
        undone = [job_id for job_id, job in jobs.items() if job.status in UNDONE_STATUSES]
        job_id = self._world.rng.choice((what == "retry" and undone) or list(jobs))
        self._world.do("user", what, partial(ask, job_id), on=job_id)

    def _import_version(self) -> None:
        """Sometimes one that was imported before."""
        run = f"import-{self._world.rng.randrange(4)}"
        register = partial(self._world.registry.register, MODEL, SMALL_FILES, {"by": "hand"}, run)
        self._world.do("user", "register", register, on=run)

    def _roll_back(self) -> None:
        self._world.do("user", "rollback", partial(self._world.registry.rollback, MODEL))

    def _promote(self) -> None:
        version = self._world.rng.randrange(1, self._world.newest + 2)
        promote = partial(self._world.registry.promote, MODEL, version, "by hand")
        self._world.do("user", "promote", promote, on=version)

    def _delete_version(self) -> None:
        version = self._world.rng.randrange(1, self._world.newest + 2)
        delete = partial(self._world.registry.delete, MODEL, version)
        self._world.do("user", "delete version", delete, on=version)

    @property
    def _dataset(self) -> str:
        return f"ds_{self._datasets}"

    def _delete_dataset(self) -> None:
        delete = partial(self._world.store.delete_dataset, self._dataset)
        self._world.do("user", "delete dataset", delete, on=self._dataset)
        if self._dataset not in self._world.rows.datasets:
            self._import_dataset()

    def _import_dataset(self) -> None:
        self._datasets += 1
        self._world.do("user", "import dataset", self._make_ready, on=self._dataset)

    def _make_ready(self) -> None:
        self._world.store.create_dataset(self._dataset, self._dataset, None)
        self._world.store.finish_dataset(self._dataset, "ready", summary={})


class Worker:
    """A worker process with up to two attempts; killed, it is simply never asked to act again."""

    def __init__(self, world: World, lines: Counter[str], name: str) -> None:
        self._world, self._lines, self._name = world, lines, name
        self._attempts: list[Attempt] = []

    def act(self) -> None:
        """One step of one attempt, or none if there is nothing to do. Raises Died."""
        if len(self._attempts) < 2 and self._looks_for_work():
            self._attempts.append(Attempt(self._world, self._lines, self._name))
        if not self._attempts:
            return
        attempt = self._world.rng.choice(self._attempts)
        if not attempt.step():
            self._attempts.remove(attempt)

    def _looks_for_work(self) -> bool:
        """Seldom when there is none, which answers nothing and costs as much."""
        jobs = self._world.rows.jobs.values()
        waits = any(job.status == "queued" or self._is_silent(job) for job in jobs)
        return self._world.rng.random() < (0.6 if waits else 0.03)

    def _is_silent(self, job: Any) -> bool:
        return job.status == "running" and job.lease_until < self._world.now


class Attempt:
    """What `app.attempt.Attempt` and its trainer do, step by step, and in any order.

    lines: how many lines the events.jsonl of each run has.
    """

    def __init__(self, world: World, lines: Counter[str], worker: str) -> None:
        self._world, self._lines, self._worker = world, lines, worker
        self._store = world.store
        self._told = 0
        self._job: Job
        self.step: Callable[[], bool] = self._claim
        self._acts: dict[Callable[[], bool], int] = {
            self._renew: 3,
            self._record_progress: 1,
            self._tell: 3,
            self._look: 3,
            self._register: 3,
            self._fail: 1,
            partial(self._end, "crash", self._store.crash_job, "exit code 1"): 1,
            partial(self._end, "release", self._store.release_job): 1,
        }

    def _claim(self) -> bool:
        claim = partial(self._store.claim_job, self._worker, LEASE_SEC)
        job = self._world.do(self._worker, "claim", claim)
        if job is None:
            return False
        self._job, self._told, self.step = job, job.events_told, self._work
        return True

    def _work(self) -> bool:
        return _choose(self._world, self._acts)()

    def _careless(self) -> bool:
        return self._world.rng.random() < CARELESS

    def _write(self, name: str, act: Callable[..., bool], *args: Any) -> bool:
        """Whether the attempt goes on: it should not when it lost its lease, but some do."""
        held = self._world.do(self._worker, name, partial(act, self._job, *args), job=self._job)
        return bool(held) or self._careless()

    def _end(self, name: str, act: Callable[..., bool], *args: Any) -> bool:
        held = self._world.do(self._worker, name, partial(act, self._job, *args), job=self._job)
        return not held and self._careless()

    def _finish(self, status: EndStatus) -> bool:
        return self._end("finish", self._store.finish_job, status)

    def _renew(self) -> bool:
        return self._write("renew", self._store.renew_lease, LEASE_SEC)

    def _record_progress(self) -> bool:
        phase = self._world.rng.choice(["training", "measuring"])
        return self._write("progress", self._store.record_progress, {"phase": phase})

    def _tell(self) -> bool:
        self._lines[self._job.run] += self._world.rng.randrange(3)
        last = self._lines[self._job.run]
        events = [("line", {"line": n}) for n in range(self._told + 1, last + 1)]
        goes_on = self._write("tell", self._store.append_events, last, events)
        self._told = last
        return goes_on

    def _look(self) -> bool:
        """As the heartbeat does, for what the user wants."""
        look = partial(self._store.get_job, self._job.id)
        now = self._world.do(self._worker, "look", look)
        assert now is not None
        if (now.status, now.attempt) != ("running", self._job.attempt):
            return self._careless()
        if now.cancel_requested:
            return self._finish("cancelled")
        if now.pause_requested:
            return self._end("saved", self._store.pause_job)
        return True

    def _fail(self) -> bool:
        return self._finish("failed")

    # The way to a success, one step after the other

    def _register(self) -> bool:
        self._compared = self._world.registry.champion(MODEL)
        register = partial(
            self._world.registry.register, MODEL, SMALL_FILES, {"by": "trainer"}, self._job.run
        )
        self._version = self._world.do(self._worker, "register", register, on=self._job.run)
        better = self._world.rng.random() < 0.6
        self.step = self._renew_to_promote if better else partial(self._finish, "succeeded")
        return True

    def _renew_to_promote(self) -> bool:
        self.step = self._promote
        renew = partial(self._store.renew_lease, self._job, LEASE_SEC)
        return self._world.do(self._worker, "renew", renew, job=self._job) is True

    def _promote(self) -> bool:
        self.step = partial(self._finish, "succeeded")
        promote = partial(
            self._world.registry.promote_over, MODEL, self._compared, self._version, "better"
        )
        self._world.do(self._worker, "promote", promote, on=self._version)
        return True


def _choose(world: World, weights: Mapping[Callable[[], T], int]) -> Callable[[], T]:
    return world.rng.choices(list(weights), list(weights.values()))[0]
