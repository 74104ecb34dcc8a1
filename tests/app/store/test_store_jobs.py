import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy.exc import StatementError

from app.errors import BadRequestError, ConflictError, NotFoundError, UnavailableError
from app.store.jobs import JOB_STATUSES, Job, NewJob
from app.store.store import Store

LEASE_SEC = 8.0
NEW = NewJob(
    model="mnist",
    dataset_id="ds_1",
    dataset_name="digits",
    preset="tiny",
    minutes=1.5,
    kimg=None,
    until={"fd": 2.5},
    overrides={"batch_size": 16},
    promote="if_better",
    seed=2**53 - 1,
)


def queue(store: Store, count: int = 1) -> list[Job]:
    return [store.create_job(NEW, max_queued=100) for _ in range(count)]


def claim(store: Store, worker: str = "w1") -> Job:
    job = store.claim_job(worker, LEASE_SEC)
    assert job is not None
    return job


def types(store: Store, job: Job) -> list[str]:
    return [event.type for event in store.events(job.id)]


def test_a_job_keeps_what_was_asked_for(store: Store) -> None:
    (job,) = queue(store)
    assert store.get_job(job.id) == job
    assert {name: getattr(job, name) for name in NEW.__dataclass_fields__} == vars(NEW)
    assert (job.status, job.attempt, job.created_at) == ("queued", 0, 1_000_000.0)


def test_a_job_survives_closing_the_store(store: Store, tmp_path: Path, clock) -> None:
    (job,) = queue(store)
    store.close()
    again = Store.open(tmp_path / "noisewell.sqlite3", clock)
    assert again.get_job(job.id) == job
    again.close()


def test_a_full_queue_names_the_setting(store: Store) -> None:
    store.create_job(NEW, max_queued=1)
    with pytest.raises(UnavailableError, match="max_queued_jobs"):
        store.create_job(NEW, max_queued=1)
    assert len(store.list_jobs(10)) == 1


def test_a_job_needs_a_ready_dataset(store: Store) -> None:
    store.delete_dataset("ds_1")
    with pytest.raises(BadRequestError, match="'ds_1' is not there"):
        queue(store)
    store.create_dataset("ds_1", "digits", None)
    with pytest.raises(BadRequestError, match="'ds_1' is importing"):
        queue(store)


def test_ids_stay_in_order_when_the_clock_goes_back(store: Store, clock) -> None:
    ids = []
    for seconds in (0, 0, -3600, 0, 7200):
        clock.now += seconds
        ids.append(queue(store)[0].id)
    assert ids == sorted(ids)
    assert all(job_id.startswith("job_") for job_id in ids)


def test_pages_of_jobs_are_newest_first_and_complete(store: Store) -> None:
    ids = [job.id for job in queue(store, 5)]
    first = store.list_jobs(2)
    second = store.list_jobs(2, after=first[-1].id)
    third = store.list_jobs(2, after=second[-1].id)
    assert [job.id for job in first + second + third] == ids[::-1]


def test_every_status_is_counted(store: Store) -> None:
    queue(store, 3)
    claim(store)
    counts = store.count_by_status()
    assert tuple(counts) == JOB_STATUSES
    assert (counts["queued"], counts["running"], counts["failed"]) == (2, 1, 0)


def test_an_unknown_job_is_not_found(store: Store) -> None:
    for ask in (store.get_job, store.events, store.request_cancel, store.is_cancel_requested):
        with pytest.raises(NotFoundError, match="'job_0'"):
            ask("job_0")


# Claims and leases


def test_the_oldest_job_is_claimed_first(store: Store) -> None:
    first, second = queue(store, 2)
    assert claim(store).id == first.id
    assert claim(store).id == second.id
    assert store.claim_job("w1", LEASE_SEC) is None


def test_a_job_is_claimed_once_by_many_threads(store: Store) -> None:
    jobs = queue(store, 12)
    start = threading.Barrier(6)
    claimed: list[str] = []

    def work(worker: str) -> None:
        start.wait(10)
        while job := store.claim_job(worker, LEASE_SEC):
            claimed.append(job.id)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(claimed) == Counter(job.id for job in jobs)


def test_an_expired_lease_is_claimed_again(store: Store, clock) -> None:
    queue(store)
    first = claim(store, "w1")
    clock.now += LEASE_SEC
    assert store.claim_job("w2", LEASE_SEC) is None
    clock.now += 0.1
    second = claim(store, "w2")
    assert (second.id, second.attempt, second.crashes) == (first.id, 2, 1)
    assert second.started_at == first.started_at
    assert types(store, first) == ["queued", "started", "requeued", "started"]


def test_a_renewed_lease_holds(store: Store, clock) -> None:
    queue(store)
    job = claim(store)
    for _ in range(5):
        clock.now += LEASE_SEC - 1
        assert store.renew_lease(job, LEASE_SEC)
        assert store.claim_job("w2", LEASE_SEC) is None


def test_a_late_renewal_counts_if_nobody_took_the_job(store: Store, clock) -> None:
    queue(store)
    job = claim(store)
    clock.now += 10 * LEASE_SEC
    assert store.renew_lease(job, LEASE_SEC)
    assert store.claim_job("w2", LEASE_SEC) is None


def test_a_stale_worker_cannot_write(store: Store, clock) -> None:
    queue(store)
    stale = claim(store, "w1")
    clock.now += LEASE_SEC + 1
    held = claim(store, "w2")
    before = store.events(held.id)
    assert not store.renew_lease(stale, LEASE_SEC)
    assert not store.record_progress(stale, {"phase": "done"})
    assert not store.finish_job(stale, "succeeded", result={})
    assert not store.release_job(stale)
    assert not store.crash_job(stale, "it died")
    assert store.get_job(held.id) == held
    assert store.events(held.id) == before


def test_an_older_attempt_of_the_same_worker_is_stale_too(store: Store, clock) -> None:
    queue(store)
    stale = claim(store, "w1")
    clock.now += LEASE_SEC + 1
    held = claim(store, "w1")
    assert not store.finish_job(stale, "failed", error="late")
    assert store.finish_job(held, "succeeded", result={"version": 2})


def test_an_ended_job_takes_no_more_writes(store: Store) -> None:
    queue(store)
    job = claim(store)
    assert store.finish_job(job, "succeeded", result={"version": 2})
    assert not store.finish_job(job, "failed", error="late")
    assert not store.renew_lease(job, LEASE_SEC)
    ended = store.get_job(job.id)
    assert (ended.status, ended.result, ended.error) == ("succeeded", {"version": 2}, None)


# Crashes


def test_three_silent_workers_quarantine_a_job(store: Store, clock) -> None:
    queue(store)
    for _ in range(3):
        job = claim(store)
        clock.now += LEASE_SEC + 1
    assert store.claim_job("w2", LEASE_SEC) is None
    ended = store.get_job(job.id)
    assert ended.status == "failed"
    assert ended.error == (
        "The job was given up after 3 crashes; the last one: Worker w1 went silent."
    )


def test_three_crashes_quarantine_a_job_and_let_the_next_one_run(store: Store) -> None:
    first, second = queue(store, 2)
    for count in range(3):
        job = claim(store)
        assert job.id == first.id
        assert store.crash_job(job, f"exit code {count}")
    assert store.get_job(first.id).status == "failed"
    assert "exit code 2" in (store.get_job(first.id).error or "")
    assert claim(store).id == second.id


def test_a_released_job_goes_on_without_a_crash(store: Store) -> None:
    queue(store)
    for _ in range(5):
        assert store.release_job(claim(store))
    again = claim(store)
    assert (again.attempt, again.crashes) == (6, 0)


# Cancelling


def test_a_queued_job_is_cancelled_at_once(store: Store) -> None:
    (job,) = queue(store)
    assert store.request_cancel(job.id).status == "cancelled"
    assert store.claim_job("w1", LEASE_SEC) is None
    assert types(store, job) == ["queued", "cancelled"]


def test_a_running_job_is_flagged_for_its_worker(store: Store) -> None:
    queue(store)
    job = claim(store)
    assert not store.is_cancel_requested(job.id)
    assert store.request_cancel(job.id).status == "running"
    assert store.is_cancel_requested(job.id)
    assert store.request_cancel(job.id).status == "running"
    assert types(store, job) == ["queued", "started", "cancelling"]


def test_a_job_that_ended_cannot_be_cancelled(store: Store) -> None:
    (job,) = queue(store)
    store.request_cancel(job.id)
    with pytest.raises(ConflictError, match=r"has ended \(cancelled\)"):
        store.request_cancel(job.id)


@pytest.mark.parametrize("way", ["release", "crash", "silence"])
def test_a_cancelled_job_is_not_started_again(store: Store, clock, way: str) -> None:
    queue(store)
    job = claim(store)
    store.request_cancel(job.id)
    if way == "release":
        store.release_job(job)
    elif way == "crash":
        store.crash_job(job, "exit code 1")
    else:
        clock.now += LEASE_SEC + 1
    assert store.claim_job("w2", LEASE_SEC) is None
    assert store.get_job(job.id).status == "cancelled"


# Events


def test_a_new_phase_is_an_event_and_more_progress_is_not(store: Store) -> None:
    queue(store)
    job = claim(store)
    for phase, cur_nimg in (("measuring", 0), ("training", 64), ("training", 128)):
        assert store.record_progress(job, {"phase": phase, "cur_nimg": cur_nimg})
    assert store.get_job(job.id).progress == {"phase": "training", "cur_nimg": 128}
    assert types(store, job) == ["queued", "started", "phase", "phase"]


def test_pages_of_events_have_no_gap_and_no_duplicate(store: Store) -> None:
    queue(store)
    job = claim(store)
    store.record_progress(job, {"phase": "training"})
    store.finish_job(job, "failed", error="no images")
    seen: list[int] = []
    while page := store.events(job.id, after_seq=seen[-1] if seen else 0, limit=2):
        seen += [event.seq for event in page]
    assert seen == [1, 2, 3, 4]
    assert store.events(job.id)[-1].data == {"error": "no images"}


def test_not_a_number_never_reaches_the_store(store: Store) -> None:
    queue(store)
    job = claim(store)
    with pytest.raises(StatementError, match="JSON compliant"):
        store.record_progress(job, {"phase": "training", "loss": float("nan")})
    assert store.get_job(job.id).progress is None
