"""Owns the world of a simulated run: the real store and registry, a clock, and where processes die.

All that is random in it comes from the seed of the run.
"""

import random
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict, namedtuple
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest import mock

from sqlalchemy import event

from app.errors import NoisewellError
from app.store.jobs import Job
from app.store.store import Store
from app.store.tables import jobs as jobs_table
from training.model.registry import AliasedError, Registry

MODEL = "mnist"
LEASE_SEC = 8.0
DEATHS = 0.08  # of all operations
POINTS = 14  # at which one may die; an operation that has fewer survives the later ones
RAM = Path("/dev/shm")

T = TypeVar("T")
How = Literal["done", "refused", "died"]
Event = tuple[int, str, str]  # seq, type, data as JSON
# The refusals that are part of the contract; any other exception is a bug.
REFUSALS = (NoisewellError, AliasedError, LookupError)
SHELF_STEPS = frozenset({"register", "promote", "rollback", "delete version"})


class Died(BaseException):
    """The process is killed here; like a kill, no `except Exception` stops it."""


class Fuse:
    """Once lit, ends the process at one of the next points where that makes a difference.

    Points: before each statement and each commit of the store, after each commit, at each fsync.
    """

    def __init__(self) -> None:
        self.left = 0

    def burn(self, *_: object) -> None:
        if self.left > 0:
            self.left -= 1
            if self.left == 0:
                raise Died

    def watch(self, store: Store) -> None:
        """Burn at what `store` does from now on."""
        event.listen(store._engine, "before_cursor_execute", self.burn)
        event.listen(store._engine, "commit", self.burn)
        store.changes.subscribe(self.burn, limit=1)


@dataclass(frozen=True)
class Step:
    """One operation as it went. job: in whose name a worker writes. on: what a user names."""

    actor: str
    name: str
    job: Job | None
    on: Any
    how: How
    answer: Any

    def __str__(self) -> str:
        about = f"{self.job.id} attempt {self.job.attempt}" if self.job else self.on
        answer = self.answer
        if isinstance(answer, Job):
            answer = f"{answer.id} {answer.status}"
        told = [str(part) for part in (about, self.how, answer) if part is not None]
        return f"{self.actor:<5} {self.name:<15} {' · '.join(told)}"


@dataclass(frozen=True)
class Rows:
    """What is committed: jobs by id, their events, ids of the datasets that are ready."""

    jobs: Mapping[str, Any] = field(default_factory=dict)
    events: Mapping[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    datasets: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Shelf:
    """What is registered: the run of each version, and the aliases."""

    runs: Mapping[int, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)


Check = Callable[["World", Step, Rows, Shelf], None]


class World:
    """One store and one registry for run after run; `check` sees each step, and what was before."""

    def __init__(self, root: Path, check: Check, tell: Callable[[str], None] | None) -> None:
        self.now = 0.0
        self.rng = random.Random()
        self.fuse = Fuse()
        self.mortal = False
        self.seen: Counter[str] = Counter()
        self._check, self._tell = check, tell
        self.store = Store.open(
            root / "noisewell.sqlite3", lambda: self.now, lambda n: self.rng.randbytes(n).hex()
        )
        self.registry = Registry(root / "models")
        self.fuse.watch(self.store)
        # A look that is no operation: beside the store, so that it burns no fuse.
        self._peek = sqlite3.connect(root / "noisewell.sqlite3", isolation_level=None)
        self._row = namedtuple("Row", [column.name for column in jobs_table.columns])
        self._select = f"SELECT {', '.join(self._row._fields)} FROM jobs ORDER BY id"
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Nothing is left of the run before; the dataset `ds_1` is ready."""
        self.now = 1_000_000.0
        self.rng.seed(seed)
        self.mortal = True
        for table in ("job_events", "jobs", "datasets"):
            self._peek.execute(f"DELETE FROM {table}")
        self._peek.execute(
            "INSERT INTO datasets (id, name, held_name, status, summary, created_at)"
            " VALUES ('ds_1', 'ds_1', 'ds_1', 'ready', '{}', 0)"
        )
        shutil.rmtree(self.registry.root, ignore_errors=True)
        self.rows, self.shelf, self.newest = Rows(datasets=frozenset({"ds_1"})), Shelf(), 0
        self._version = -1

    def close(self) -> None:
        self._peek.close()
        self.store.close()

    def do(
        self, actor: str, name: str, act: Callable[[], T], *, job: Job | None = None, on: Any = None
    ) -> T | None:
        """One operation, and a check of what it left; None if it was refused, raises Died."""
        if self.mortal and self.rng.random() < DEATHS:
            self.fuse.left = self.rng.randrange(1, POINTS)
        answer, how, death = None, "done", None
        try:
            answer = act()
        except REFUSALS as error:
            how, answer = "refused", error
        except Died as error:
            how, death = "died", error
        self.fuse.left = 0
        self._look(Step(actor, name, job, on, how, answer))
        if death is not None:
            raise death
        return answer if how == "done" else None

    def _look(self, step: Step) -> None:
        self.seen[f"{step.name}: {step.how}"] += 1
        if self._tell:
            self._tell(f"{self.now:>12.1f}  {step}")
        rows, shelf = self.rows, self.shelf
        self.rows = self._read_rows()
        if step.name in SHELF_STEPS:
            self.shelf = self._read_shelf()
        self._check(self, step, rows, shelf)

    def _read_rows(self) -> Rows:
        version = self._peek.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:  # nobody committed anything
            return self.rows
        self._version = version
        found = map(self._row._make, self._peek.execute(self._select))
        events: dict[str, list[Event]] = defaultdict(list)
        query = "SELECT job_id, seq, type, data FROM job_events ORDER BY job_id, seq"
        for job_id, seq, kind, data in self._peek.execute(query):
            events[job_id].append((seq, kind, data))
        datasets = self._peek.execute("SELECT id FROM datasets WHERE status = 'ready'")
        return Rows({row.id: row for row in found}, events, frozenset(row[0] for row in datasets))

    def _read_shelf(self) -> Shelf:
        if MODEL not in self.registry.list_models():
            return Shelf()
        versions = self.registry.versions(MODEL)
        runs = {v: self.registry.manifest(MODEL, v)["run_id"] for v in versions}
        return Shelf(runs, self.registry.aliases(MODEL))


@contextmanager
def opened_world(check: Check, tell: Callable[[str], None] | None = None) -> Generator[World]:
    """A world in memory where the system has a directory for that; its fsyncs burn the fuse."""
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as root:
        world = World(Path(root), check, tell)
        try:
            with mock.patch("os.fsync", world.fuse.burn):
                yield world
        finally:
            world.close()
