"""Owns what tests of jobs stand on: their routes on a real store, over real sockets."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app import problems
from app.context import get_context
from app.routes import training_jobs
from app.settings import Settings
from app.store.jobs import Job, NewJob
from app.store.store import Store
from training.model.registry import Registry

PATIENCE_SEC = 30.0


class House:
    """The routes of training jobs on a real store; nothing runs the jobs but the test."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = Settings.model_validate(
            {"data_dir": data_dir, "max_queued_jobs": 3, "max_event_streams": 2, "poll_sec": 3600}
        )
        self.store = Store.open(self.settings.database_path)
        self.registry = Registry(self.settings.models_dir)
        self.woken = 0
        self.add_dataset("ds_1", "digits", resolution=28, channels=1)

    def add_dataset(self, dataset_id: str, name: str, **summary: object) -> None:
        self.store.create_dataset(dataset_id, name, None)
        self.store.finish_dataset(dataset_id, "ready", summary=summary)

    def wake(self) -> None:
        self.woken += 1

    def app(self) -> FastAPI:
        app = FastAPI()
        app.include_router(training_jobs.router)
        context = SimpleNamespace(
            settings=self.settings, store=self.store, wake_worker=self.wake, registry=self.registry
        )
        app.dependency_overrides[get_context] = lambda: context
        problems.add_handlers(app)
        return app

    def run_dir(self, job_id: str) -> Path:
        path = self.settings.runs_dir / job_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def queue(self, **changes: object) -> str:
        """Id of a new job."""
        asked = {"model": "mnist", "dataset_id": "ds_1", "dataset_name": "digits"}
        asked |= {"preset": "tiny", "minutes": 1.0, "kimg": None, "until": None, "overrides": {}}
        new = NewJob(**{**asked, "promote": "if_better", "seed": 0, **changes})
        return self.store.create_job(new, 100).id

    def claim(self) -> Job:
        job = self.store.claim_job("w1", 3600)
        assert job is not None
        return job


@contextmanager
def _serving(house: House) -> Iterator[httpx.Client]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(house.app(), log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE_SEC) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SEC)
        listener.close()


Serving = Callable[[House], AbstractContextManager[httpx.Client]]


@pytest.fixture(scope="session")
def serving() -> Serving:
    """`with serving(house) as client:` answers on a socket."""
    return _serving


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "data")
    yield house
    house.store.close()


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    with _serving(house) as client:
        yield client
