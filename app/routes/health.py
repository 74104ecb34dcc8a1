"""Owns the probes, the metrics and the status: how the service is, for machines and people."""

from fastapi import APIRouter, Response

from app.context import Ctx
from app.errors import UnavailableError
from app.schemas import Ready, Refused, Status

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(ctx: Ctx) -> Ready:
    """200 when a request for an image would be answered: a model is loaded, the batcher lives."""
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
    """What is served, on what, and how much is waiting."""
    return Status(
        device=str(ctx.engine.device),
        models=ctx.engine.serving(),
        refused={m: Refused(**vars(r)) for m, r in ctx.engine.refused().items()},
        queued_images=ctx.batcher.queued_images,
        jobs=dict(ctx.store.count_by_status().items()),
    )
