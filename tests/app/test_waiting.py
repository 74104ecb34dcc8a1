import asyncio
import random
from collections.abc import Iterator
from typing import Any, cast

import pytest

from app.engine import Loaded
from app.errors import QueueFullError
from app.waiting import Part, Ticket, WaitingRoom
from training.model.sampling import Sampler


class Costs:
    """A sampler's costs alone: a millisecond an image, in batches of up to `largest`."""

    def __init__(self, largest: int = 8) -> None:
        self.largest = largest

    def bucket(self, n: int) -> int:
        return min(n, self.largest)

    def seconds(self, n: int) -> float:
        return 0.001 * n


def version(number: int = 1, largest: int = 8) -> Loaded:
    return Loaded("toy", number, "", (), {}, cast(Sampler, Costs(largest)), "")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Queue:
    """A waiting room and tickets for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **limits: Any) -> None:
        self._loop = loop
        self.room = WaitingRoom(**{"max_images": 1000, "max_wait_sec": 2.0, **limits})
        self.toy = version()

    def add(self, n: int, caller: str = "", loaded: Loaded | None = None, **more: Any) -> Ticket:
        at = more.pop("queued_at", 0.0)
        ticket = Ticket(loaded or self.toy, n, caller, at, self._loop.create_future(), **more)
        self.room.add(ticket)
        return ticket

    def take(self, most: int = 8) -> list[tuple[Ticket, int]]:
        return [(ticket, size((ticket, part))) for ticket, part in self.room.take(most)]


def size(part: Part) -> int:
    return part[1].stop - part[1].start


@pytest.fixture
def queue(loop: asyncio.AbstractEventLoop) -> Queue:
    return Queue(loop)


# Turns


def test_who_came_first_is_served_first(queue: Queue) -> None:
    tickets = [queue.add(3) for _ in range(4)]
    assert queue.take() == [(tickets[0], 3), (tickets[1], 3), (tickets[2], 2)]
    assert queue.take() == [(tickets[2], 1), (tickets[3], 3)]
    assert queue.take() == []


def test_a_request_larger_than_a_batch_goes_behind_the_others_of_its_caller(queue: Queue) -> None:
    large, small = queue.add(20), queue.add(1)
    assert queue.take() == [(large, 8)]
    assert queue.take() == [(small, 1), (large, 7)]
    assert queue.take() == [(large, 5)]


def test_nobodys_many_requests_stand_before_somebody_elses_one(queue: Queue) -> None:
    many = [queue.add(1, "a") for _ in range(100)]
    one = queue.add(1, "b")
    assert queue.take() == [*((ticket, 1) for ticket in many[:4]), (one, 1)] + [
        (ticket, 1) for ticket in many[4:7]
    ]


def test_callers_share_a_batch_alike_and_what_one_leaves_goes_to_the_others(queue: Queue) -> None:
    a, b, c = queue.add(50, "a"), queue.add(1, "b"), queue.add(50, "c")
    taken = queue.take()
    assert {ticket: sum(n for t, n in taken if t is ticket) for ticket in (a, b, c)} == {
        a: 4,
        b: 1,
        c: 3,
    }


def test_whose_turn_is_first_goes_round(queue: Queue) -> None:
    a, b = queue.add(100, "a"), queue.add(100, "b")
    assert [queue.take(1)[0][0] for _ in range(4)] == [a, b, a, b]


def test_a_batch_is_of_one_version_and_no_version_starves(queue: Queue) -> None:
    other = version(2)
    first, second = queue.add(20), queue.add(1, loaded=other)
    queue.add(20)
    served = [queue.take() for _ in range(3)]
    assert all(len({ticket.loaded.version for ticket, _ in batch}) == 1 for batch in served)
    assert served[0][0][0] is first
    assert served[1] == [(second, 1)]


def test_a_batch_is_as_large_as_is_cheapest(queue: Queue) -> None:
    lone = queue.add(3, loaded=version(largest=2))
    assert queue.take() == [(lone, 2)]


def test_who_leaves_is_forgotten_and_shifts_nobody(queue: Queue) -> None:
    first, gone, last = (queue.add(3) for _ in range(3))
    queue.room.remove(gone)
    assert queue.room.images == 6
    assert queue.take() == [(first, 3), (last, 3)]
    queue.room.remove(first)  # too late: nothing of it is left here
    assert queue.room.images == 0


def test_who_leaves_in_the_middle_takes_the_rest_along(queue: Queue) -> None:
    large = queue.add(20)
    queue.take()
    queue.room.remove(large)
    assert (queue.room.images, queue.take()) == (0, [])


# Who is let in


def test_a_queue_is_bounded_in_images(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue(loop, max_images=10)
    queue.add(8)
    with pytest.raises(QueueFullError, match=r"8 images are waiting.*max_queue_size is 10"):
        queue.add(3)
    queue.add(2)
    queue.take()
    queue.add(3)


def test_who_would_wait_too_long_is_told_at_once_for_how_long(queue: Queue) -> None:
    queue.room = WaitingRoom(max_images=10_000, max_wait_sec=1.0)
    queue.add(900)
    with pytest.raises(QueueFullError, match=r"about 0\.9 s; max_queue_wait_ms is 1000") as told:
        queue.add(1)
    assert told.value.retry_after_sec == pytest.approx(0.9)


def test_the_wait_is_the_queues_cost_times_how_slow_batches_are_by_now(queue: Queue) -> None:
    queue.add(100)
    queue.add(50, loaded=version(2))
    assert queue.room.wait_sec() == pytest.approx(0.15)
    for _ in range(200):
        queue.room.learn(expected_sec=0.008, actual_sec=0.024)
    assert queue.room.wait_sec() == pytest.approx(0.45, rel=1e-3)


def test_the_later_part_of_a_stream_is_let_in_and_never_late(queue: Queue) -> None:
    queue.room = WaitingRoom(max_images=1, max_wait_sec=1.0)
    queue.add(1)
    part = queue.add(500, admitted=True)
    assert [ticket.n for ticket in queue.room.pop_late(now=100.0)] == [1]
    assert queue.take()[0][0] is part


def test_what_waited_too_long_is_taken_out_unless_it_began(queue: Queue) -> None:
    begun = queue.add(20)
    queue.take()
    late = [queue.add(1, caller) for caller in "aab"]
    fresh = queue.add(1, queued_at=1.5)
    assert queue.room.pop_late(now=2.5) == late
    assert queue.room.images == 13
    assert {ticket for _ in range(2) for ticket, _ in queue.take()} == {begun, fresh}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_the_count_is_right_and_all_are_served(
    loop: asyncio.AbstractEventLoop, seed: int
) -> None:
    chance, queue = random.Random(seed), Queue(loop, max_images=10**6, max_wait_sec=1e6)
    versions = [version(1), version(2, largest=4)]
    waiting: dict[Ticket, int] = {}
    for _ in range(400):
        what = chance.random()
        if what < 0.5:
            n = chance.choice([1, 1, 2, 9, 30])
            waiting[queue.add(n, chance.choice("abc"), chance.choice(versions))] = n
        elif what < 0.6 and waiting:
            gone = chance.choice(list(waiting))
            queue.room.remove(gone)
            del waiting[gone]
        else:
            batch = queue.take()
            assert len({ticket.loaded.version for ticket, _ in batch}) <= 1
            for ticket, n in batch:
                waiting[ticket] -= n
        assert queue.room.images == sum(waiting.values())
    while batch := queue.take():
        for ticket, n in batch:
            waiting[ticket] -= n
    assert set(waiting.values()) <= {0}
