"""Owns the course of a simulated run: whose turn it is, when the clock jumps, and how it ends."""

from collections import Counter
from functools import partial

from benchmarks.simulation.actors import User, Worker
from benchmarks.simulation.invariants import check_end
from benchmarks.simulation.world import LEASE_SEC, Died, World

WORKERS = 3
TURNS = (8, 40)
JUMPS_SEC = {0.1: 70, LEASE_SEC / 2: 20, LEASE_SEC + 1: 9, -60.0: 1}
KILLS = 0.03  # of all turns of a worker: it is gone between two steps


def play(world: World, seed: int) -> None:
    """One run, from an empty store until every job has ended; raises BrokenError."""
    world.reset(seed)
    user, lines, born = User(world), Counter[str](), 0
    crew: list[Worker] = []
    for _ in range(world.rng.randrange(*TURNS)):
        while len(crew) < WORKERS:
            born += 1
            crew.append(Worker(world, lines, f"w{born}"))
        world.now += world.rng.choices(list(JUMPS_SEC), list(JUMPS_SEC.values()))[0]
        _take_turn(world, user, crew)
    _let_all_end(world)


def _take_turn(world: World, user: User, crew: list[Worker]) -> None:
    actor = world.rng.choice([user, *crew])
    try:
        actor.act()
    except Died:
        if isinstance(actor, Worker):
            crew.remove(actor)
        return
    if isinstance(actor, Worker) and world.rng.random() < KILLS:
        crew.remove(actor)


def _let_all_end(world: World) -> None:
    """Nobody dies any more, what is paused is resumed, and a last worker does what there is."""
    world.mortal = False
    world.now += 100 * LEASE_SEC
    store = world.store
    for job in list(world.rows.jobs.values()):
        if job.status == "paused" or job.pause_requested:
            world.do("user", "resume", partial(store.request_resume, job.id), on=job.id)
    claim = partial(store.claim_job, "last", LEASE_SEC)
    while job := world.do("last", "claim", claim):
        world.do("last", "finish", partial(store.finish_job, job, "succeeded"), job=job)
    check_end(world)
