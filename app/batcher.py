"""Owns the way from many requests to one generator call and back to each caller.

One thread drains a bounded queue whenever the device is free: no timer, no polling. What arrives
while a batch runs forms the next one. Large requests are cut, and take turns with small ones.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine import Loaded
from app.errors import QueueFullError, UnavailableError

T = TypeVar("T")
Latents = NDArray[np.float32]
Classes = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class BatchObserver(Protocol):
    """What the batcher tells of itself; called from its own threads."""

    def batch(self, images: int, waited_sec: Sequence[float], compute_sec: float) -> None:
        """A generator call ended."""
        ...

    def encoded(self, seconds: float) -> None:
        """The answers of a batch were made."""
        ...


@dataclass(eq=False)
class _Ticket:
    """One request in the queue. The batcher's thread alone touches what has a default.

    taken: how many of its images are out of the queue, generated or being generated.
    """

    loaded: Loaded
    n: int
    draw: Callable[[], tuple[Latents, Classes]]
    finish: Callable[[Pixels, Classes], Any]
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    queued_at: float
    cancelled: bool = False
    taken: int = 0
    inputs: tuple[Latents, Classes] | None = None
    parts: list[Pixels] = field(default_factory=list[Pixels])


class Batcher:
    """`submit` from the event loop; everything else happens in the batcher's threads."""

    def __init__(
        self,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_wait_ms: float,
        max_queue_delay_ms: float,
        observer: BatchObserver,
        encoder_threads: int = 2,
    ) -> None:
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_wait_sec = max_queue_wait_ms / 1000
        self._delay_sec = max_queue_delay_ms / 1000
        self._observer = observer
        self._queue: deque[_Ticket] = deque()
        self._queued_images = 0
        self._images_per_sec = 1000.0
        self._closing = False
        self._changed = threading.Condition()
        self._encoders = ThreadPoolExecutor(encoder_threads, thread_name_prefix="encoder")
        self._encoding = threading.Semaphore(2 * encoder_threads)  # bounds what is held in memory
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Answer what is queued, then end. New requests are refused from here on."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._encoders.shutdown()

    @property
    def alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._closing

    @property
    def queued_images(self) -> int:
        """Images asked for and not yet generated."""
        return self._queued_images

    async def submit(
        self,
        loaded: Loaded,
        n: int,
        draw: Callable[[], tuple[Latents, Classes]],
        finish: Callable[[Pixels, Classes], T],
    ) -> T:
        """Generate n images and return what `finish` makes of them, (n, H, W, C) and classes (n,).

        `draw` gives latents (n, z_dim) and classes (n,). Both run in threads of the batcher, and
        what they raise is raised here. Cancelling the call frees its place in the queue at once.
        Raises QueueFullError at once, UnavailableError after waiting too long.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(loaded, n, draw, finish, loop.create_future(), loop, time.monotonic())
        self._enqueue(ticket)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise
        finally:
            ticket.cancelled = True

    def _enqueue(self, ticket: _Ticket) -> None:
        with self._changed:
            if self._closing:
                raise UnavailableError("the service is shutting down; ask another replica")
            if self._queued_images + ticket.n > self._max_queue_size:
                raise QueueFullError(
                    f"{self._queued_images} images are waiting and {ticket.n} more were asked for; "
                    f"max_queue_size is {self._max_queue_size}; try again later",
                    retry_after_sec=self._queued_images / self._images_per_sec,
                )
            self._queue.append(ticket)
            self._queued_images += ticket.n
            self._changed.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._run_batch(batch)

    def _next_batch(self) -> list[tuple[_Ticket, slice]]:
        """Tickets and which images of each come next; empty when closed and drained."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._delay_sec and not self._closing:
                    self._changed.wait_for(self._is_full, self._delay_sec)
                self._drop_departed()
                if self._queue:
                    return self._take()
                if self._closing:
                    return []

    def _is_full(self) -> bool:
        return self._queued_images >= self._max_batch_size or self._closing

    def _drop_departed(self) -> None:
        oldest = time.monotonic() - self._max_wait_sec
        for _ in range(len(self._queue)):
            ticket = self._queue.popleft()
            late = not ticket.taken and ticket.queued_at < oldest
            if ticket.cancelled or late:
                self._queued_images -= ticket.n - ticket.taken
            else:
                self._queue.append(ticket)
            if late and not ticket.cancelled:
                error = UnavailableError(
                    f"waited longer than max_queue_wait_ms ({self._max_wait_sec * 1000:.0f} ms); "
                    "the service is overloaded, try again later",
                    retry_after_sec=self._queued_images / self._images_per_sec,
                )
                _settle([(ticket, error)])

    def _take(self) -> list[tuple[_Ticket, slice]]:
        """Up to a batch of images, all of the version the oldest ticket wants."""
        loaded, room = self._queue[0].loaded, self._max_batch_size
        batch: list[tuple[_Ticket, slice]] = []
        unfinished: list[_Ticket] = []
        skipped: list[_Ticket] = []
        while self._queue and room:
            ticket = self._queue.popleft()
            if ticket.loaded is not loaded:
                skipped.append(ticket)
                continue
            part = slice(ticket.taken, min(ticket.taken + room, ticket.n))
            batch.append((ticket, part))
            room -= part.stop - part.start
            ticket.taken = part.stop
            if ticket.taken < ticket.n:
                unfinished.append(ticket)
        self._queue.extendleft(reversed(skipped))
        self._queue.extend(unfinished)  # behind the others, which keeps large requests from
        self._queued_images -= self._max_batch_size - room  # starving small ones
        return batch

    def _run_batch(self, batch: list[tuple[_Ticket, slice]]) -> None:
        began = time.monotonic()
        batch = [(ticket, part) for ticket, part in batch if _drawn(ticket)]
        if not batch:
            return
        latents, classes = zip(*(_inputs(ticket, part) for ticket, part in batch), strict=True)
        try:
            images = batch[0][0].loaded.sampler(np.concatenate(latents), np.concatenate(classes))
        except Exception as error:  # noqa: BLE001 (told to each caller of the batch)
            self._fail([ticket for ticket, _ in batch], error)
            return
        seconds = time.monotonic() - began
        self._images_per_sec += 0.1 * (len(images) / max(seconds, 1e-6) - self._images_per_sec)
        self._observer.batch(len(images), [began - t.queued_at for t, _ in batch], seconds)
        self._deal(batch, images)

    def _deal(self, batch: list[tuple[_Ticket, slice]], images: Pixels) -> None:
        complete: list[_Ticket] = []
        start = 0
        for ticket, part in batch:
            end = start + part.stop - part.start
            ticket.parts.append(images[start:end])
            start = end
            if part.stop == ticket.n:
                complete.append(ticket)
        if complete:
            self._encoding.acquire()
            self._encoders.submit(self._answer, complete)

    def _answer(self, tickets: list[_Ticket]) -> None:
        try:
            began = time.monotonic()
            _settle([(ticket, _finished(ticket)) for ticket in tickets])
            self._observer.encoded(time.monotonic() - began)
        finally:
            self._encoding.release()

    def _fail(self, tickets: list[_Ticket], error: Exception) -> None:
        for ticket in tickets:
            self._withdraw(ticket)
        _settle([(ticket, error) for ticket in tickets])

    def _withdraw(self, ticket: _Ticket) -> None:
        """Take what is still waiting of it out of the queue."""
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)
                self._queued_images -= ticket.n - ticket.taken


def _drawn(ticket: _Ticket) -> bool:
    if ticket.inputs is None:
        try:
            ticket.inputs = ticket.draw()
        except Exception as error:  # noqa: BLE001 (told to its caller)
            ticket.cancelled = True
            _settle([(ticket, error)])
            return False
    return True


def _inputs(ticket: _Ticket, part: slice) -> tuple[Latents, Classes]:
    if ticket.inputs is None:
        raise AssertionError("a batch holds a request whose inputs were not drawn")
    z, c = ticket.inputs
    return z[part], c[part]


def _finished(ticket: _Ticket) -> Any:
    if ticket.cancelled or ticket.inputs is None:
        return None
    try:
        images = ticket.parts[0] if len(ticket.parts) == 1 else np.concatenate(ticket.parts)
        return ticket.finish(images, ticket.inputs[1])
    except Exception as error:  # noqa: BLE001 (told to its caller)
        return error


def _settle(results: list[tuple[_Ticket, Any]]) -> None:
    """Hand results or errors to their callers, with one wake-up of the loop for all of them."""

    def settle() -> None:
        for ticket, result in results:
            if ticket.future.done():
                continue
            if isinstance(result, Exception):
                ticket.future.set_exception(result)
            else:
                ticket.future.set_result(result)

    results[0][0].loop.call_soon_threadsafe(settle)
