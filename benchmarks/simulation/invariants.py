"""Owns what must hold after every step of a simulated run, told apart from the code it checks."""

import json
from collections.abc import Sequence
from typing import Any

from app.store.jobs import Job
from benchmarks.simulation.world import LEASE_SEC, Event, Rows, Shelf, Step, World

ENDS = frozenset({"succeeded", "failed", "cancelled"})
UNDONE = frozenset({"failed", "cancelled"})
RUNS_ON = frozenset({("running", "running")})
GIVEN_BACK = frozenset(("running", after) for after in ("queued", "paused", *UNDONE))
# What a step may make of the one job it is about; a claim is apart, and no other changes any.
MAY = {
    "pause": {("queued", "paused"), ("running", "running")},
    "resume": {("paused", "queued"), ("running", "running")},
    "cancel": {("queued", "cancelled"), ("paused", "cancelled"), ("running", "running")},
    "renew": RUNS_ON,
    "progress": RUNS_ON,
    "tell": RUNS_ON,
    "finish": {("running", end) for end in ENDS},
    "crash": GIVEN_BACK,
    "release": GIVEN_BACK,
    "saved": GIVEN_BACK,
}
# What the last event of a job may be that has just come to a status.
SAYS = {
    "queued": {"queued", "requeued", "resumed"},
    "running": {"started"},
    "paused": {"paused"},
    **{end: {end} for end in ENDS},
}


class BrokenError(Exception):
    """An invariant does not hold."""


def check_step(world: World, step: Step, rows: Rows, shelf: Shelf) -> None:
    """`rows` and `shelf` are as they were before `step`; raises BrokenError."""
    if step.how == "refused":
        _must(rows == world.rows and shelf == world.shelf, "what was refused changed something")
    if step.job is not None:
        _check_fence(world, step, step.job, rows)
    if rows is not world.rows:
        _check_rows(step, rows, world.rows, world.now)
    if shelf is not world.shelf:
        _check_shelf(world, step, shelf, world.shelf)
    if step.how == "done":
        _check_answer(step, rows, world.rows)


def check_end(world: World) -> None:
    """After everything that waits had its turn: each job that was ever accepted has ended."""
    left = [job.id for job in world.rows.jobs.values() if job.status not in ENDS]
    _must(not left, f"{left} never ended")


def _must(holds: object, what: str) -> None:
    if not holds:
        raise BrokenError(what)


# Jobs


def _check_fence(world: World, step: Step, job: Job, rows: Rows) -> None:
    held = _is_holder(job, rows.jobs[job.id])
    if not held:
        world.seen["stale writes"] += 1
        _must(rows == world.rows, f"a stale write of attempt {job.attempt} changed something")
    if step.how == "done":
        _must(step.answer is held, f"a write was answered {step.answer}; its lease: {held}")


def _is_holder(job: Job, row: Any) -> bool:
    return (row.status, row.worker, row.attempt) == ("running", job.worker, job.attempt)


def _check_rows(step: Step, before: Rows, after: Rows, now: float) -> None:
    _must(before.jobs.keys() <= after.jobs.keys(), "a job is lost")
    for job_id, new in after.jobs.items():
        old, told, tells = before.jobs.get(job_id), before.events[job_id], after.events[job_id]
        if old != new or told != tells:
            _check_events(new, told, tells)
            _check_change(step, before, old, new, now)
            _check_said(old, new, told, tells)
    _check_together(after)


def _check_events(job: Any, told: Sequence[Event], tells: Sequence[Event]) -> None:
    _must(tells[: len(told)] == told, f"an event of {job.id} is lost or changed")
    seqs = [seq for seq, _, _ in tells]
    _must(seqs == list(range(1, len(tells) + 1)), f"events of {job.id} have a gap: {seqs}")
    ends = [seq for seq, kind, _ in tells if kind in ENDS]
    expected = [len(tells)] if job.status in ENDS else []
    _must(ends == expected, f"{job.id} is {job.status} and its end events are {ends}")
    lines = [json.loads(data)["line"] for _, kind, data in tells if kind == "line"]
    expected = list(range(1, job.events_told + 1))
    _must(lines == expected, f"{job.id} told {job.events_told} lines, and they are {lines}")


def _check_change(step: Step, before: Rows, old: Any, new: Any, now: float) -> None:
    if old is None:
        run = before.jobs[step.on].run if step.name == "retry" else new.id
        _must(step.name in ("submit", "retry") and new.status == "queued", "a job out of nothing")
        _must(new.run == run, f"{new.id} goes on in {new.run}, not in {run}")
        return
    _must(old.status not in ENDS, f"{old.id} changed after its end")
    _must(new.attempt >= old.attempt, f"the fencing token of {old.id} fell")
    _must(new.events_told >= old.events_told, f"{old.id} forgot what it told")
    _must(not (new.cancel_requested and new.pause_requested), f"{old.id} is to pause and to end")
    if step.name == "claim":
        _check_claimed(step, old, new, now)
    else:
        about = step.job.id if step.job else step.on
        _must(new.id == about, f"{new.id} changed and not {about}")
        change = (old.status, new.status)
        _must(change in MAY.get(step.name, ()), f"{step.name} made {change} of {new.id}")


def _check_claimed(step: Step, old: Any, new: Any, now: float) -> None:
    if old.status == "running":
        _must(old.lease_until < now, f"{old.id} was taken from {old.worker}, whose lease holds")
    else:
        _must(old.status == "queued", f"{old.id} was claimed and is {old.status}")
    if new.status == "running":
        asked = old.cancel_requested or old.pause_requested
        _must(not asked, f"{old.id} was claimed and is to pause or to end")
        holder = (new.worker, new.attempt, new.lease_until)
        expected = (step.actor, old.attempt + 1, now + LEASE_SEC)
        _must(holder == expected, f"{new.id} is held by {holder}, not {expected}")


def _check_said(old: Any, new: Any, told: Sequence[Event], tells: Sequence[Event]) -> None:
    if old is None or _state(old) != _state(new):
        _must(len(tells) > len(told), f"{new.id} changed and no event says so")
    if old is None or old.status != new.status or old.attempt != new.attempt:
        said = tells[-1][1]
        _must(said in SAYS[new.status], f"{new.id} became {new.status}; {said!r} says so")


def _state(job: Any) -> tuple[Any, ...]:
    # A flag that falls as a job ends or is given back is part of that.
    flags = (job.cancel_requested, job.pause_requested) if job.status == "running" else ()
    return (job.status, job.attempt, *flags)


def _check_together(rows: Rows) -> None:
    jobs = rows.jobs.values()
    runs = [job.run for job in jobs if job.status not in UNDONE]
    _must(len(set(runs)) == len(runs), f"two jobs go on in one run: {runs}")
    keys = [job.idempotency_key for job in jobs if job.idempotency_key is not None]
    _must(len(set(keys)) == len(keys), f"two jobs have one key: {keys}")
    needed = {job.dataset_id for job in jobs if job.status not in ENDS}
    _must(needed <= rows.datasets, f"a job needs a dataset that is gone: {needed}")


# Answers


def _check_answer(step: Step, before: Rows, after: Rows) -> None:
    if step.name == "claim":
        _check_turn(step.answer, after)
    elif isinstance(step.answer, Job):
        row = after.jobs[step.answer.id]
        for name in ("status", "attempt", "cancel_requested", "pause_requested", "run"):
            told, stored = getattr(step.answer, name), getattr(row, name)
            _must(told == stored, f"{name} of {row.id} was answered {told} and is {stored}")
    if step.name == "submit" and step.on is not None:
        _check_key(step, before, after)


def _check_turn(claimed: Job | None, after: Rows) -> None:
    waiting = min((job.id for job in after.jobs.values() if job.status == "queued"), default=None)
    if waiting is not None:
        _must(claimed is not None and claimed.id < waiting, f"it was the turn of {waiting}")


def _check_key(step: Step, before: Rows, after: Rows) -> None:
    key, made = step.on, step.answer.id
    earlier = [job for job in before.jobs.values() if job.idempotency_key == key.key]
    if earlier:
        _must(earlier[0].id == made, f"{key.key} made {earlier[0].id} and was answered {made}")
    row = after.jobs[made]
    stored = (row.idempotency_key, row.idempotency_hash)
    _must(stored == (key.key, key.payload_hash), f"{key} was answered with a job of {stored}")


# The registry


def _check_shelf(world: World, step: Step, before: Shelf, after: Shelf) -> None:
    runs = list(after.runs.values())
    _must(len(set(runs)) == len(runs), f"a run is registered twice: {after.runs}")
    gone, new = before.runs.keys() - after.runs.keys(), after.runs.keys() - before.runs.keys()
    _must(gone <= {step.on} if step.name == "delete version" else not gone, f"{gone} vanished")
    _must(len(new) <= (step.name == "register"), f"{step.name} made {new}")
    _must(all(v > world.newest for v in new), f"a number of {new} was used before")
    world.newest = max(world.newest, *new, 0)
    kept = all(before.runs[v] == after.runs[v] for v in before.runs.keys() & after.runs.keys())
    _must(kept, "a registered version changed")
    champion, previous = after.aliases.get("champion"), after.aliases.get("previous")
    _must(champion in after.runs or not after.runs, f"the champion is {champion} of {after.runs}")
    _must(previous is None or previous in after.runs, f"previous is {previous} of {after.runs}")
    _must(previous is None or previous != champion, f"previous is the champion {champion}")
    if step.how == "done":
        _check_moved(step, before, after)


def _check_moved(step: Step, before: Shelf, after: Shelf) -> None:
    champion = after.aliases.get("champion")
    if step.name == "register":
        _must(after.runs[step.answer] == step.on, f"version {step.answer} is of another run")
        _must(champion == before.aliases.get("champion", step.answer), "register moved an alias")
    elif step.name == "promote" and step.answer is False:
        _must(after == before, "a promotion that was not to be moved an alias")
    elif step.name == "promote":
        _must(champion == step.on, f"{step.on} was promoted and the champion is {champion}")
    elif step.name == "rollback":
        _must(champion == before.aliases.get("previous"), f"rolled back to {champion}")
