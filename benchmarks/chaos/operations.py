"""Owns what is tried: each operation on a data folder, and how often it has taken effect there.

No torch here, so that a process that does one of them starts in half a second; those that need
it are in weights.py.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, create_engine

from app.errors import ConflictError
from app.retention import collect
from app.settings import Settings
from app.store.database import MIGRATIONS
from app.store.jobs import Idempotency, Job, NewJob
from app.store.store import Store
from benchmarks.chaos.soundness import DATABASE
from training.model.files import sha256_bytes, write_json
from training.model.registry import Registry

MODEL = "toy"
LEASE_SEC = 60.0
MAX_QUEUED = 100
NEW = NewJob(
    model=MODEL,
    dataset_id="ds_1",
    dataset_name="digits",
    preset="tiny",
    minutes=1.0,
    kimg=None,
    until=None,
    overrides={"batch_size": 16},
    promote="if_better",
    seed=7,
)
# Larger than any buffer on the way to the disk, so that half of it can be there.
FILES: Mapping[str, bytes] = {
    "generator.safetensors": bytes(range(256)) * 256,
    "card.md": b"# A toy\n" * 100,
    "samples.png": b"\x89PNG toy" * 100,
    "metrics.json": b'{"fd_cnn": 1.5}\n',
}

Act = Callable[[], object]


class Operation:
    """One kind of change to a data folder.

    later_sec: how far the clock has moved on when the operation is done again after a fault.
    """

    later_sec = 0.0
    can_be_repeated = True

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def prepare(self, data: Path) -> None:
        """An empty folder → what the operation begins from."""
        raise NotImplementedError

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        """Open what the operation needs; what is returned does it, and is done when it returns."""
        raise NotImplementedError

    def effects(self, data: Path) -> int:
        """How often the operation has taken effect: 0 before it, 1 after it, 2 if done twice."""
        raise NotImplementedError

    def held(self) -> int:
        """The thread whose system calls are struck, once `begin` has been."""
        return os.getpid()

    def left(self, data: Path) -> Iterator[str]:
        """What lies about that should not, a sentence each, once it has been done again."""
        yield from ()

    def close(self) -> None:
        """End the threads that `begin` has started in this process."""


# The store


class StoreOperation(Operation):
    """One call of the store."""

    def prepare(self, data: Path) -> None:
        store = Store.open(data / DATABASE)
        store.create_dataset("ds_1", "digits", None)
        store.finish_dataset("ds_1", "ready", summary={})
        self.fill(store)
        store.close()

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        store = Store.open(data / DATABASE, now)
        job = first_job(store)
        return lambda: self.act(store, job)

    def effects(self, data: Path) -> int:
        store = Store.open(data / DATABASE)
        try:
            return self.count(store)
        finally:
            store.close()

    def fill(self, store: Store) -> None:
        """Two jobs, so that there is a first one to deal with and another one to leave alone."""
        for _ in range(2):
            store.create_job(NEW, MAX_QUEUED)

    def act(self, store: Store, job: Job) -> object:
        raise NotImplementedError

    def count(self, store: Store) -> int:
        raise NotImplementedError


class Enqueue(StoreOperation):
    """With a key, so that who got no answer may ask again."""

    def act(self, store: Store, job: Job) -> object:
        return store.create_job(NEW, MAX_QUEUED, Idempotency("key", "0" * 64))

    def count(self, store: Store) -> int:
        return len(store.list_jobs(MAX_QUEUED)) - 2


class Claim(StoreOperation):
    later_sec = 2 * LEASE_SEC  # another worker takes over what the first one may have claimed

    def act(self, store: Store, job: Job) -> object:
        claimed = store.claim_job(f"worker-{os.getpid()}", LEASE_SEC)
        assert claimed is not None
        assert claimed.id == job.id
        return claimed.attempt

    def count(self, store: Store) -> int:
        return store.count_by_status()["running"]


class HeldOperation(StoreOperation):
    """One that a worker does to the job that it holds."""

    def fill(self, store: Store) -> None:
        super().fill(store)
        store.claim_job("worker", 3600)

    def act(self, store: Store, job: Job) -> object:
        if not self.write(store, job):
            raise ConflictError(f"{job.id} is not held any more")
        return job.id

    def write(self, store: Store, job: Job) -> bool:
        raise NotImplementedError

    def count(self, store: Store) -> int:
        return count_events(store, self.event)

    event = ""


class Progress(HeldOperation):
    event = "phase"

    def write(self, store: Store, job: Job) -> bool:
        return store.record_progress(job, {"phase": "training", "cur_nimg": 1000})


class Finish(HeldOperation):
    event = "succeeded"

    def write(self, store: Store, job: Job) -> bool:
        return store.finish_job(job, "succeeded", result={"version": 1})


class Release(HeldOperation):
    event = "requeued"

    def write(self, store: Store, job: Job) -> bool:
        return store.release_job(job)


class Tell(HeldOperation):
    """Two lines of the run's events.jsonl."""

    def write(self, store: Store, job: Job) -> bool:
        return store.append_events(job, 2, [("rolled_back", {}), ("warning", {})])

    def count(self, store: Store) -> int:
        told = [count_events(store, kind) for kind in ("rolled_back", "warning")]
        return told[0] if told[0] == told[1] else 2


class Cancel(StoreOperation):
    def act(self, store: Store, job: Job) -> object:
        return store.request_cancel(job.id).status

    def count(self, store: Store) -> int:
        return count_events(store, "cancelled")


class Pause(StoreOperation):
    def act(self, store: Store, job: Job) -> object:
        return store.request_pause(job.id).status

    def count(self, store: Store) -> int:
        return count_events(store, "paused")


class KeyCreate(StoreOperation):
    can_be_repeated = False  # nobody makes the same key twice

    def act(self, store: Store, job: Job) -> object:
        return store.add_key("ci", "0" * 64, frozenset(["read"])).id

    def count(self, store: Store) -> int:
        return len(store.list_keys())


class KeyRevoke(StoreOperation):
    def fill(self, store: Store) -> None:
        super().fill(store)
        store.add_key("ci", "0" * 64, frozenset(["read"]))

    def act(self, store: Store, job: Job) -> object:
        return store.revoke_key(store.list_keys()[0].id).revoked_at

    def count(self, store: Store) -> int:
        return sum(key.revoked_at is not None for key in store.list_keys())


class Resume(StoreOperation):
    def fill(self, store: Store) -> None:
        super().fill(store)
        store.request_pause(first_job(store).id)

    def act(self, store: Store, job: Job) -> object:
        return store.request_resume(job.id).status

    def count(self, store: Store) -> int:
        return count_events(store, "resumed")


class Retry(StoreOperation):
    def fill(self, store: Store) -> None:
        super().fill(store)
        store.request_cancel(first_job(store).id)

    def act(self, store: Store, job: Job) -> object:
        return store.retry_job(job.id, MAX_QUEUED).id

    def count(self, store: Store) -> int:
        return len(store.list_jobs(MAX_QUEUED)) - 2


class Migrate(StoreOperation):
    """A database of schema 0001 is opened, with two jobs in it."""

    def prepare(self, data: Path) -> None:
        super().prepare(data)
        engine = create_engine(URL.create("sqlite", database=str(data / DATABASE)))
        with engine.begin() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(MIGRATIONS))
            command.downgrade(config, "0001")
        engine.dispose()

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        return lambda: Store.open(data / DATABASE, now)

    def effects(self, data: Path) -> int:
        connection = sqlite3.connect(data / DATABASE)
        try:
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            (count,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        finally:
            connection.close()
        assert count == 2, f"{count} of 2 jobs are left"
        return int(version != ("0001",))


def first_job(store: Store) -> Job:
    return store.list_jobs(MAX_QUEUED)[-1]


def count_events(store: Store, kind: str) -> int:
    events = store.events(first_job(store).id)
    return sum(event.type == kind for event in events)


class Gc(Operation):
    """Two runs that ended: the older folder goes whole, the newer one loses its state."""

    def prepare(self, data: Path) -> None:
        Store.open(data / DATABASE).close()
        for run_dir in (data / "runs" / "job_1", data / "runs" / "job_2"):
            run_dir.mkdir(parents=True)
            for name in ("state-1.safetensors", "samples.png", "log.txt"):
                (run_dir / name).write_bytes(FILES["generator.safetensors"])
            digest = sha256_bytes(FILES["generator.safetensors"])
            write_json(run_dir / "state.json", {"file": "state-1.safetensors", "sha256": digest})
            write_json(run_dir / "progress.json", {})

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        settings = Settings(data_dir=data, max_run_folders=1, max_runs_bytes=0)
        store, registry = Store.open(data / DATABASE), Registry(data / "models")
        return lambda: collect(settings, store, registry, dry_run=False)

    def effects(self, data: Path) -> int:
        runs = data / "runs"
        names = {path.name for path in runs.glob("job_2/state*")}
        return int(not (runs / "job_1").exists() and not names)


# The registry


class RegistryOperation(Operation):
    """One call of the registry, where versions 1 to 3 are and 2 is champion after 1."""

    def prepare(self, data: Path) -> None:
        registry = self.registry(data)
        for i in range(3):
            registry.register(MODEL, FILES, {"network": {}}, f"run-{i}")
        registry.promote(MODEL, 2, "better")

    def begin(self, data: Path, now: Callable[[], float] = time.time) -> Act:
        registry = self.registry(data)
        return lambda: self.act(registry)

    def effects(self, data: Path) -> int:
        return self.count(self.registry(data))

    def registry(self, data: Path) -> Registry:
        return Registry(data / "models")

    def act(self, registry: Registry) -> object:
        raise NotImplementedError

    def count(self, registry: Registry) -> int:
        raise NotImplementedError


class Register(RegistryOperation):
    def act(self, registry: Registry) -> object:
        return registry.register(MODEL, FILES, {"network": {}}, "run-new")

    def count(self, registry: Registry) -> int:
        return len(registry.versions(MODEL)) - 3


class RegisterFirst(Register):
    """Of a model that nobody has heard of, whose first version becomes champion."""

    def prepare(self, data: Path) -> None:
        data.joinpath("models").mkdir(parents=True)

    def count(self, registry: Registry) -> int:
        return int(registry.list_models() == [MODEL] and registry.champion(MODEL) == 1)


class Promote(RegistryOperation):
    def act(self, registry: Registry) -> object:
        return registry.promote(MODEL, 3, "better still")

    def count(self, registry: Registry) -> int:
        return int(registry.aliases(MODEL) == {"champion": 3, "previous": 2})


class Delete(RegistryOperation):
    def act(self, registry: Registry) -> object:
        return registry.delete(MODEL, 3)

    def count(self, registry: Registry) -> int:
        return int(3 not in registry.versions(MODEL))


class Rollback(RegistryOperation):
    can_be_repeated = False  # twice is back again

    def act(self, registry: Registry) -> object:
        return registry.rollback(MODEL)

    def count(self, registry: Registry) -> int:
        return int(registry.aliases(MODEL) == {"champion": 1, "previous": 2})


OPERATIONS: tuple[Operation, ...] = (
    Enqueue(),
    Claim(),
    Progress(),
    Finish(),
    Release(),
    Tell(),
    Cancel(),
    Pause(),
    Resume(),
    Retry(),
    KeyCreate(),
    KeyRevoke(),
    Migrate(),
    Gc(),
    Register(),
    RegisterFirst(),
    Promote(),
    Rollback(),
    Delete(),
)
