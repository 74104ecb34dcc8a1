"""Owns the handful of objects every route works with, made once by the lifespan."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.batcher import Batcher
from app.bulk import Places
from app.cache import ByteCache
from app.engine import Engine
from app.imports import DatasetImporter
from app.keys import Keyring
from app.life import Life
from app.metrics import Metrics
from app.quotas import Quotas
from app.settings import Settings
from app.store.store import Store
from app.supervisor import WorkerSupervisor
from training.model.registry import Registry


@dataclass(frozen=True)
class Context:
    """What a running service consists of."""

    settings: Settings
    registry: Registry
    store: Store
    engine: Engine
    batcher: Batcher
    importer: DatasetImporter
    metrics: Metrics
    wake_worker: Callable[[], None]
    files: ByteCache
    keyring: Keyring
    quotas: Quotas
    life: Life
    supervisor: WorkerSupervisor
    image_streams: Places = field(default_factory=Places)


def get_context(connection: HTTPConnection) -> Context:
    """The running service's context."""
    return cast(Context, connection.app.state.context)


Ctx = Annotated[Context, Depends(get_context)]
