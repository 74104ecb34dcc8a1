"""Owns the assembly of the service: create_app and its lifespan, the only place objects meet."""

import math
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog
import torch
from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError

from app import problems
from app.access import Access
from app.batcher import Batcher
from app.bundled import install_bundled
from app.cache import ByteCache
from app.context import Context
from app.doors import Doors
from app.edge import Edge
from app.engine import Engine
from app.imports import DatasetImporter
from app.keys import Keyring
from app.life import Life
from app.machine import device_memory
from app.metrics import Metrics, Reading
from app.openapi import describe
from app.origins import Origins, is_loopback
from app.polling import every
from app.quotas import Quotas
from app.routes import (
    datasets,
    health,
    images,
    interpolations,
    models,
    seeds,
    studio,
    training_jobs,
    verification,
)
from app.settings import Settings
from app.shortway import ShortWay
from app.store.store import Store
from app.supervisor import WorkerSupervisor
from app.uploads import MAX_FORM_BYTES
from app.version import VERSION
from app.watchdog import watch
from training.model.files import locked
from training.model.pressure import Pressure
from training.model.registry import Registry
from training.model.sampling import pick_device
from training.model.threads import half_the_cores

SERVE_LOCK = "serve.lock"
LOADER = "aliases"  # the thread that loads what serves

MIN_KEY_LENGTH = 16

log = structlog.get_logger(__name__)


class OpenError(ValueError):
    """The service would be open to whoever reaches its machine."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Nothing is opened before its lifespan begins."""
    settings = settings or Settings()
    metrics, keyring = Metrics(), Keyring(settings.api_key)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            try:
                context = running(settings, metrics, keyring)
                app.state.context = await stack.enter_async_context(context)
            except BaseException as error:
                app.state.startup_error = error  # for the server to raise: uvicorn keeps it back
                raise
            yield

    app = FastAPI(
        title="Noisewell",
        summary="Noise in, PNG out; retrain while serving.",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        telemetry={"tracing": False},
    )
    app.state.metrics = metrics  # for the server, which refuses what never gets here
    for noun in (seeds, health, images, interpolations, models, training_jobs):
        app.include_router(noun.router, max_body_size=settings.max_body_bytes)
    app.include_router(
        verification.router, max_body_size=settings.max_verify_bytes + MAX_FORM_BYTES
    )
    app.include_router(datasets.router, max_body_size=settings.max_upload_bytes + MAX_FORM_BYTES)
    app.include_router(studio.router)
    app.mount("/static", studio.Assets())
    problems.add_handlers(app)
    describe(app)
    app.add_middleware(ShortWay)
    origins = Origins(is_loopback(settings.host), settings.allowed_hosts)
    app.state.doors = Doors(app.routes)
    app.add_middleware(Edge, keyring=keyring, doors=app.state.doors, origins=origins)
    app.add_middleware(Access, metrics=metrics, log_requests=settings.log_requests)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


@asynccontextmanager
async def running(
    settings: Settings, metrics: Metrics, keyring: Keyring
) -> AsyncGenerator[Context, None]:
    """Everything a service consists of, started in order and stopped in the reverse of it.

    Models are loaded after it has begun to listen; `life` tells when they are.

    Raises BlockingIOError if another service uses the data directory, OpenError if it would be
    open to others.
    """
    async with AsyncExitStack() as stack:
        life = Life()
        device = pick_device(settings.device)
        await to_thread.run_sync(_prepare_dirs, settings)
        stack.enter_context(_alone(settings))
        store = await to_thread.run_sync(Store.open, settings.database_path)
        stack.callback(store.close)
        unfollow = await to_thread.run_sync(_follow_keys, store, keyring, settings)
        stack.push_async_callback(to_thread.run_sync, unfollow)
        registry = Registry(settings.models_dir)
        await to_thread.run_sync(install_bundled, registry)

        torch.set_num_threads(settings.serving_threads or half_the_cores())
        engine = Engine(
            registry,
            device,
            settings.max_batch_size,
            settings.max_loaded_bytes,
            on_swap=metrics.swapped,
            die=life.die,
        )
        pressure = Pressure(settings.pressure_path)
        stack.callback(pressure.close)
        batcher = Batcher(
            settings.max_batch_size,
            settings.max_queue_size,
            settings.max_queue_wait_ms,
            settings.max_queue_delay_ms,
            metrics,
            pressure=pressure.set,
            die=life.die,
        )
        batcher.start()
        stack.push_async_callback(to_thread.run_sync, batcher.close)
        metrics.watch(
            Reading(
                queued_images=lambda: batcher.queued_images,
                jobs=store.count_by_status,
                datasets=store.count_datasets_by_status,
                memory=lambda: device_memory(device),
            )
        )

        stack.push_async_callback(
            to_thread.run_sync, watch(batcher, settings.max_batch_sec, life.die)
        )
        stack.push_async_callback(to_thread.run_sync, _follow_aliases(engine, settings, life))
        importer = DatasetImporter(settings, store)
        await to_thread.run_sync(importer.start)
        stack.push_async_callback(to_thread.run_sync, importer.close)
        supervisor = WorkerSupervisor(settings)
        if settings.start_worker:
            supervisor.start()
            stack.push_async_callback(to_thread.run_sync, supervisor.close)
        yield Context(
            settings,
            registry,
            store,
            engine,
            batcher,
            importer,
            metrics,
            supervisor.wake,
            ByteCache(settings.image_cache_bytes),
            keyring,
            Quotas(settings.key_images_per_minute, settings.address_images_per_minute),
            life,
            supervisor,
        )


@contextmanager
def _alone(settings: Settings) -> Generator[None]:
    """The only service on its data directory; who comes second reads in the lock who is there."""
    lock = settings.data_dir / SERVE_LOCK
    with locked(lock, wait=False):
        with suppress(OSError):  # a full disk is no reason not to serve
            lock.write_text(
                f"{socket.gethostname()}:{os.getpid()} at {settings.address}\n", "utf-8"
            )
        yield


def other_service(data_dir: Path) -> str | None:
    """Which service uses the data directory: host, process and address; None if none does."""
    if not (data_dir / SERVE_LOCK).exists():
        return None
    try:
        with locked(data_dir / SERVE_LOCK, wait=False):
            return None
    except BlockingIOError:
        return (data_dir / SERVE_LOCK).read_text("utf-8").strip() or "whose name nobody could write"


def _prepare_dirs(settings: Settings) -> None:
    for directory in (
        settings.data_dir,
        settings.models_dir,
        settings.runs_dir,
        settings.datasets_dir,
        settings.uploads_dir,
    ):
        directory.mkdir(parents=True, exist_ok=True)


def _follow_keys(store: Store, keyring: Keyring, settings: Settings) -> Callable[[], None]:
    """Read the stored keys, and again every `poll_sec`: a command in another process makes them.

    Returns what ends it. Raises OpenError.
    """
    keyring.put(store.list_keys())
    refuse_to_be_open(keyring, settings)

    def look() -> None:
        try:
            keyring.put(store.list_keys())
        except SQLAlchemyError as error:  # those known stay known
            log.error("the stored keys cannot be read", reason=str(error))

    return every(settings.poll_sec, look, "keys")


def refuse_to_be_open(keyring: Keyring, settings: Settings) -> None:
    """Raises OpenError if others reach it and there is no key, or one that they can guess."""
    if is_loopback(settings.host):
        return
    if settings.api_key is not None and len(settings.api_key.get_secret_value()) < MIN_KEY_LENGTH:
        raise OpenError(
            f"refusing to listen on {settings.host} with a NOISEWELL_API_KEY of fewer than"
            f" {MIN_KEY_LENGTH} characters, which can be guessed; take one of openssl rand -hex 32"
        )
    if not keyring.locked:
        raise OpenError(
            f"refusing to listen on {settings.host} without a key, since anybody could reach it;"
            f" make one: noisewell keys create --scope admin --data-dir {settings.data_dir} (or set"
            " NOISEWELL_API_KEY, or listen on 127.0.0.1)"
        )


def _follow_aliases(engine: Engine, settings: Settings, life: Life) -> Callable[[], None]:
    """Load what serves, then look at the aliases every `poll_sec`, since other processes move them.

    Returns what ends it.
    """

    def look(max_bytes: float = math.inf) -> None:
        try:
            engine.refresh(max_bytes)
        except (OSError, ValueError) as error:  # what serves now goes on serving
            log.error("the models directory cannot be read", reason=str(error))

    def begin() -> bool:
        life.tell("loading models and warming up")
        try:
            look(settings.max_startup_bytes)
        except Exception as error:  # it would be unready for ever, without a word
            log.exception("the start failed")
            life.die(f"the start failed: {error}")
            return False
        life.begin()
        return True

    return every(settings.poll_sec, look, LOADER, begin)
