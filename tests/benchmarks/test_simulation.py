"""The simulation holds what is promised against the real store and registry, and can fail."""

from typing import Any

import pytest
from sqlalchemy import Connection, and_

from app.store import database
from app.store import jobs as store_jobs
from app.store.jobs import Job, JobStore
from app.store.tables import jobs
from benchmarks.simulation.__main__ import simulate
from benchmarks.simulation.invariants import check_step
from benchmarks.simulation.play import play
from benchmarks.simulation.world import opened_world
from training.model.registry import Registry

ENOUGH_RUNS = 300


def told_by(seed: int) -> list[str]:
    lines: list[str] = []
    with opened_world(check_step, lines.append) as world:
        play(world, seed)
    return lines


def test_200_simulated_runs_break_no_promise() -> None:
    found = simulate(range(200))
    assert found.broken is None
    assert found.seen["stale writes"] > 100
    assert found.seen["claim: died"] > 10


def test_a_seed_replays_to_the_letter() -> None:
    assert told_by(11) == told_by(11)
    assert told_by(11) != told_by(12)


def held_by_anyone(job: Any) -> Any:
    return and_(jobs.c.id == job.id, jobs.c.status == "running")


def held_by_any_attempt(job: Any) -> Any:
    return and_(held_by_anyone(job), jobs.c.worker == job.worker)


def silent(*_: object) -> None:
    """In place of what appends an event."""


def free_all(store: JobStore, conn: Connection) -> None:
    """In place of what frees the jobs whose lease has run out."""
    for row in conn.execute(jobs.select().where(jobs.c.status == "running")).mappings():
        store._requeue(conn, Job(**row), "impatience", crashes=0)


SABOTAGE: dict[str, tuple[object, str, Any]] = {
    "no fence": (store_jobs, "_held", held_by_anyone),
    "no attempt in the fence": (store_jobs, "_held", held_by_any_attempt),
    "no lease": (JobStore, "_free_expired", free_all),
    "no transaction": (database, "_begin_sqlite", silent),
    "no events": (store_jobs, "_append", silent),
    "two jobs in one run": (store_jobs, "_check_run_is_free", silent),
    "a key is forgotten": (store_jobs, "_find_made", silent),
    "a run is forgotten": (Registry, "find_run", silent),
}


@pytest.mark.parametrize("rule", SABOTAGE)
def test_a_broken_rule_is_found(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*SABOTAGE[rule])
    found = simulate(range(ENOUGH_RUNS))
    assert found.broken is not None
