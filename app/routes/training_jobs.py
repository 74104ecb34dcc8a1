"""Owns the routes of training jobs: create, list, show, steer, and how one is going."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path as FilePath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from app.context import Context, Ctx
from app.errors import NotFoundError
from app.orders import order
from app.runs import grid_path, list_checkpoints, log_tail
from app.schemas import (
    Checkpoints,
    JobStatus,
    NewTrainingJob,
    TrainingEvent,
    TrainingEvents,
    TrainingJob,
    TrainingJobs,
)
from app.store.jobs import Idempotency, Job, JobEvent
from app.store.store import Store
from training.model.files import sha256_bytes

EVENTS_PER_LOOK = 100
KEEPALIVE_SEC = 15.0

IdempotencyKey = Annotated[
    str | None, Header(max_length=255, pattern=r"^[ -~]+$", description="One key, one job.")
]

router = APIRouter(prefix="/v1/training/jobs", tags=["training"])


@router.post("", status_code=202)
def create_job(
    body: NewTrainingJob, ctx: Ctx, response: Response, idempotency_key: IdempotencyKey = None
) -> TrainingJob:
    """Queue a training; it is safely stored once this answers 202.

    The same `Idempotency-Key` with the same body answers the job that it made the first time.
    """
    asked = _idempotency(idempotency_key, body)
    made = ctx.store.find_made(asked) if asked else None
    if made is not None:
        response.headers["Idempotency-Replayed"] = "true"
        return _accepted(made, response)
    job = ctx.store.create_job(order(body, ctx), ctx.settings.max_queued_jobs, asked)
    ctx.wake_worker()
    return _accepted(job, response)


@router.get("")
def list_jobs(
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="Last id of a page.")] = None,
    status: JobStatus | None = None,
    model: Annotated[str | None, Query(max_length=64)] = None,
) -> TrainingJobs:
    """The newest first."""
    jobs = ctx.store.list_jobs(limit + 1, after, status=status, model=model)
    return TrainingJobs(data=[_answer(job) for job in jobs[:limit]], has_more=len(jobs) > limit)


@router.get("/{job_id}")
def get_job(job_id: str, ctx: Ctx) -> TrainingJob:
    """How a job stands."""
    return _answer(ctx.store.get_job(job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, ctx: Ctx) -> TrainingJob:
    """End a job; a running one is asked to save and stop, and keeps its run folder."""
    job = ctx.store.request_cancel(job_id)
    ctx.wake_worker()
    return _answer(job)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, ctx: Ctx) -> TrainingJob:
    """Have a job wait; a running one is asked to save its state and stop."""
    job = ctx.store.request_pause(job_id)
    ctx.wake_worker()
    return _answer(job)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, ctx: Ctx) -> TrainingJob:
    """Have a paused job queue again and go on from its saved state."""
    job = ctx.store.request_resume(job_id)
    ctx.wake_worker()
    return _answer(job)


@router.post("/{job_id}/retry", status_code=202)
def retry_job(job_id: str, ctx: Ctx, response: Response) -> TrainingJob:
    """Queue a new job that goes on where one was when it failed or was cancelled."""
    job = ctx.store.retry_job(job_id, ctx.settings.max_queued_jobs)
    ctx.wake_worker()
    return _accepted(job, response)


@router.get("/{job_id}/checkpoints")
def get_checkpoints(job_id: str, ctx: Ctx) -> Checkpoints:
    """What the training has left on its way: states to resume from, generators, grids."""
    return Checkpoints(data=list_checkpoints(_run_dir(ctx, job_id), f"{router.prefix}/{job_id}"))


@router.get(
    "/{job_id}/events",
    response_model=TrainingEvents,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_events(
    job_id: str,
    ctx: Ctx,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Last seq already seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[int | None, Header(ge=0, le=2**31 - 1)] = None,
) -> TrainingEvents | Response:
    """A page, or with `Accept: text/event-stream` all there is and all that comes until the end.

    A stream also tells the newest `progress`; such an event has no id and is not stored.
    """
    if "text/event-stream" in accept.lower():
        await to_thread.run_sync(ctx.store.get_job, job_id)
        return _open_stream(ctx, job_id, after if last_event_id is None else last_event_id)
    events = await to_thread.run_sync(ctx.store.events, job_id, after, limit + 1)
    data = [_event_answer(event) for event in events[:limit]]
    return TrainingEvents(data=data, has_more=len(events) > limit)


@router.get(
    "/{job_id}/samples.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def get_job_samples(job_id: str, ctx: Ctx) -> Response:
    """The newest grid of samples, same seeds each time."""
    try:
        return _png(_run_dir(ctx, job_id) / "samples.png")
    except FileNotFoundError:
        raise NotFoundError(
            f"Job {job_id!r} has no samples yet; the first come with its first snapshot."
        ) from None


@router.get(
    "/{job_id}/samples/{cur_nimg}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def get_earlier_samples(
    job_id: str, cur_nimg: Annotated[int, Path(ge=0, le=2**53)], ctx: Ctx
) -> Response:
    """The grid as it was after so many images; /checkpoints lists those there are."""
    try:
        return _png(grid_path(_run_dir(ctx, job_id), cur_nimg))
    except FileNotFoundError:
        raise NotFoundError(
            f"Job {job_id!r} has no samples of {cur_nimg} images; GET {router.prefix}/{job_id}"
            "/checkpoints lists those it has."
        ) from None


@router.get(
    "/{job_id}/log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def get_log(job_id: str, ctx: Ctx) -> Response:
    """The last 64 KB the trainer printed; empty before it starts."""
    text = log_tail(_run_dir(ctx, job_id) / "log.txt")
    return Response(
        text, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"}
    )


# Requests


def _idempotency(key: str | None, body: NewTrainingJob) -> Idempotency | None:
    """The key with a hash of what was sent, whatever its order, spaces and notation of numbers."""
    if key is None:
        return None
    sent = body.model_dump(mode="json", exclude_unset=True)
    return Idempotency(key, sha256_bytes(json.dumps(sent, sort_keys=True).encode()))


# Answers


def _accepted(job: Job, response: Response) -> TrainingJob:
    response.headers["Location"] = f"{router.prefix}/{job.id}"
    return _answer(job)


def _answer(job: Job) -> TrainingJob:
    names = TrainingJob.model_fields.keys() - {"dataset", "eta"}
    values = {name: getattr(job, name) for name in names}
    times = {name: _time(values[name]) for name in ("created_at", "started_at", "finished_at")}
    more = {"dataset": job.dataset_id, "eta": _eta(job)}
    return TrainingJob.model_validate({**values, **times, **more})


def _eta(job: Job) -> datetime | None:
    progress = job.progress or {}
    left = progress.get("eta_sec")
    known = job.status == "running" and progress.get("phase") == "training"
    if not known or not isinstance(left, int | float) or not 0 <= left < 1e9:
        return None
    return datetime.now(UTC) + timedelta(seconds=left)


def _event_answer(event: JobEvent) -> TrainingEvent:
    at = datetime.fromtimestamp(event.at, UTC)
    return TrainingEvent(seq=event.seq, type=event.type, at=at, data=event.data)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _run_dir(ctx: Context, job_id: str) -> FilePath:
    """Of a job that exists: no other text becomes part of a path."""
    return ctx.settings.runs_dir / ctx.store.get_job(job_id).run


def _png(path: FilePath) -> Response:
    """Raises FileNotFoundError."""
    headers = {"Cache-Control": "no-store"}
    return Response(path.read_bytes(), media_type="image/png", headers=headers)


# The stream


class _EventStream(EventSourceResponse):
    """A stream that frees its place however it ends, even before its first byte."""

    def __init__(self, content: AsyncGenerator[bytes], free: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=headers)
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._free()


def _open_stream(ctx: Context, job_id: str, after: int) -> _EventStream:
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    free = ctx.store.changes.subscribe(
        lambda: loop.call_soon_threadsafe(changed.set), ctx.settings.max_event_streams
    )
    return _EventStream(_stream(ctx, job_id, after, changed), free)


async def _stream(
    ctx: Context, job_id: str, after: int, changed: asyncio.Event
) -> AsyncGenerator[bytes]:
    now = asyncio.get_running_loop().time
    spoken_at = now()
    told: dict[str, Any] | None = None
    while not ctx.store.changes.closed:
        changed.clear()
        job, events = await to_thread.run_sync(_look, ctx.store, job_id, after)
        chunks = [_encode_event(event) for event in events]
        if job.progress != told:
            told = job.progress
            chunks.append(format_sse_event(data_str=json.dumps(told), event="progress"))
        if not chunks and now() - spoken_at >= KEEPALIVE_SEC:
            chunks.append(KEEPALIVE_COMMENT)
        for chunk in chunks:
            yield chunk
            spoken_at = now()
        after = events[-1].seq if events else after
        if len(events) < EVENTS_PER_LOOK:
            if job.ended:
                return
            await _wait(changed, ctx.settings.poll_sec)


def _look(store: Store, job_id: str, after: int) -> tuple[Job, list[JobEvent]]:
    """The job before its events: if it has ended, the event that says so is among them."""
    return store.get_job(job_id), store.events(job_id, after, EVENTS_PER_LOOK)


def _encode_event(event: JobEvent) -> bytes:
    data = _event_answer(event).model_dump_json()
    return format_sse_event(data_str=data, event=event.type, id=str(event.seq))


async def _wait(changed: asyncio.Event, timeout_sec: float) -> None:
    """Until this process changed something, or it is time to look for what others did."""
    try:
        async with asyncio.timeout(timeout_sec):
            await changed.wait()
    except TimeoutError:
        return
