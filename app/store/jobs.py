"""Owns the life of a job: each method is one transaction, its event written in the same one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    func,
    insert,
    select,
    update,
)

from app.errors import BadRequestError, ConflictError, NotFoundError, UnavailableError
from app.store.database import Database
from app.store.tables import datasets, job_events, jobs

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
EndStatus = Literal["succeeded", "failed", "cancelled"]
Promote = Literal["if_better", "never", "always"]
Scalar = bool | int | float | str

JOB_STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
END_STATUSES: tuple[EndStatus, ...] = get_args(EndStatus)
WAITING_STATUSES: tuple[JobStatus, ...] = ("queued", "paused")
UNDONE_STATUSES: tuple[EndStatus, ...] = ("failed", "cancelled")
MAX_CRASHES = 3

# Built once, because it is part of nearly every write.
_LAST_SEQ = select(func.coalesce(func.max(job_events.c.seq), 0)).where(
    job_events.c.job_id == bindparam("of_job")
)
_APPEND = insert(job_events).values(seq=_LAST_SEQ.scalar_subquery() + 1)


@dataclass(frozen=True)
class NewJob:
    """What is asked for; exactly one of `minutes` and `kimg` (thousands of images) is set.

    base: the version that the generator starts from, as `model@version`.
    """

    model: str
    dataset_id: str
    dataset_name: str
    preset: str
    minutes: float | None
    kimg: float | None
    until: dict[str, float] | None
    overrides: dict[str, Scalar]
    promote: Promote
    seed: int
    base: str | None = None


@dataclass(frozen=True)
class Idempotency:
    """A client's key for one request (at most 255 characters) and the hex SHA-256 of its body."""

    key: str
    payload_hash: str


@dataclass(frozen=True)
class Job:
    """A row of `jobs`; times are seconds since the epoch.

    run: the name of its folder under runs/, that of the first job for one that retries another.
    attempt: the fencing token; it grows with each claim, and a write with an older one is refused.
    events_told: how many lines of its run's events.jsonl are among its events.
    At most one of cancel_requested and pause_requested is set, and the latter only while it runs.
    """

    id: str
    status: JobStatus
    model: str
    dataset_id: str
    dataset_name: str
    preset: str
    minutes: float | None
    kimg: float | None
    until: dict[str, float] | None
    overrides: dict[str, Scalar]
    promote: Promote
    seed: int
    base: str | None
    run: str
    retry_of: str | None
    attempt: int
    crashes: int
    worker: str | None
    lease_until: float | None
    cancel_requested: bool
    pause_requested: bool
    events_told: int
    idempotency_key: str | None
    idempotency_hash: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: str | None

    @property
    def ended(self) -> bool:
        return self.status in END_STATUSES


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job; `seq` counts 1, 2, … without gaps for each job."""

    job_id: str
    seq: int
    type: str
    at: float
    data: dict[str, Any]


_ACTIVE = jobs.c.status.not_in(END_STATUSES)


class JobStore(Database):
    """The jobs of a service, ordered by id."""

    def create_job(
        self, new: NewJob, max_queued: int, idempotency: Idempotency | None = None
    ) -> Job:
        """Queue a job; when this returns it is on the disk.

        With a key that made a job before, that job is the answer, whatever became of it since.
        Raises BadRequestError if the dataset is not ready or the key made a job of another body,
        UnavailableError if the queue is full.
        """
        with self._write() as conn:
            if idempotency is None:
                return self._queue(conn, new, max_queued)
            made = _find_made(conn, idempotency)
            key = {
                "idempotency_key": idempotency.key,
                "idempotency_hash": idempotency.payload_hash,
            }
            return made or self._queue(conn, new, max_queued, **key)

    def find_made(self, asked: Idempotency) -> Job | None:
        """The job that the same request made before; raises BadRequestError if another one did."""
        with self._read() as conn:
            return _find_made(conn, asked)

    def get_job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        with self._read() as conn:
            return _get(conn, job_id)

    def list_jobs(
        self,
        limit: int,
        after: str | None = None,
        *,
        status: JobStatus | None = None,
        model: str | None = None,
    ) -> list[Job]:
        """The newest first; after: the id of the last job of the page before."""
        query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if after is not None:
            query = query.where(jobs.c.id < after)
        if status is not None:
            query = query.where(jobs.c.status == status)
        if model is not None:
            query = query.where(jobs.c.model == model)
        with self._read() as conn:
            return [_job(row) for row in conn.execute(query).mappings()]

    def count_by_status(self) -> dict[JobStatus, int]:
        """Every status, those without a job too."""
        query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
        with self._read() as conn:
            found = {row[0]: row[1] for row in conn.execute(query)}
        return {status: found.get(status, 0) for status in JOB_STATUSES}

    def jobs_using_dataset(self, dataset_id: str) -> list[str]:
        """Ids of the jobs that still need the dataset."""
        with self._read() as conn:
            return jobs_needing(conn, dataset_id)

    def runs_needed(self) -> set[str]:
        """Names of the run folders of jobs that have not ended."""
        with self._read() as conn:
            return set(conn.execute(select(jobs.c.run).where(_ACTIVE)).scalars())

    def bases_needed(self) -> set[str]:
        """Versions, as `mnist@2`, that jobs which have not ended go on from."""
        with self._read() as conn:
            return set(filter(None, conn.execute(select(jobs.c.base).where(_ACTIVE)).scalars()))

    def unless_run_needed(self, run: str, remove: Callable[[], None]) -> bool:
        """Call `remove`, unless a job that has not ended needs the run folder; none can come to
        need it meanwhile. False if one does."""
        needed = select(func.count()).select_from(jobs).where(_ACTIVE, jobs.c.run == run)
        with self._write() as conn:
            if conn.execute(needed).scalar_one():
                return False
            remove()
            return True

    def events(self, job_id: str, after_seq: int = 0, limit: int = 100) -> list[JobEvent]:
        """The events behind `after_seq`, oldest first; raises NotFoundError for an unknown job."""
        query = (
            select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.seq > after_seq)
            .order_by(job_events.c.seq)
            .limit(limit)
        )
        with self._read() as conn:
            _get(conn, job_id)
            return [JobEvent(**row) for row in conn.execute(query).mappings()]

    # What a user asks for

    def request_cancel(self, job_id: str) -> Job:
        """A waiting job ends at once, a running one when its worker has stopped it.

        Asking again changes nothing. Raises ConflictError if the job has ended.
        """
        with self._write() as conn:
            job = _get_active(conn, job_id, "cancelled")
            if job.cancel_requested:
                return job
            if job.status != "running":
                self._end(conn, jobs.c.id == job_id, "cancelled")
                return _get(conn, job_id)
            flags = {"cancel_requested": True, "pause_requested": False}
            return self._change(conn, job_id, "cancelling", flags)

    def request_pause(self, job_id: str) -> Job:
        """A queued job pauses at once, a running one when its trainer has saved its state.

        Asking again changes nothing. Raises ConflictError if the job has ended or is going to.
        """
        with self._write() as conn:
            job = _get_lasting(conn, job_id, "paused")
            if job.status == "paused" or job.pause_requested:
                return job
            if job.status == "queued":
                return self._change(conn, job_id, "paused", {"status": "paused"})
            return self._change(conn, job_id, "pausing", {"pause_requested": True})

    def request_resume(self, job_id: str) -> Job:
        """A paused job waits for a worker again, and a request to pause is taken back.

        Asking again changes nothing. Raises ConflictError if the job has ended or is going to.
        """
        with self._write() as conn:
            job = _get_lasting(conn, job_id, "resumed")
            if job.status == "paused":
                return self._change(conn, job_id, "resumed", {"status": "queued"})
            if job.pause_requested:
                return self._change(conn, job_id, "resumed", {"pause_requested": False})
            return job

    def retry_job(self, job_id: str, max_queued: int) -> Job:
        """Queue a new job that asks for the same and goes on in the same run folder.

        Raises ConflictError unless the job failed or was cancelled, and so did all others that
        went on in its run folder; BadRequestError and UnavailableError as `create_job`.
        """
        with self._write() as conn:
            old = _get(conn, job_id)
            if old.status not in UNDONE_STATUSES:
                raise ConflictError(
                    f"Job {job_id!r} is {old.status}; only failed and cancelled jobs can be"
                    " retried."
                )
            _check_run_is_free(conn, old)
            new = NewJob(**{field.name: getattr(old, field.name) for field in fields(NewJob)})
            return self._queue(conn, new, max_queued, run=old.run, retry_of=old.id)

    def is_cancel_requested(self, job_id: str) -> bool:
        return self.get_job(job_id).cancel_requested

    def has_silent_worker(self) -> bool:
        """Whether a lease ran out: whoever held it is gone or stuck."""
        silent = and_(jobs.c.status == "running", jobs.c.lease_until < self._clock())
        with self._read() as conn:
            return conn.execute(select(jobs.c.id).where(silent).limit(1)).first() is not None

    # What a worker does; a write of one that lost its lease changes nothing and answers False

    def claim_job(self, worker: str, lease_sec: float) -> Job | None:
        """Take the oldest job that waits, or whose worker went silent, for `lease_sec` seconds.

        worker: a name no other worker process has, nor had. None if there is nothing to do.
        """
        with self._write() as conn:
            self._free_expired(conn)
            now = self._clock()
            oldest = select(func.min(jobs.c.id)).where(jobs.c.status == "queued")
            claim = (
                update(jobs)
                .where(jobs.c.id == oldest.scalar_subquery(), jobs.c.status == "queued")
                .values(
                    status="running",
                    attempt=jobs.c.attempt + 1,
                    worker=worker,
                    lease_until=now + lease_sec,
                    started_at=func.coalesce(jobs.c.started_at, now),
                )
            )
            row = conn.execute(claim.returning(jobs)).mappings().one_or_none()
            if row is None:
                return None
            job = _job(row)
            _append(conn, job.id, "started", now, {"attempt": job.attempt, "worker": worker})
            return job

    def free_jobs_of(self, died: Callable[[str], bool]) -> None:
        """Free the jobs of workers of which `died` is sure, before their leases run out."""
        with self._write() as conn:
            for job in _running(conn):
                if job.worker is not None and died(job.worker):
                    self._requeue(conn, job, f"Worker {job.worker} died.", crashes=job.crashes + 1)

    def renew_lease(self, job: Job, lease_sec: float) -> bool:
        """Hold the job for `lease_sec` more seconds from now; False if it is no longer held."""
        renewed = update(jobs).where(_held(job)).values(lease_until=self._clock() + lease_sec)
        with self._write() as conn:
            return conn.execute(renewed).rowcount == 1

    def record_progress(self, job: Job, progress: dict[str, Any]) -> bool:
        """Keep the newest progress; a change of its `phase` is an event."""
        with self._write() as conn:
            row = conn.execute(select(jobs.c.progress).where(_held(job))).one_or_none()
            if row is None:
                return False
            conn.execute(update(jobs).where(_held(job)).values(progress=progress))
            phase = progress.get("phase")
            if phase != (row.progress or {}).get("phase"):
                _append(conn, job.id, "phase", self._clock(), {"phase": phase})
            return True

    def finish_job(
        self,
        job: Job,
        status: EndStatus,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End the job with what came out or what went wrong."""
        with self._write() as conn:
            return self._end(conn, _held(job), status, result=result, error=error)

    def release_job(self, job: Job) -> bool:
        """Give the job back unharmed, as a worker does that is asked to stop."""
        return self._give_back(job, "The worker stopped.")

    def pause_job(self, job: Job, reason: str | None = None) -> bool:
        """Give back a job whose trainer saved its state to pause; resumed since, it waits again.

        reason: why it pauses though nobody asked, until somebody resumes it.
        """
        return self._give_back(
            job, reason or "The trainer saved its state.", pause=reason is not None
        )

    def crash_job(self, job: Job, reason: str) -> bool:
        """Give the job back after its trainer died; the third time it ends as failed."""
        return self._give_back(job, reason, crashed=True)

    def append_events(
        self, job: Job, told: int, events: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> bool:
        """Tell lines of the run's events.jsonl: one (type, data) a line, the last is line `told`.

        Those told before are passed over, so that asking again after a crash adds none twice.
        Raises ValueError if there are lines between the last one told and the first of these.
        """
        with self._write() as conn:
            held = _get_held(conn, job)
            if held is None:
                return False
            new = told - held.events_told
            if new > len(events):
                raise ValueError(
                    f"events {told - len(events) + 1} to {told} of job {job.id!r} do not follow"
                    f" event {held.events_told}, the last one told; read on from there"
                )
            if new > 0:
                conn.execute(update(jobs).where(_held(job)).values(events_told=told))
            for kind, data in events[len(events) - max(0, new) :]:
                _append(conn, job.id, kind, self._clock(), data)
            return True

    # Steps inside a transaction

    def _queue(self, conn: Connection, new: NewJob, max_queued: int, **more: str) -> Job:
        _check_ready(conn, new.dataset_id)
        _check_room(conn, max_queued)
        now = self._clock()
        job_id = _next_id(conn, now, self._token(3))
        values = {
            **asdict(new),
            "id": job_id,
            "run": job_id,
            "status": "queued",
            "attempt": 0,
            "crashes": 0,
            "cancel_requested": False,
            "pause_requested": False,
            "events_told": 0,
            "created_at": now,
            **more,
        }
        row = conn.execute(insert(jobs).values(values).returning(jobs)).mappings().one()
        job = _job(row)
        _append(conn, job_id, "queued", now, {"retry_of": job.retry_of} if job.retry_of else {})
        return job

    def _change(self, conn: Connection, job_id: str, kind: str, values: Mapping[str, Any]) -> Job:
        changed = update(jobs).where(jobs.c.id == job_id).values(values).returning(jobs)
        job = _job(conn.execute(changed).mappings().one())
        _append(conn, job_id, kind, self._clock(), {})
        return job

    def _give_back(
        self, job: Job, reason: str, *, crashed: bool = False, pause: bool = False
    ) -> bool:
        with self._write() as conn:
            held = _get_held(conn, job)
            if held is None:
                return False
            held = replace(held, pause_requested=held.pause_requested or pause)
            self._requeue(conn, held, reason, crashes=held.crashes + crashed)
            return True

    def _free_expired(self, conn: Connection) -> None:
        for job in _running(conn, jobs.c.lease_until < self._clock()):
            reason = f"Worker {job.worker} went silent."
            self._requeue(conn, job, reason, crashes=job.crashes + 1)

    def _requeue(self, conn: Connection, job: Job, reason: str, *, crashes: int) -> None:
        if job.cancel_requested:
            self._end(conn, _held(job), "cancelled")
        elif crashes >= MAX_CRASHES:
            error = f"The job was given up after {crashes} crashes; the last one: {reason}"
            self._end(conn, _held(job), "failed", error=error)
        else:
            status, kind = ("paused", "paused") if job.pause_requested else ("queued", "requeued")
            freed = {
                "status": status,
                "crashes": crashes,
                "pause_requested": False,
                "worker": None,
                "lease_until": None,
            }
            if conn.execute(update(jobs).where(_held(job)).values(freed)).rowcount == 1:
                data = {"reason": reason, "crashes": crashes}
                _append(conn, job.id, kind, self._clock(), data)

    def _end(
        self,
        conn: Connection,
        where: ColumnElement[bool],
        status: EndStatus,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        now = self._clock()
        ended = (
            update(jobs)
            .where(where)
            .values(
                status=status,
                result=result,
                error=error,
                pause_requested=False,
                worker=None,
                lease_until=None,
                finished_at=now,
            )
        )
        job_id = conn.execute(ended.returning(jobs.c.id)).scalar_one_or_none()
        if job_id is None:
            return False
        said = {"result": result, "error": error}
        _append(conn, job_id, status, now, {k: v for k, v in said.items() if v is not None})
        return True


def jobs_needing(conn: Connection, dataset_id: str) -> list[str]:
    """Ids of the jobs on a dataset that have not ended, oldest first."""
    active = and_(jobs.c.dataset_id == dataset_id, jobs.c.status.not_in(END_STATUSES))
    return list(conn.execute(select(jobs.c.id).where(active).order_by(jobs.c.id)).scalars())


def _held(job: Job) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == job.id,
        jobs.c.status == "running",
        jobs.c.worker == job.worker,
        jobs.c.attempt == job.attempt,
    )


def _running(conn: Connection, *where: ColumnElement[bool]) -> list[Job]:
    query = select(jobs).where(jobs.c.status == "running", *where)
    return [_job(row) for row in conn.execute(query).mappings()]


def _job(row: RowMapping) -> Job:
    return Job(**row)


def _get_held(conn: Connection, job: Job) -> Job | None:
    row = conn.execute(select(jobs).where(_held(job))).mappings().one_or_none()
    return _job(row) if row is not None else None


def _get(conn: Connection, job_id: str) -> Job:
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(
            f"Job {job_id!r} does not exist; GET /v1/training/jobs lists those that do."
        )
    return _job(row)


def _get_active(conn: Connection, job_id: str, wanted: str) -> Job:
    job = _get(conn, job_id)
    if job.ended:
        raise ConflictError(
            f"Job {job_id!r} has ended ({job.status}); only queued, running and paused jobs can be"
            f" {wanted}."
        )
    return job


def _get_lasting(conn: Connection, job_id: str, wanted: str) -> Job:
    job = _get_active(conn, job_id, wanted)
    if job.cancel_requested:
        raise ConflictError(
            f"Job {job_id!r} is being cancelled; it can be {wanted} no more, but retried once it"
            " has ended."
        )
    return job


def _find_made(conn: Connection, asked: Idempotency) -> Job | None:
    """The job that the same request made before; raises BadRequestError if another one did."""
    query = select(jobs).where(jobs.c.idempotency_key == asked.key)
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        return None
    job = _job(row)
    if job.idempotency_hash != asked.payload_hash:
        raise BadRequestError(
            f"Idempotency-Key {asked.key!r} came with another body before and made job {job.id!r};"
            " send a new key with a new body.",
            field="Idempotency-Key",
        )
    return job


def _next_id(conn: Connection, now: float, tail: str) -> str:
    """Milliseconds and a random tail; larger than every id before, even if the clock went back."""
    last: str | None = conn.execute(select(func.max(jobs.c.id))).scalar_one()
    last_ms = int(last.removeprefix("job_")[:12], 16) if last else 0
    return f"job_{max(int(now * 1000), last_ms + 1):012x}{tail}"


def _append(conn: Connection, job_id: str, kind: str, at: float, data: Mapping[str, Any]) -> None:
    row = {"job_id": job_id, "of_job": job_id, "type": kind, "at": at, "data": dict(data)}
    conn.execute(_APPEND, row)


def _check_ready(conn: Connection, dataset_id: str) -> None:
    found = conn.execute(select(datasets.c.status).where(datasets.c.id == dataset_id))
    status = found.scalar_one_or_none()
    if status != "ready":
        raise BadRequestError(
            f"Dataset {dataset_id!r} is {status or 'not there'}; a job needs one that is ready.",
            field="dataset",
        )


def _check_room(conn: Connection, max_queued: int) -> None:
    """Paused jobs count as well: each will be queued again."""
    waiting = select(func.count()).select_from(jobs).where(jobs.c.status.in_(WAITING_STATUSES))
    if conn.execute(waiting).scalar_one() >= max_queued:
        raise UnavailableError(
            f"{max_queued} jobs are queued or paused, as many as max_queued_jobs allows;"
            " cancel one or come back when one has started.",
            retry_after_sec=60,
        )


def _check_run_is_free(conn: Connection, old: Job) -> None:
    """One run folder has one trainer, and one result."""
    goes_on = and_(jobs.c.run == old.run, jobs.c.status.not_in(UNDONE_STATUSES))
    other = conn.execute(select(jobs.c.id, jobs.c.status).where(goes_on)).first()
    if other is not None:
        raise ConflictError(
            f"Job {old.id!r} was retried already: job {other.id!r} is {other.status}."
        )
