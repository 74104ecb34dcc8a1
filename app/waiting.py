"""Owns the queue before the generator: who is let in, whose turn it is, and how long it will take.

Callers take turns, so that nobody's thousand requests stand before somebody else's one; so do the
requests of one caller that are larger than a batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from app.ask import Ask
from app.engine import Loaded
from app.errors import QueueFullError
from training.model.sampling import Classes, Latents, Pixels, Sampler

Part = tuple["Ticket", slice]

# Above it, who is let in would often have waited too long before being served.
_MARGIN = 0.8
_LEARNING = 0.1


@dataclass(eq=False)
class Ticket:
    """One request for n images of a version: an `ask` for one PNG, or what is `drawn` and `finish`.

    admitted: the later part of a request that was let in, and is not sent away any more.
    taken: how many of its images are out of the queue, generated or being generated.
    """

    loaded: Loaded
    n: int
    caller: str
    queued_at: float
    future: "asyncio.Future[Any]"
    ask: Ask | None = None
    drawn: "Future[tuple[Latents, Classes]] | None" = None
    finish: Callable[[Pixels, Classes], Any] | None = None
    admitted: bool = False
    cancelled: bool = False
    taken: int = 0
    inputs: tuple[Latents, Classes] | None = None
    parts: list[Pixels] = field(default_factory=list[Pixels])


class WaitingRoom:
    """A bounded queue in images. Not thread-safe: the batcher holds its lock around each call."""

    def __init__(self, max_images: int, max_wait_sec: float) -> None:
        self._max_images = max_images
        self._max_wait_sec = max_wait_sec
        self._callers: dict[str, deque[Ticket]] = {}  # in the order of their turns
        self._images: dict[Sampler, int] = {}
        self._slowdown = 1.0  # of a batch under load, against the costs measured at load

    @property
    def images(self) -> int:
        """Images asked for and not yet taken."""
        return sum(self._images.values())

    def wait_sec(self) -> float:
        """How long what waits now will keep the device."""
        return self._slowdown * sum(s.seconds(n) for s, n in list(self._images.items()))

    def learn(self, expected_sec: float, actual_sec: float) -> None:
        """A batch came and went, from being taken to the moment the next one could be."""
        self._slowdown += _LEARNING * (actual_sec / expected_sec - self._slowdown)

    def add(self, ticket: Ticket) -> None:
        """Raises QueueFullError if it would be too many images, or wait too long."""
        if not ticket.admitted:
            self.check(ticket.n)
        self._callers.setdefault(ticket.caller, deque()).append(ticket)
        self._count(ticket, ticket.n)

    def check(self, n: int = 1) -> None:
        """Raises QueueFullError if n more images would not be let in."""
        images, wait = self.images, self.wait_sec()
        if images + n > self._max_images:
            raise QueueFullError(
                f"{images} images are waiting and {n} more were asked for; "
                f"max_queue_size is {self._max_images}; try again later",
                retry_after_sec=wait,
            )
        if wait > _MARGIN * self._max_wait_sec:
            raise QueueFullError(
                f"{images} images are waiting, for about {wait:.1f} s; max_queue_wait_ms is "
                f"{self._max_wait_sec * 1000:.0f}; try again later",
                retry_after_sec=wait,
            )

    def remove(self, ticket: Ticket) -> None:
        """Take out what is left of it, if anything is."""
        queue = self._callers.get(ticket.caller)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            self._count(ticket, ticket.taken - ticket.n)
            self._forget_if_done(ticket.caller)

    def pop_late(self, now: float) -> list[Ticket]:
        """Take out those that have waited too long: nobody would wait for their answer."""
        late: list[Ticket] = []
        for caller, queue in list(self._callers.items()):
            while queue and self._is_late(queue[0], now):
                ticket = queue.popleft()
                self._count(ticket, -ticket.n)
                late.append(ticket)
            self._forget_if_done(caller)
        return late

    def _is_late(self, ticket: Ticket, now: float) -> bool:
        begun = ticket.admitted or ticket.taken > 0
        return not begun and now - ticket.queued_at > self._max_wait_sec

    def take(self, max_images: int) -> list[Part]:
        """The next batch: images of one version, as many as are cheapest to make in one call."""
        first = next(iter(self._callers), None)
        if first is None:
            return []
        loaded = self._callers[first][0].loaded
        room = min(loaded.sampler.bucket(self._images[loaded.sampler]), max_images)
        share = -(-room // len(self._callers))
        batch: list[Part] = []
        for allowance in (share, room):  # then whoever has more, for what others left
            for caller in list(self._callers):
                parts = self._serve(caller, loaded, min(allowance, room), max_images)
                room -= sum(part.stop - part.start for _, part in parts)
                batch.extend(parts)
                self._forget_if_done(caller)
        if first in self._callers:
            self._callers[first] = self._callers.pop(first)  # its turn is over
        return batch

    def _serve(self, caller: str, loaded: Loaded, room: int, most: int) -> list[Part]:
        queue = self._callers[caller]
        parts: list[Part] = []
        skipped: list[Ticket] = []
        unfinished: list[Ticket] = []
        while queue and room:
            ticket = queue.popleft()
            if ticket.loaded is not loaded:
                skipped.append(ticket)
                continue
            part = slice(ticket.taken, min(ticket.taken + room, ticket.n))
            room -= part.stop - part.start
            ticket.taken = part.stop
            self._count(ticket, part.start - part.stop)
            parts.append((ticket, part))
            if ticket.taken < ticket.n:
                unfinished.append(ticket)
        for ticket in unfinished:
            # The rest of what fits a batch comes next, lest its first part has waited for nothing.
            queue.append(ticket) if ticket.n > most else queue.appendleft(ticket)
        queue.extendleft(reversed(skipped))
        return parts

    def _count(self, ticket: Ticket, images: int) -> None:
        sampler = ticket.loaded.sampler
        self._images[sampler] = self._images.get(sampler, 0) + images
        if not self._images[sampler]:
            del self._images[sampler]

    def _forget_if_done(self, caller: str) -> None:
        if not self._callers[caller]:
            del self._callers[caller]
