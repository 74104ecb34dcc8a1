"""Owns what the tests of serving stand on: tiny generators and an app without sockets."""

import asyncio
import json
import os
import runpy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from app.context import Context
from app.main import create_app
from app.settings import Settings
from training.model.checkpoint import serialize
from training.model.manifest import sealed
from training.model.networks.build import build_generator, num_parameters
from training.model.networks.config import NetworkConfig
from training.model.registry import Registry

torch.set_num_threads(1)
# The default draws every local variable of a traceback, which takes seconds.
structlog.configure(
    [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
)

GUARD = str(Path(__file__).parent / "guard")
# "1" is a name and, as cat's place, an index too.
CLASSES = ("1", "cat", "dog")


def toy_version(
    weights: int = 0, classes: tuple[str, ...] = CLASSES, channels: int = 1, resolution: int = 8
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and manifest of a small random strided generator; `weights` seeds its weights."""
    network = NetworkConfig(
        architecture="strided",
        img_resolution=resolution,
        img_channels=channels,
        num_classes=len(classes),
        z_dim=8,
        widths=(8, 4),
        embed_dim=4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(weights)
        generator = build_generator(network)
    files = {
        "generator.safetensors": serialize(generator.state_dict()),
        "card.md": b"# A toy\n",
        "samples.png": b"\x89PNG toy",
        "metrics.json": b'{"fd_cnn": 1.5}\n',
    }
    manifest = {
        "network": network.to_json(),
        "class_names": list(classes),
        "num_parameters": num_parameters(generator),
        "lineage": {"dataset": "toys"},
    }
    return files, manifest


def add_toy(registry: Registry, model: str = "toy", weights: int = 0, **kind: Any) -> int:
    """Register a toy and return its version."""
    return registry.register(model, *toy_version(weights, **kind), f"run-{weights}")


def edit_manifest(folder: Path, *drop: str, **changes: Any) -> None:
    """Change a version's manifest as somebody would who can also seal it."""
    path = folder / "manifest.json"
    stored = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps(sealed({n: v for n, v in stored.items() if n not in drop})))


PATIENCE_SEC = 30.0


class Service:
    """A running app: its lifespan and its clients share one event loop, in a thread."""

    def __init__(self, app: FastAPI, portal: BlockingPortal) -> None:
        self.app = app
        self.portal = portal

    @property
    def context(self) -> Context:
        return self.app.state.context

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.together([(method, url, options)])[0]

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.request("POST", url, **options)

    def images(self, **body: Any) -> httpx.Response:
        """POST /v1/images to the model `toy`."""
        return self.post("/v1/images", json={"model": "toy", **body})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the device busy, so that whatever is asked meanwhile waits in the queue."""
        began, gate = threading.Event(), threading.Event()

        def draw() -> tuple[np.ndarray, np.ndarray]:
            began.set()
            assert gate.wait(PATIENCE_SEC)
            return np.zeros((1, 8), np.float32), np.zeros(1, np.int64)

        batcher, loaded = self.context.batcher, self.context.engine.get("toy", None)
        submit = partial(batcher.submit, loaded, 1, draw, lambda images, c: None)
        future = self.portal.start_task_soon(submit)
        assert began.wait(PATIENCE_SEC)
        try:
            end = time.monotonic() + PATIENCE_SEC
            while batcher.queued_images:  # until the device has it, of which nobody is told
                assert time.monotonic() < end
                time.sleep(0.001)
            yield
        finally:
            gate.set()
            future.result(PATIENCE_SEC)

    def together(self, calls: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """Answers to requests that are all sent at once."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
                sent = [c.request(method, url, **options) for method, url, options in calls]
                return await asyncio.gather(*sent)

        return self.portal.call(send)


@contextmanager
def running(data_dir: Path, wait: bool = True, **settings: Any) -> Iterator[Service]:
    """`wait`: until models are loaded, which happens after it has begun to answer."""
    values = {"data_dir": data_dir, "device": "cpu", "start_worker": False, "serving_threads": 1}
    values |= {"max_queue_wait_ms": 60_000}
    # Aliases are looked at when a test says so, never by the clock.
    app = create_app(Settings.model_validate({**values, "poll_sec": 3600, **settings}))
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("app.main.install_bundled", lambda registry: None)  # it would only take time
        portal = stack.enter_context(start_blocking_portal())
        lifespan = app.router.lifespan_context(app)
        stack.enter_context(portal.wrap_async_context_manager(lifespan))
        assert not wait or app.state.context.life.started.wait(PATIENCE_SEC)
        yield Service(app, portal)


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_this_machine() -> Iterator[None]:
    """No setting of the shell reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.upper().startswith("NOISEWELL_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def outbound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where processes of the suite stand that tried to reach another machine: this one, and every
    Python that it starts."""
    path = tmp_path_factory.mktemp("guard") / "outbound"
    path.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOCKET_GUARD", str(path))
        patch.setenv("PYTHONPATH", GUARD, prepend=os.pathsep)
        runpy.run_path(f"{GUARD}/sitecustomize.py")
        yield path


@pytest.fixture(autouse=True)
def _no_other_machine(outbound: Path) -> Iterator[None]:
    yield
    if outbound.stat().st_size:
        tried = outbound.read_text("utf-8")
        outbound.write_text("")
        pytest.fail(f"reached for another machine: {tried}")


@pytest.fixture(scope="session")
def make_version() -> Callable[..., int]:
    """`make_version(registry, model="toy", weights=0, …)` registers a toy."""
    return add_toy


@pytest.fixture(scope="session")
def make_files() -> Callable[..., tuple[dict[str, bytes], dict[str, Any]]]:
    """`make_files(weights=0, …)`: the files and the manifest of a toy nobody registered."""
    return toy_version


@pytest.fixture(scope="session")
def edit() -> Callable[..., None]:
    """`edit(version_dir, "lineage", digest=…)` drops and sets fields, and seals the manifest."""
    return edit_manifest


@pytest.fixture(scope="session")
def run_service() -> Callable[..., Any]:
    """`with run_service(data_dir, **settings) as service:` runs the app."""
    return running


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry, where `start` looks."""
    return Registry(tmp_path / "data" / "models")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """`with start(**settings) as service:` runs the app on the test's data directory."""

    def run(**settings: Any) -> Any:
        return running(tmp_path / "data", **settings)

    return run


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for tests that change nothing: `toy` 1 (champion, grey), 2, 3; `plain` (RGB)."""
    data_dir = tmp_path_factory.mktemp("service")
    registry = Registry(data_dir / "models")
    for weights in range(3):
        add_toy(registry, weights=weights)
    add_toy(registry, "plain", classes=(), channels=3)
    with running(data_dir) as service:
        yield service
