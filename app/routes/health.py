"""Owns the probes, the metrics and the status: how the service is, for machines and people."""

from fastapi import APIRouter, Response

from app.context import Ctx
from app.engine import Loaded
from app.errors import UnavailableError
from app.machine import device_memory
from app.schemas import InMemory, Ready, Refused, Status, WorkerStatus
from app.storage import free_bytes
from app.version import VERSION

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live(ctx: Ctx) -> dict[str, str]:
    """200 as long as the process answers and its device works; 503 asks for another process."""
    ctx.life.check_alive()
    return {"status": "live"}


@router.get("/health/ready")
async def ready(ctx: Ctx) -> Ready:
    """200 when a request for an image would be answered: models are loaded and warm, the batcher
    lives, nobody told it to stop. Else 503, which says what it is doing."""
    ctx.life.check_ready()
    if not ctx.batcher.alive:
        raise UnavailableError("the batcher is not running; restart the service")
    if not ctx.engine.serving():
        raise UnavailableError("no model is loaded; train one or see the log for refused versions")
    refused = (f"{model}@{r.version or '?'}" for model, r in ctx.engine.refused().items())
    return Ready(status="ready", refused=sorted(refused))


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def metrics(ctx: Ctx) -> Response:
    """Prometheus' text format."""
    return Response(ctx.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/status")
def status(ctx: Ctx) -> Status:
    """How the service is: what is served, on what, and how much is waiting."""
    return Status(
        version=VERSION,
        phase=ctx.life.phase,
        doing=ctx.life.doing,
        uptime_sec=round(ctx.life.uptime_sec, 1),
        device=str(ctx.engine.device),
        device_memory_bytes=device_memory(ctx.engine.device),
        models=ctx.engine.serving(),
        loaded=[_in_memory(loaded) for loaded in ctx.engine.loaded()],
        refused={m: Refused(**vars(r)) for m, r in ctx.engine.refused().items()},
        queued_images=ctx.batcher.queued_images,
        jobs=dict(ctx.store.count_by_status().items()),
        datasets=dict(ctx.store.count_datasets_by_status().items()),
        worker=WorkerStatus(state=ctx.supervisor.state, pid=ctx.supervisor.pid),
        disk_free_bytes=free_bytes(ctx.settings.data_dir),
    )


def _in_memory(loaded: Loaded) -> InMemory:
    return InMemory(
        model=loaded.model,
        version=loaded.version,
        certificate=loaded.certificate_id,
        num_bytes=loaded.sampler.num_bytes,
    )
