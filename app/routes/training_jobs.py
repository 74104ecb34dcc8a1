"""Owns the routes of training jobs: create, list, show, cancel, and how one is going."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from app.context import Context, Ctx
from app.errors import BadRequestError, NotFoundError
from app.schemas import NewTrainingJob, TrainingEvent, TrainingEvents, TrainingJob, TrainingJobs
from app.store.datasets import StoredDataset
from app.store.jobs import Job, JobEvent, NewJob, Scalar
from app.store.store import Store
from training.model.presets import PRESETS, fitting
from training.model.settings import ConfigError, parse_settings

MAX_LOG_BYTES = 64 * 1024
EVENTS_PER_LOOK = 100
KEEPALIVE_SEC = 15.0

router = APIRouter(prefix="/v1/training/jobs", tags=["training"])


@router.post("", status_code=202)
def create_job(body: NewTrainingJob, ctx: Ctx, response: Response) -> TrainingJob:
    """Queue a training; it is safely stored once this answers 202."""
    _check_minutes(body.minutes, ctx.settings.max_job_minutes)
    dataset = _ready_dataset(ctx.store, body.dataset)
    new = NewJob(
        model=body.model,
        dataset_id=dataset.id,
        dataset_name=dataset.name,
        preset=_fitting_preset(body.preset, dataset),
        minutes=body.minutes,
        kimg=body.kimg,
        until=body.until.model_dump() if body.until else None,
        overrides=_taken(body.overrides),
        promote=body.promote,
        seed=body.seed,
    )
    job = ctx.store.create_job(new, ctx.settings.max_queued_jobs)
    ctx.wake_worker()
    response.headers["Location"] = f"/v1/training/jobs/{job.id}"
    return _answer(job)


@router.get("")
def list_jobs(
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="Last id of a page.")] = None,
) -> TrainingJobs:
    """The newest first."""
    jobs = ctx.store.list_jobs(limit + 1, after)
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
    accept: Annotated[str, Header()] = "",
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
    path = _run_dir(ctx, job_id) / "samples.png"
    try:
        png = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"Job {job_id!r} has no samples yet; the first come with its first snapshot."
        ) from None
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})


@router.get(
    "/{job_id}/log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def get_log(job_id: str, ctx: Ctx) -> Response:
    """The last 64 KB the trainer printed; empty before it starts."""
    text = _log_tail(_run_dir(ctx, job_id) / "log.txt")
    return Response(
        text, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"}
    )


# What a job may ask for


def _check_minutes(minutes: float | None, limit: float) -> None:
    if minutes is not None and minutes > limit:
        raise BadRequestError(
            f"minutes is {minutes:g}; max_job_minutes allows up to {limit:g}.", field="minutes"
        )


def _ready_dataset(store: Store, id_or_name: str) -> StoredDataset:
    try:
        dataset = store.get_dataset(id_or_name)
    except NotFoundError as error:
        raise BadRequestError(error.detail, field="dataset") from None
    if dataset.status != "ready":
        raise BadRequestError(
            f"Dataset {id_or_name!r} is {dataset.status}; a job needs one that is ready"
            f" (GET /v1/datasets/{dataset.id} tells).",
            field="dataset",
        )
    return dataset


def _fitting_preset(asked: str | None, dataset: StoredDataset) -> str:
    assert dataset.summary is not None
    resolution, channels = dataset.summary["resolution"], dataset.summary["channels"]
    if asked is not None and asked not in PRESETS:
        raise BadRequestError(
            f"Preset {asked!r} does not exist; there is {', '.join(PRESETS)}.", field="preset"
        )
    able = fitting(resolution, channels)
    if not able:
        raise BadRequestError(
            f"No preset makes images of {resolution} pixels and {channels} channels; import"
            " the dataset at another resolution.",
            field="dataset",
        )
    if asked is not None and asked not in able:
        misfit = PRESETS[asked].misfit(resolution, channels)
        raise BadRequestError(
            f"Preset {asked!r} {misfit} as dataset {dataset.name!r} has; use {able[0]!r}.",
            field="preset",
        )
    return asked or able[0]


def _taken(overrides: dict[str, Scalar]) -> dict[str, Scalar]:
    """Overrides that training takes, one by one; what contradicts what is the trainer's to say."""
    for name, value in overrides.items():
        try:
            parse_settings({name: value})
        except ConfigError as error:
            raise BadRequestError(f"override {error}", field=f"overrides.{name}") from None
    return overrides


# Answers


def _answer(job: Job) -> TrainingJob:
    values = {name: getattr(job, name) for name in TrainingJob.model_fields if name != "dataset"}
    times = {name: _time(values[name]) for name in ("created_at", "started_at", "finished_at")}
    return TrainingJob.model_validate({**values, **times, "dataset": job.dataset_id})


def _event_answer(event: JobEvent) -> TrainingEvent:
    at = datetime.fromtimestamp(event.at, UTC)
    return TrainingEvent(seq=event.seq, type=event.type, at=at, data=event.data)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _run_dir(ctx: Context, job_id: str) -> Path:
    """Of a job that exists: no other text becomes part of a path."""
    return ctx.settings.runs_dir / ctx.store.get_job(job_id).id


def _log_tail(path: Path) -> bytes:
    """Whole lines, as many as fit; an encoding error becomes U+FFFD."""
    if not path.exists():
        return b""
    with path.open("rb") as f:
        start = max(0, f.seek(0, os.SEEK_END) - MAX_LOG_BYTES)
        f.seek(start)
        tail = f.read(MAX_LOG_BYTES)
    if start > 0 and b"\n" in tail:
        tail = tail.split(b"\n", 1)[1]
    return tail.decode("utf-8", "replace").encode()


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
