"""What a user asks of a job, in each state it can be in."""

from collections.abc import Callable
from dataclasses import fields

import pytest

from app.errors import BadRequestError, ConflictError, NotFoundError, UnavailableError
from app.store.jobs import Idempotency, Job, NewJob
from app.store.store import Store

LEASE_SEC = 8.0
KEY = Idempotency("order-1", "a" * 64)


def claim(store: Store) -> Job:
    job = store.claim_job("w1", LEASE_SEC)
    assert job is not None
    return job


def types(store: Store, job: Job) -> list[str]:
    return [event.type for event in store.events(job.id)]


def job_that_is(state: str, store: Store, new: NewJob) -> Job:
    job = store.create_job(new, max_queued=100)
    if state == "paused":
        return store.request_pause(job.id)
    if state != "queued":
        job = claim(store)
    if state == "pausing":
        store.request_pause(job.id)
    elif state == "cancelling":
        store.request_cancel(job.id)
    elif state in ("succeeded", "failed", "cancelled"):
        store.finish_job(job, state)
    return store.get_job(job.id)


def state_of(job: Job) -> str:
    assert not (job.pause_requested and job.cancel_requested)
    if job.status == "running" and (job.pause_requested or job.cancel_requested):
        return "pausing" if job.pause_requested else "cancelling"
    return job.status


STATES = (
    "queued paused running pausing cancelling succeeded failed cancelled".split()  # noqa: SIM905
)
# What becomes of a job in each of STATES: another state, "=" for nothing new, "!" for a refusal.
BECOMES = {
    "pause": "paused = pausing = ! ! ! !",
    "resume": "= queued = running ! ! ! !",
    "cancel": "cancelled cancelled cancelling cancelling = ! ! !",
}
EVENT = {"queued": "resumed", "running": "resumed"}


@pytest.mark.parametrize(
    ("asked", "state", "becomes"),
    [(a, s, b) for a, row in BECOMES.items() for s, b in zip(STATES, row.split(), strict=True)],
)
def test_each_request_in_each_state(
    store: Store, new: NewJob, asked: str, state: str, becomes: str
) -> None:
    ask: Callable[[str], Job] = getattr(store, f"request_{asked}")
    before = job_that_is(state, store, new)
    events = types(store, before)
    if becomes == "!":
        with pytest.raises(ConflictError, match=before.id):
            ask(before.id)
    else:
        answer = ask(before.id)
        assert answer == store.get_job(before.id)
        assert state_of(answer) == (state if becomes == "=" else becomes)
    if becomes in "=!":
        assert store.get_job(before.id) == before
        assert types(store, before) == events
    else:
        assert types(store, before) == [*events, EVENT.get(becomes, becomes)]


@pytest.mark.parametrize("state", STATES)
def test_only_a_job_without_a_result_is_retried(store: Store, new: NewJob, state: str) -> None:
    old = job_that_is(state, store, new)
    if state not in ("failed", "cancelled"):
        with pytest.raises(ConflictError, match="only failed and cancelled"):
            store.retry_job(old.id, max_queued=100)
        assert len(store.list_jobs(10)) == 1
        return
    job = store.retry_job(old.id, max_queued=100)
    assert (job.status, job.run, job.retry_of, job.crashes) == ("queued", old.run, old.id, 0)
    assert all(getattr(job, f.name) == getattr(old, f.name) for f in fields(NewJob))
    assert [(e.type, e.data) for e in store.events(job.id)] == [("queued", {"retry_of": old.id})]
    assert store.get_job(old.id) == old


def test_nothing_is_asked_of_a_job_that_does_not_exist(store: Store) -> None:
    for ask in (store.request_pause, store.request_resume, lambda i: store.retry_job(i, 1)):
        with pytest.raises(NotFoundError, match="'job_0'"):
            ask("job_0")


# Pausing


def test_a_paused_job_is_not_claimed_until_it_is_resumed(store: Store, new: NewJob) -> None:
    job = job_that_is("paused", store, new)
    assert store.claim_job("w1", LEASE_SEC) is None
    store.request_resume(job.id)
    assert claim(store).id == job.id


@pytest.mark.parametrize("way", ["pause", "release", "crash", "silence"])
def test_a_job_asked_to_pause_is_paused_when_its_worker_lets_go(
    store: Store, new: NewJob, clock, way: str
) -> None:
    job = job_that_is("pausing", store, new)
    if way == "silence":
        clock.now += LEASE_SEC + 1
    elif way == "crash":
        assert store.crash_job(job, "exit code 1")
    else:
        assert getattr(store, f"{way}_job")(job)
    assert store.claim_job("w2", LEASE_SEC) is None
    paused = store.get_job(job.id)
    assert (state_of(paused), paused.worker, paused.lease_until) == ("paused", None, None)
    assert paused.crashes == (way in ("crash", "silence"))
    assert types(store, job)[-1] == "paused"


def test_a_cancel_wins_over_a_pause(store: Store, new: NewJob) -> None:
    job = job_that_is("pausing", store, new)
    store.request_cancel(job.id)
    assert store.pause_job(job)
    assert store.get_job(job.id).status == "cancelled"


def test_a_job_resumed_while_its_trainer_saves_waits_again(store: Store, new: NewJob) -> None:
    job = job_that_is("pausing", store, new)
    store.request_resume(job.id)
    assert store.pause_job(job)
    assert store.get_job(job.id).status == "queued"


def test_a_job_that_ends_before_it_pauses_has_ended(store: Store, new: NewJob) -> None:
    job = job_that_is("pausing", store, new)
    assert store.finish_job(job, "succeeded", result={"version": 2})
    assert state_of(store.get_job(job.id)) == "succeeded"


def test_paused_jobs_take_room_in_the_queue(store: Store, new: NewJob) -> None:
    job_that_is("paused", store, new)
    with pytest.raises(UnavailableError, match="max_queued_jobs"):
        store.create_job(new, max_queued=1)


def test_a_paused_job_keeps_its_dataset(store: Store, new: NewJob) -> None:
    job = job_that_is("paused", store, new)
    with pytest.raises(ConflictError, match=f"needed by {job.id}"):
        store.delete_dataset("ds_1")


# Retrying


@pytest.mark.parametrize("state", ["queued", "paused", "running", "succeeded"])
def test_a_run_goes_on_in_one_job_only(store: Store, new: NewJob, state: str) -> None:
    first = job_that_is("failed", store, new)
    second = store.retry_job(first.id, max_queued=100)
    store.request_cancel(second.id)
    third = store.retry_job(second.id, max_queued=100)
    if state == "paused":
        store.request_pause(third.id)
    elif state != "queued":
        held = claim(store)
        if state == "succeeded":
            store.finish_job(held, "succeeded")
    for job in (first, second):
        with pytest.raises(ConflictError, match=f"'{third.id}' is {state}"):
            store.retry_job(job.id, max_queued=100)
    assert len(store.list_jobs(10)) == 3


def test_a_retry_that_failed_is_retried_in_the_same_folder(store: Store, new: NewJob) -> None:
    first = job_that_is("failed", store, new)
    second = store.retry_job(first.id, max_queued=100)
    store.finish_job(claim(store), "failed")
    third = store.retry_job(first.id, max_queued=100)
    assert first.run == second.run == third.run == first.id


def test_a_retry_needs_its_dataset_and_room(store: Store, new: NewJob) -> None:
    old = job_that_is("failed", store, new)
    with pytest.raises(UnavailableError, match="max_queued_jobs"):
        store.retry_job(old.id, max_queued=0)
    store.delete_dataset("ds_1")
    with pytest.raises(BadRequestError, match="'ds_1' is not there"):
        store.retry_job(old.id, max_queued=100)
    assert len(store.list_jobs(10)) == 1


def test_a_retry_keeps_its_dataset(store: Store, new: NewJob) -> None:
    old = job_that_is("failed", store, new)
    assert store.jobs_using_dataset("ds_1") == []
    job = store.retry_job(old.id, max_queued=100)
    assert store.jobs_using_dataset("ds_1") == [job.id]


# Idempotency keys


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "cancelled"])
def test_a_key_answers_with_the_job_it_made(store: Store, new: NewJob, state: str) -> None:
    job = store.create_job(new, max_queued=1, idempotency=KEY)
    if state == "cancelled":
        store.request_cancel(job.id)
    elif state != "queued":
        held = claim(store)
        if state == "succeeded":
            store.finish_job(held, "succeeded")
    again = store.create_job(new, max_queued=0, idempotency=KEY)  # though the queue is full now
    assert again == store.get_job(job.id)
    assert again.status == state
    assert len(store.list_jobs(10)) == 1


def test_a_key_outlives_the_dataset_of_its_job(store: Store, new: NewJob) -> None:
    job = store.create_job(new, max_queued=1, idempotency=KEY)
    store.request_cancel(job.id)
    store.delete_dataset("ds_1")
    assert store.create_job(new, max_queued=1, idempotency=KEY).id == job.id


def test_a_used_key_with_another_body_is_refused(store: Store, new: NewJob) -> None:
    job = store.create_job(new, max_queued=10, idempotency=KEY)
    with pytest.raises(BadRequestError, match=job.id) as refused:
        store.create_job(new, max_queued=10, idempotency=Idempotency(KEY.key, "b" * 64))
    assert refused.value.field == "Idempotency-Key"
    assert store.list_jobs(10) == [job]


def test_a_refused_request_leaves_its_key_unused(store: Store, new: NewJob) -> None:
    with pytest.raises(UnavailableError):
        store.create_job(new, max_queued=0, idempotency=KEY)
    other = Idempotency(KEY.key, "b" * 64)
    assert store.create_job(new, max_queued=1, idempotency=other).idempotency_hash == "b" * 64


def test_jobs_without_a_key_are_all_different(store: Store, new: NewJob) -> None:
    assert len({store.create_job(new, max_queued=10).id for _ in range(3)}) == 3


def test_a_retry_does_not_take_the_key_along(store: Store, new: NewJob) -> None:
    job = store.create_job(new, max_queued=10, idempotency=KEY)
    store.request_cancel(job.id)
    assert store.retry_job(job.id, max_queued=10).idempotency_key is None
    assert store.create_job(new, max_queued=10, idempotency=KEY).id == job.id


# What the trainer tells


def lines(first: int, last: int) -> list[tuple[str, dict[str, int]]]:
    return [("snapshot", {"line": n}) for n in range(first, last + 1)]


def told(store: Store, job: Job) -> list[int]:
    return [e.data["line"] for e in store.events(job.id) if e.type == "snapshot"]


def test_the_lines_of_a_run_become_events_once_each(store: Store, new: NewJob) -> None:
    job = job_that_is("running", store, new)
    assert store.append_events(job, 3, lines(1, 3))
    assert store.append_events(job, 3, lines(1, 3))  # after a crash before the answer came
    assert store.append_events(job, 5, lines(2, 5))
    assert store.append_events(job, 2, lines(1, 2))
    assert told(store, job) == [1, 2, 3, 4, 5]
    assert store.get_job(job.id).events_told == 5
    assert [e.seq for e in store.events(job.id)] == list(range(1, 8))


def test_a_crash_while_telling_leaves_no_gap_and_no_duplicate(
    store: Store, new: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_that_is("running", store, new)
    clock, calls = store._clock, iter([None, None])

    def dies_at_the_third() -> float:
        if next(calls, "dead") == "dead":
            raise SystemExit
        return clock()

    monkeypatch.setattr(store, "_clock", dies_at_the_third)
    with pytest.raises(SystemExit):
        store.append_events(job, 4, lines(1, 4))
    monkeypatch.undo()
    assert (told(store, job), store.get_job(job.id).events_told) == ([], 0)
    assert store.append_events(job, 4, lines(1, 4))
    assert told(store, job) == [1, 2, 3, 4]


def test_lines_left_out_are_refused(store: Store, new: NewJob) -> None:
    job = job_that_is("running", store, new)
    store.append_events(job, 1, lines(1, 1))
    with pytest.raises(ValueError, match="do not follow event 1, the last one told"):
        store.append_events(job, 4, lines(3, 4))
    assert told(store, job) == [1]
