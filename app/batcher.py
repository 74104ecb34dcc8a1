"""Owns the way from many requests to one generator call and back to each caller.

One thread takes from a bounded queue whenever the device is free: no timer, no polling. What
arrives while a batch runs forms the next one. Files are made in a small pool beside it, those of a
batch together, and the event loop is woken once for all of them.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from app import png
from app.ask import Ask, join_classes
from app.engine import Loaded
from app.errors import UnavailableError
from app.machine import is_device_broken, is_out_of_memory
from app.metrics import Outcome
from app.waiting import Part, Ticket, WaitingRoom
from training.model.sampling import Classes, Latents, Pixels

T = TypeVar("T")
Results = list[tuple[Ticket, Any]]

_PARTS_AHEAD = 2  # of a stream: one that is being sent, one that is being made
_LATE_SEC = 0.02  # a request that waited longer means that the device does not keep up
_MAX_PART_BYTES = 16_000_000  # of pixels


class BatchObserver(Protocol):
    """What the batcher tells of itself; called from its own threads."""

    def batch(
        self, model: str, version: int, images: int, waited_sec: Sequence[float], compute_sec: float
    ) -> None:
        """A generator call ended."""
        ...

    def done(self, model: str, version: int, outcome: Outcome, seconds: float) -> None:
        """A request that was let in is over, so long after it came; told by the event loop."""
        ...

    def encoded(self, seconds: float) -> None:
        """The answers of a batch were made."""
        ...


class Batcher:
    """Requests come from the event loop; everything else happens in the batcher's threads."""

    def __init__(
        self,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_wait_ms: float,
        max_queue_delay_ms: float,
        observer: BatchObserver,
        encoder_threads: int = 2,
        pressure: Callable[[bool], None] = lambda on: None,
        die: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """pressure: told by the batcher's thread whether requests wait, so that others give way.
        die: told when the device is broken.
        """
        self._max_batch_size = max_batch_size
        self._max_wait_sec = max_queue_wait_ms / 1000
        self._delay_sec = max_queue_delay_ms / 1000
        self._observer = observer
        self._pressure = pressure
        self._die = die
        self._busy_since: float | None = None
        self._waiting = WaitingRoom(max_queue_size, self._max_wait_sec)
        self._closing = False
        self._changed = threading.Condition()
        self._drawer = ThreadPoolExecutor(1, thread_name_prefix="drawer")
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
        self._drawer.shutdown()
        self._encoders.shutdown()

    @property
    def alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._closing

    @property
    def broken(self) -> bool:
        """Whether its thread ended though nobody closed it."""
        return not self._thread.is_alive() and not self._closing

    @property
    def busy_sec(self) -> float:
        """For how long the batch it is at has been running; 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def queued_images(self) -> int:
        """Images asked for and not yet generated."""
        with self._changed:
            return self._waiting.images

    # Requests

    def check(self) -> None:
        """Raises QueueFullError if nothing more would be let in just now."""
        with self._changed:
            self._waiting.check()

    def png(self, ask: Ask, caller: str = "") -> "asyncio.Future[bytes]":
        """The PNG of an ask for one image. Cancelling it frees its place in the queue.

        Raises QueueFullError at once; the future, UnavailableError after waiting too long.
        """
        self.check()  # a refusal must not cost a draw
        # Drawn here: 64 numbers take a few microseconds, and waiting for the interpreter's lock in
        # another thread, which numpy gives up for each draw, takes a hundred.
        return self._enqueue(self._ticket(ask.loaded, 1, caller, ask=ask, inputs=ask.draw()))

    async def submit(
        self,
        loaded: Loaded,
        n: int,
        draw: Callable[[], tuple[Latents, Classes]],
        finish: Callable[[Pixels, Classes], T],
        caller: str = "",
    ) -> T:
        """Generate n images and return what `finish` makes of them, (n, H, W, C) and classes (n,).

        `draw` gives latents (n, z_dim) and classes. Both run in threads of the batcher, and what
        they raise is raised here. Cancelling the call frees its place in the queue at once.
        Raises QueueFullError at once, UnavailableError after waiting too long.
        """
        return await self._enqueue(self._ticket(loaded, n, caller, finish=finish), draw)

    async def stream(
        self,
        loaded: Loaded,
        n: int,
        draw_part: Callable[[slice], tuple[Latents, Classes]],
        finish_part: Callable[[Pixels, Classes, int], T],
        caller: str = "",
    ) -> AsyncGenerator[T, None]:
        """Generate n images in parts, in order: `draw_part(rows)`, `finish_part(images, c, start)`.

        Made as they are taken, so that any n needs the memory of a few parts. The first part is
        let in as a request of its size would be; later ones always are, and never wait too long.
        """
        size = self._part_size(loaded)
        starts = deque(range(0, n, size))
        ahead: deque[asyncio.Future[T]] = deque()
        try:
            while starts or ahead:
                while starts and len(ahead) < _PARTS_AHEAD:
                    start = starts.popleft()
                    ahead.append(
                        self._part(
                            loaded, start, min(size, n - start), draw_part, finish_part, caller
                        )
                    )
                yield await ahead.popleft()
        finally:
            for future in ahead:
                future.cancel()

    def _part(
        self,
        loaded: Loaded,
        start: int,
        n: int,
        draw_part: Callable[[slice], tuple[Latents, Classes]],
        finish_part: Callable[[Pixels, Classes, int], T],
        caller: str,
    ) -> "asyncio.Future[T]":
        def finish(images: Pixels, c: Classes) -> T:
            return finish_part(images, c, start)

        rows = slice(start, start + n)
        ticket = self._ticket(loaded, n, caller, finish=finish, admitted=start > 0)
        return self._enqueue(ticket, lambda: draw_part(rows))

    def _part_size(self, loaded: Loaded) -> int:
        config = loaded.sampler.config
        image_bytes = config.img_resolution**2 * config.img_channels
        return max(1, min(self._max_batch_size, _MAX_PART_BYTES // image_bytes))

    def _ticket(self, loaded: Loaded, n: int, caller: str, **work: Any) -> Ticket:
        future = asyncio.get_running_loop().create_future()
        return Ticket(loaded, n, caller, time.monotonic(), future, **work)

    def _enqueue(
        self, ticket: Ticket, draw: Callable[[], tuple[Latents, Classes]] | None = None
    ) -> "asyncio.Future[Any]":
        with self._changed:
            if self._closing:
                raise UnavailableError("the service is shutting down; ask another replica")
            self._waiting.add(ticket)
            if draw is not None:  # while others are before it, so that the device need not wait
                ticket.drawn = self._drawer.submit(draw)
            self._changed.notify()
        ticket.future.add_done_callback(lambda future: self._done(ticket, future))
        return ticket.future

    def _done(self, ticket: Ticket, future: "asyncio.Future[Any]") -> None:
        if future.cancelled():
            ticket.cancelled = True
            self._withdraw(ticket)
        loaded, seconds = ticket.loaded, time.monotonic() - ticket.queued_at
        self._observer.done(loaded.model, loaded.version, _outcome(future), seconds)

    def _withdraw(self, ticket: Ticket) -> None:
        with self._changed:
            self._waiting.remove(ticket)

    # The batcher's thread

    def _run(self) -> None:
        while batch := self._next_batch():
            self._busy_since = began = time.monotonic()
            self._pressure(self._is_late(batch, began))
            self._run_batch(batch)
            self._busy_since = None
            images = sum(part.stop - part.start for _, part in batch)
            expected = batch[0][0].loaded.sampler.seconds(images)
            self._waiting.learn(expected, time.monotonic() - began)
            if not self.queued_images:
                self._pressure(False)

    def _is_late(self, batch: list[Part], now: float) -> bool:
        """Whether a batch leaves images waiting for another one, or has waited long itself."""
        waited = now - min(ticket.queued_at for ticket, _ in batch)
        return waited > _LATE_SEC or self.queued_images > 0

    def _next_batch(self) -> list[Part]:
        """Tickets and which images of each come next; empty when closed and drained."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting.images or self._closing)
                if self._delay_sec and not self._closing:
                    self._changed.wait_for(self._is_full, self._delay_sec)
                self._refuse(self._waiting.pop_late(time.monotonic()))
                batch = self._waiting.take(self._max_batch_size)
                if batch or self._closing:
                    return batch

    def _is_full(self) -> bool:
        return self._waiting.images >= self._max_batch_size or self._closing

    def _refuse(self, late: list[Ticket]) -> None:
        error = UnavailableError(
            f"waited longer than max_queue_wait_ms ({self._max_wait_sec * 1000:.0f} ms); "
            "the service is overloaded, try again later",
            retry_after_sec=self._waiting.wait_sec(),
        )
        _settle([(ticket, error) for ticket in late])

    def _run_batch(self, batch: list[Part]) -> None:
        batch = [part for part in batch if self._is_drawn(part[0])]
        if not batch:
            return
        began = time.monotonic()
        singles = [ticket for ticket, _ in batch if ticket.ask is not None]
        others = [part for part in batch if part[0].ask is None]
        try:
            z, c = _inputs([(ticket, slice(1)) for ticket in singles] + others)
            images = _drawn(batch[0][0].loaded, z, c)
        except Exception as error:  # noqa: BLE001 (told to each caller of the batch)
            self._fail([ticket for ticket, _ in batch], self._judged(error))
            return
        waited = [began - ticket.queued_at for ticket, _ in batch]
        took, loaded = time.monotonic() - began, batch[0][0].loaded
        self._observer.batch(loaded.model, loaded.version, len(images), waited, took)
        if singles:
            self._encode(lambda: _pngs(singles, images[: len(singles)], c))
        if complete := _dealt(others, images[len(singles) :]):
            self._encode(lambda: [(ticket, _finished(ticket)) for ticket in complete])

    def _judged(self, error: Exception) -> Exception:
        """What the callers of a batch are told of an error of the device."""
        if is_out_of_memory(error):
            return UnavailableError(
                "the device has no memory for this batch, nor for half of it; a smaller "
                "max_batch_size needs less, and so does a job that is trained elsewhere"
            )
        if is_device_broken(error):
            self._die(f"the device failed: {error}")
            return UnavailableError("the device failed and the service starts again")
        return error

    def _is_drawn(self, ticket: Ticket) -> bool:
        """Whether somebody waits for it still, and its latents are known."""
        if ticket.cancelled or ticket.drawn is None or ticket.inputs is not None:
            return not ticket.cancelled
        try:
            ticket.inputs = ticket.drawn.result()
        except Exception as error:  # noqa: BLE001 (told to its caller)
            self._fail([ticket], error)
            return False
        return True

    def _encode(self, make: Callable[[], Results]) -> None:
        self._encoding.acquire()
        self._encoders.submit(self._answer, make)

    def _answer(self, make: Callable[[], Results]) -> None:
        try:
            began = time.monotonic()
            _settle(make())
            self._observer.encoded(time.monotonic() - began)
        finally:
            self._encoding.release()

    def _fail(self, tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            ticket.cancelled = True
            self._withdraw(ticket)
        _settle([(ticket, error) for ticket in tickets])


def _drawn(loaded: Loaded, z: Latents, c: Classes) -> Pixels:
    """Images; where there is no memory for all at once, in two halves, which have the same bytes.

    Raises what the device raises.
    """
    try:
        return loaded.sampler(z, c)
    except RuntimeError as error:
        if not is_out_of_memory(error) or len(z) < 2:
            raise
    half = len(z) // 2
    return np.concatenate([loaded.sampler(z[:half], c[:half]), loaded.sampler(z[half:], c[half:])])


def _outcome(future: "asyncio.Future[Any]") -> Outcome:
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    if error is None:
        return "success"
    return "late" if isinstance(error, UnavailableError) else "error"


def _inputs(batch: list[Part]) -> tuple[Latents, Classes]:
    """Latents and classes of a batch."""
    latents: list[Latents] = []
    classes: list[Classes] = []
    for ticket, part in batch:
        if ticket.inputs is None:
            raise AssertionError("a batch holds a request whose inputs were not drawn")
        z, c = ticket.inputs
        latents.append(z[part])
        classes.append(c[part])
    return np.concatenate(latents), join_classes(classes)


def _dealt(others: list[Part], images: Pixels) -> list[Ticket]:
    """Give each its images; those that now have all."""
    start = 0
    for ticket, part in others:
        end = start + part.stop - part.start
        ticket.parts.append(images[start:end])
        start = end
    return [ticket for ticket, part in others if part.stop == ticket.n]


def _pngs(tickets: list[Ticket], images: Pixels, c: Classes) -> Results:
    wanted = [i for i, ticket in enumerate(tickets) if not ticket.cancelled]
    try:
        about = [ask.metadata(0, c[i]) for i in wanted if (ask := tickets[i].ask)]
        files = png.encode_many(images[wanted], about)
    except Exception as error:  # noqa: BLE001 (told to each caller of the batch)
        return [(tickets[i], error) for i in wanted]
    return [(tickets[i], file) for i, file in zip(wanted, files, strict=True)]


def _finished(ticket: Ticket) -> Any:
    if ticket.cancelled or ticket.inputs is None or ticket.finish is None:
        return None
    try:
        images = ticket.parts[0] if len(ticket.parts) == 1 else np.concatenate(ticket.parts)
        return ticket.finish(images, ticket.inputs[1])
    except Exception as error:  # noqa: BLE001 (told to its caller)
        return error


def _settle(results: Results) -> None:
    """Hand results or errors to their callers, with one wake-up of the loop for all of them."""
    if not results:
        return

    def settle() -> None:
        for ticket, result in results:
            if ticket.future.done():
                continue
            if isinstance(result, Exception):
                ticket.future.set_exception(result)
            else:
                ticket.future.set_result(result)

    results[0][0].future.get_loop().call_soon_threadsafe(settle)
