"""A worker that was stopped past its lease and goes on as if nothing had happened."""

import random
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from app.store.jobs import Job, NewJob
from app.store.store import Store
from app.store.tables import job_events, jobs

LEASE_SEC = 8.0
ROUNDS = 125

# Every write of a worker; a new one belongs here.
WRITES: dict[str, Callable[[Store, Job], bool]] = {
    "renew_lease": lambda store, job: store.renew_lease(job, LEASE_SEC),
    "record_progress": lambda store, job: store.record_progress(job, {"phase": "stale"}),
    "append_events": lambda store, job: store.append_events(job, 1, [("stale", {})]),
    "finish_job": lambda store, job: store.finish_job(job, "failed", error="stale"),
    "finish_job well": lambda store, job: store.finish_job(job, "succeeded", result={}),
    "release_job": lambda store, job: store.release_job(job),
    "pause_job": lambda store, job: store.pause_job(job),
    "crash_job": lambda store, job: store.crash_job(job, "stale"),
}


@pytest.fixture
def quick_store(store: Store) -> Store:
    """One that does not wait for the disk: a power cut is no matter here."""
    with closing(store._engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA synchronous=OFF")
    return store


def everything(store: Store) -> list[Any]:
    with store._read() as conn:
        return [conn.execute(table.select()).all() for table in (jobs, job_events)]


def claim(store: Store, worker: str) -> Job:
    job = store.claim_job(worker, LEASE_SEC)
    assert job is not None
    return job


def take_away(store: Store, job: Job, clock, rng: random.Random) -> None:
    """Let the lease of `job` run out, and somebody else go on with it, further or less far."""
    for _ in range(rng.randrange(3)):
        clock.now += rng.uniform(0, LEASE_SEC - 1)
        assert store.renew_lease(job, LEASE_SEC)
    if rng.random() < 0.3:
        store.request_pause(job.id)
    clock.now += rng.uniform(LEASE_SEC + 0.1, 10 * LEASE_SEC)
    if store.claim_job(rng.choice(["w1", "w2"]), LEASE_SEC) is None:
        if rng.random() < 0.5:
            return  # it is paused
        store.request_resume(job.id)
        claim(store, "w2")
    held = store.get_job(job.id)
    if held.cancel_requested or rng.random() < 0.5:
        return
    rng.choice(list(WRITES.values()))(store, held)
    if rng.random() < 0.3 and not store.get_job(job.id).ended:
        store.request_cancel(job.id)


def test_1000_of_1000_stale_writes_change_nothing(quick_store: Store, new: NewJob, clock) -> None:
    store = quick_store
    rng = random.Random(0)
    fenced = 0
    for _ in range(ROUNDS):
        store.create_job(new, max_queued=1)
        stale = claim(store, "w1")
        take_away(store, stale, clock, rng)
        before = everything(store)
        for write in rng.sample(list(WRITES.values()), len(WRITES)):
            fenced += not write(store, stale)
        assert everything(store) == before
        if not store.get_job(stale.id).ended:
            store.request_cancel(stale.id)
            clock.now += LEASE_SEC + 1
            assert store.claim_job("w3", LEASE_SEC) is None
    assert fenced == 1000


@pytest.mark.parametrize("write", WRITES)
def test_the_same_write_of_the_holder_counts(store: Store, new: NewJob, write: str) -> None:
    store.create_job(new, max_queued=1)
    held = claim(store, "w1")
    before = everything(store)
    assert WRITES[write](store, held)
    assert write == "renew_lease" or everything(store) != before


def test_no_write_of_a_worker_is_left_out() -> None:
    takes_a_job = {
        name
        for name, method in vars(Store.__mro__[1]).items()
        if not name.startswith("_") and list(getattr(method, "__annotations__", {}))[:1] == ["job"]
    }
    assert takes_a_job == {name.split()[0] for name in WRITES}
