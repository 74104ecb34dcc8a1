"""Owns the load generator: keep-alive connections that send requests and count what comes back.

It shares its cores with what it measures, so a request costs little: callbacks instead of tasks,
bytes made beforehand, a reader that looks at no more than it must. Run it under `run`.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from app.bench.tally import Result, Steady, Tally, agree, by_the_rule
from app.bench.wire import Answer, AnswerReader, Target

T = TypeVar("T")
Make = Callable[[int], bytes]
Check = Callable[[int, Answer], str | None]
Patience = Callable[[int], float | None]
LEFT = "left"  # how a request is counted whose client hung up as it was told to

_SWEEP_SEC = 0.25
_IDLE_SEC = 3.0  # servers close idle connections after 5: ours are replaced before that
_RECONNECT_SEC = 0.05
_DRAIN_SEC = 10.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way.

    due: when that request was meant to go out, on the clock of `time.perf_counter`; its latency
    counts from there. sent: when it went; None while the connection is idle.
    """

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._reader = AnswerReader()
        self.transport: asyncio.Transport | None = None
        self.patience: asyncio.TimerHandle | None = None
        self.index = -1
        self.due = 0.0
        self.sent: float | None = None
        self.idle_since = 0.0
        self.lost_as = "connection lost"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, index: int, due: float) -> None:
        assert self.transport is not None
        self.index, self.due, self.sent = index, due, time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._reader.feed(data):
                self._load.answered(self, answer)
            if self._reader.midway:
                self._load.begun(self)
        except ValueError as error:
            self.abort(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.lost_as = f"connection lost: {type(exc).__name__}"
        self._load.lost(self)

    def abort(self, reason: str) -> None:
        """Hang up at once; `reason` is what a request on its way is counted as."""
        self.lost_as = reason
        if self.transport is not None:
            self.transport.abort()


class Load:
    """Sends requests from `async with` on, until its end or until `requests` were sent.

    make: index 0, 1, … → the bytes of that request. images: how many a good answer brings.
    check: looks at every answer and says what is wrong with it, or None; slow checks slow the load.
    patience: after how many seconds the client of a request hangs up, None for never; counted as
    LEFT. timeout_sec: a request without an answer for so long is counted as "timed out".
    """

    def __init__(
        self,
        target: Target,
        make: Make,
        connections: int,
        *,
        images: int = 1,
        requests: int | None = None,
        check: Check | None = None,
        patience: Patience | None = None,
        timeout_sec: float = 30,
    ) -> None:
        self.target = target
        self.sent = 0
        self._make = make
        self._max_connections = connections
        self._images = images
        self._requests = requests
        self._given = 0
        self._check = check
        self._patience = patience
        self._timeout_sec = timeout_sec
        self._tally = Tally(time.perf_counter())
        self._connections: set[Connection] = set()
        self._connecting = 0
        self._out = 0
        self._ended = False  # no request is to be sent that is not due yet
        self._quiet = asyncio.Event()  # ended, and nothing is on its way
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._tally = Tally(time.perf_counter())
        self._spawn(self._sweep())
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Send no more, wait for what is on its way for some seconds, hang up."""
        if kind is None:
            await self.drain(_DRAIN_SEC)
        self._ended = True
        for task in self._tasks:
            task.cancel()
        for connection in list(self._connections):
            connection.abort("the load ended")
        await asyncio.sleep(0)

    async def window(self, seconds: float) -> Result:
        """What comes back in the next `seconds`; windows that follow each other lose nothing."""
        await asyncio.sleep(seconds)
        return self.cut()

    def cut(self) -> Result:
        """What came back since the last cut, or since the beginning."""
        now = time.perf_counter()
        result, self._tally = self._tally.result(now), Tally(now)
        return result

    async def drain(self, timeout_sec: float) -> bool:
        """Send no more and wait for what is on its way; False if some of it is still out then."""
        self._ended = True
        self._look_if_quiet()
        return await self.finished(timeout_sec)

    async def finished(self, timeout_sec: float) -> bool:
        """Wait until all `requests` were answered or failed; False if that takes too long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), timeout_sec)
        return self._quiet.is_set()

    @property
    def on_its_way(self) -> int:
        """Requests sent and not answered so far."""
        return self._out

    @property
    def connections(self) -> int:
        return len(self._connections)

    # What connections tell

    def leave(self, connection: Connection) -> None:
        """The client of its request has run out of patience."""
        connection.abort(LEFT)

    def answered(self, connection: Connection, answer: Answer) -> None:
        now = time.perf_counter()
        if connection.sent is None:
            self._tally.errors["an answer nobody asked for"] += 1
            connection.abort("")
            return
        self._came_back(connection, now)
        wrong = None if self._check is None else self._check(connection.index, answer)
        if wrong is None:
            self._tally.answered(answer, now - connection.due, self._images)
        else:
            self._tally.errors[wrong] += 1
        if answer.closes and connection.transport is not None:
            connection.transport.close()
        else:
            self._free(connection)
        self._look_if_quiet()

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection.sent is not None:
            self._tally.errors[connection.lost_as] += 1
            self._came_back(connection, 0.0)
        self._fewer()
        self._look_if_quiet()

    # What kinds of load differ in

    def begun(self, connection: Connection) -> None:
        """A part of the answer has arrived, the rest has not."""

    def _begin(self) -> None:
        raise NotImplementedError

    def _free(self, connection: Connection) -> None:
        """`connection` can take a request."""
        raise NotImplementedError

    def _fewer(self) -> None:
        """There may be room for another connection."""
        raise NotImplementedError

    # What they share

    def _next(self) -> int | None:
        """The next request's index, None when there is to be no more."""
        if self._ended:
            return None
        index = self._given
        self._given += 1
        self._ended = self._given == self._requests
        return index

    def _send(self, connection: Connection, index: int, due: float) -> None:
        self.sent += 1
        self._out += 1
        connection.send(self._make(index), index, due)
        seconds = None if self._patience is None else self._patience(index)
        if seconds is not None:
            loop = asyncio.get_running_loop()
            connection.patience = loop.call_later(seconds, self.leave, connection)

    def _came_back(self, connection: Connection, now: float) -> None:
        self._out -= 1
        connection.sent, connection.idle_since = None, now
        if connection.patience is not None:
            connection.patience.cancel()
            connection.patience = None

    def _has_room(self) -> bool:
        return len(self._connections) + self._connecting < self._max_connections

    def _connect(self) -> None:
        self._connecting += 1
        self._spawn(self._open())

    async def _open(self) -> None:
        loop, target = asyncio.get_running_loop(), self.target
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self), target.host, target.port
            )
        except OSError as error:
            self._tally.errors[f"cannot connect: {type(error).__name__}"] += 1
            await asyncio.sleep(_RECONNECT_SEC)
            self._connecting -= 1
            self._fewer()
            return
        self._connecting -= 1
        self._connections.add(connection)
        connection.idle_since = time.perf_counter()
        self._free(connection)

    def _look_if_quiet(self) -> None:
        if self._ended and not self._out:
            self._quiet.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SEC)
            oldest = time.perf_counter() - self._timeout_sec
            for connection in list(self._connections):
                if connection.sent is not None and connection.sent < oldest:
                    connection.abort("timed out")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class ClosedLoad(Load):
    """Every connection sends its next request when the last one was answered."""

    def _begin(self) -> None:
        for _ in range(self._max_connections):
            self._connect()

    def _free(self, connection: Connection) -> None:
        index = self._next()
        if index is not None:
            self._send(connection, index, time.perf_counter())

    def _fewer(self) -> None:
        if not self._ended and self._has_room():
            self._connect()


class PushLoad(Load):
    """Requests go out when `push` says so; one that finds every connection taken waits for one."""

    def __init__(self, target: Target, make: Make, connections: int, **options: Any) -> None:
        super().__init__(target, make, connections, **options)
        self._idle: list[Connection] = []
        self._backlog: deque[tuple[int, float]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that are due and have no connection."""
        return len(self._backlog)

    def push(self, due: float) -> None:
        """The next request goes out now; its latency counts from `due` (`time.perf_counter`)."""
        index = self._next()
        if index is None:
            return
        while self._idle:
            connection = self._idle.pop()
            if due - connection.idle_since < _IDLE_SEC:
                self._send(connection, index, due)
                return
            connection.abort("")
        self._backlog.append((index, due))
        if self._has_room():
            self._connect()

    def _begin(self) -> None:
        """Connections are made when they are needed."""

    def _free(self, connection: Connection) -> None:
        if self._backlog:
            self._send(connection, *self._backlog.popleft())
        else:
            self._idle.append(connection)

    def _fewer(self) -> None:
        self._idle = [c for c in self._idle if c in self._connections]
        if self._backlog and self._has_room():
            self._connect()

    def _look_if_quiet(self) -> None:
        if not self._backlog:
            super()._look_if_quiet()


class OpenLoad(PushLoad):
    """Requests go out at `rate` a second whatever comes back, to about a millisecond.

    spacing: "poisson", or "even". seed: of the Poisson gaps. gap: seconds to the next request.
    """

    def __init__(
        self,
        target: Target,
        make: Make,
        connections: int,
        rate: float,
        spacing: Literal["poisson", "even"] = "poisson",
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(target, make, connections, **options)
        draw = random.Random(seed)
        even = spacing == "even"
        self.gap: Callable[[], float] = lambda: 1 / rate if even else draw.expovariate(rate)

    def _begin(self) -> None:
        self._spawn(self._pace())

    async def _pace(self) -> None:
        due = time.perf_counter()
        while not self._ended:
            due += self.gap()
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.push(due)


async def steady(load: Load, window_sec: float = 3.0, max_windows: int = 10) -> Steady:
    """Windows until three in a row agree; see `tally.by_the_rule` and whether it `settled`."""
    windows: list[Result] = []
    while len(windows) < max_windows and not agree([w.per_sec for w in windows]):
        windows.append(await load.window(window_sec))
    return by_the_rule(windows)


async def fetch(target: Target, request: bytes, timeout_sec: float = 30) -> Answer:
    """One request on a connection of its own. Raises ConnectionError if no answer comes."""
    where = f"{target.host}:{target.port}"
    try:
        async with asyncio.timeout(timeout_sec):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                writer.write(request)
                return await _first_answer(reader)
            finally:
                writer.close()
    except TimeoutError:
        raise ConnectionError(f"{where} did not answer within {timeout_sec:g} s") from None
    except (OSError, ValueError) as error:
        raise ConnectionError(f"{where}: {error}") from error


async def _first_answer(reader: asyncio.StreamReader) -> Answer:
    answers = AnswerReader()
    while data := await reader.read(65_536):
        if got := answers.feed(data):
            return got[0]
    raise ConnectionError("the connection ended before an answer")
