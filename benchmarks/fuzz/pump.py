"""Owns the way of raw requests to a service: many at once, and each gets what it is due.

Plain ones go behind each other over connections that stay. Whatever else there is (cut, split,
refused by the parser, a stream) has a connection to itself, which ends with it.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from app.bench.wire import Answer, AnswerReader, Target
from benchmarks.fuzz.shots import Shot

LINES, LONES, DEPTH = 4, 6, 16
DEADLINE_SEC = 15.0
_AHEAD = 64
_IDLE_SEC = 2.0  # a service ends connections that are idle for 5
_SWEEP_SEC = 0.5

Check = Callable[[Shot, Answer], str | None]


@dataclass
class Tally:
    """What came back.

    statuses: of answers; `cut` is what had no end, so that nothing was due, and `closed` what was
    refused without a word. worst: of each kind of trouble the shortest request.
    """

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    troubles: Counter[str] = field(default_factory=Counter[str])
    worst: dict[str, Shot] = field(default_factory=dict[str, Shot])

    def add(self, other: "Tally") -> None:
        self.sent += other.sent
        self.statuses += other.statuses
        self.troubles += other.troubles
        for kind, shot in other.worst.items():
            self._keep(kind, shot)

    def trouble(self, kind: str, shot: Shot) -> None:
        self.troubles[kind] += 1
        self._keep(kind, shot)

    def _keep(self, kind: str, shot: Shot) -> None:
        known = self.worst.get(kind)
        if known is None or len(shot.data) < len(known.data):
            self.worst[kind] = shot


class Pump:
    """Sends all of `shots`; `check` says what is wrong with an answer, `seen` is told each end."""

    def __init__(
        self,
        target: Target,
        shots: Iterator[Shot],
        check: Check,
        seen: Callable[[], None] = lambda: None,
        deadline_sec: float = DEADLINE_SEC,
    ) -> None:
        self.tally = Tally()
        self._target = target
        self._shots = shots
        self._check = check
        self._seen = seen
        self._deadline_sec = deadline_sec
        self._plain: deque[Shot] = deque()
        self._lone: deque[Shot] = deque()
        self._open: set[_Connection] = set()
        self._dry = False
        self._news = asyncio.Event()

    async def run(self) -> Tally:
        """Raises ConnectionError once the service takes no connection any more."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(LINES):
                    group.create_task(self._keep_line())
                for _ in range(LONES):
                    group.create_task(self._keep_lone())
        except* OSError as errors:
            raise ConnectionError(f"the service is gone: {errors.exceptions[0]}") from errors
        finally:
            sweeper.cancel()
        return self.tally

    async def _keep_line(self) -> None:
        while self._wanted(self._plain):
            if self.drained:  # what others have on their way may come back
                self._news.clear()
                await self._news.wait()
            else:
                await self._connect(_Line(self))

    async def _keep_lone(self) -> None:
        while self._wanted(self._lone):
            shot = self._take(self._lone)
            if shot is None:
                self._news.clear()
                await self._news.wait()
            else:
                await self._connect(_Lone(self, shot))

    async def _connect(self, connection: "_Connection") -> None:
        loop = asyncio.get_running_loop()
        where = self._target.host, self._target.port
        self._open.add(connection)
        try:
            await loop.create_connection(lambda: connection, *where)
            await connection.gone.wait()
        finally:
            self._open.discard(connection)

    def _wanted(self, queue: deque[Shot]) -> bool:
        """Whether there is, or may yet be, something of this kind to send."""
        return bool(queue) or not self._dry or any(c.busy for c in self._open if c.plain)

    def _take(self, queue: deque[Shot]) -> Shot | None:
        other = self._lone if queue is self._plain else self._plain
        while not queue and not self._dry and len(other) < _AHEAD:
            shot = next(self._shots, None)
            if shot is None:
                self._dry = True
                self.tell()
                break
            (self._plain if shot.plain else self._lone).append(shot)
        if other:
            self.tell()
        return queue.popleft() if queue else None

    def next(self) -> Shot | None:
        """A plain one."""
        return self._take(self._plain)

    def back(self, shots: deque[Shot]) -> None:
        """They are sent again: the connection that they were on was closed before their turn."""
        self._plain.extend(shots)
        self.tell()

    def tell(self) -> None:
        """Those who wait for something to send look again."""
        self._news.set()
        for connection in self._open:
            if not connection.busy:
                asyncio.get_running_loop().call_soon(connection.fill)

    @property
    def drained(self) -> bool:
        return self._dry and not self._plain

    def answered(self, shot: Shot, answer: Answer, *, last: bool = True) -> None:
        if last:
            self._ends(str(answer.status))
        if (wrong := self._check(shot, answer)) is not None:
            self.tally.trouble(wrong, shot)

    def unanswered(self, shot: Shot, how: str, *, wrong: bool = False) -> None:
        self._ends(how)
        if wrong:
            self.tally.trouble(how, shot)

    def _ends(self, how: str) -> None:
        self.tally.sent += 1
        self.tally.statuses[how] += 1
        self._seen()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SEC)
            late = time.monotonic() - self._deadline_sec
            for connection in list(self._open):
                if connection.busy and connection.moved < late:
                    connection.fail("no answer before the deadline")


class _Connection(asyncio.Protocol):
    """What lines and lone ones share. moved: when anything last happened on it."""

    plain = True

    def __init__(self, pump: Pump) -> None:
        self.pump = pump
        self.gone = asyncio.Event()
        self.moved = time.monotonic()
        self.out: deque[Shot] = deque()
        self.heads: set[int] = set()
        self.reader = AnswerReader(self.heads)
        self.transport: Any = None

    @property
    def busy(self) -> bool:
        return bool(self.out)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.fill()

    def data_received(self, data: bytes) -> None:
        self.moved = time.monotonic()
        try:
            for answer in self.reader.feed(data):
                if self.out:
                    self.take(answer)
        except ValueError as error:
            self.fail(f"no HTTP: {error}"[:80])
        self.fill()

    def fill(self) -> None:
        """Send what may be sent now."""
        raise NotImplementedError

    def take(self, answer: Answer) -> None:
        """The next answer has come."""
        raise NotImplementedError

    def fail(self, how: str) -> None:
        """The request whose turn it is gets no answer that counts."""
        self.pump.unanswered(self.out.popleft(), how, wrong=True)
        self.end()

    def end(self) -> None:
        """Hang up. What was not answered goes another way."""
        rest, self.out = self.out, deque()
        if rest:
            self.pump.back(rest)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.out:
            self.fail("closed without an answer")
        self.gone.set()
        self.pump.tell()


class _Line(_Connection):
    """Plain requests, one behind the other."""

    def __init__(self, pump: Pump) -> None:
        super().__init__(pump)
        self._number = 0

    def fill(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if len(self.out) > DEPTH // 2:
            return
        if not self.out and time.monotonic() - self.moved > _IDLE_SEC:
            self.end()  # another is opened: the service may be about to close this one
            return
        sent: list[bytes] = []
        while len(self.out) < DEPTH and (shot := self.pump.next()) is not None:
            if shot.methods[0] == b"HEAD":
                self.heads.add(self._number + len(self.out))
            self.out.append(shot)
            sent.append(shot.data)
        if sent:
            self.moved = time.monotonic()
            self.transport.write(b"".join(sent))
        elif not self.out and self.pump.drained:
            self.end()

    def take(self, answer: Answer) -> None:
        self.pump.answered(self.out.popleft(), answer)
        self._number += 1
        if answer.closes:
            self.end()


class _Lone(_Connection):
    """One that is by itself."""

    plain = False

    def __init__(self, pump: Pump, shot: Shot) -> None:
        super().__init__(pump)
        self.out.append(shot)
        self._due = shot.due
        self.heads |= {i for i, method in enumerate(shot.methods) if method == b"HEAD"}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        shot = self.out[0]
        self.transport.write(shot.data)
        if not self._due:
            self.pump.unanswered(self.out.popleft(), "cut")
            self.end()

    def fill(self) -> None:
        return

    def data_received(self, data: bytes) -> None:
        if self.out and self.out[0].stream:
            head, _, body = data.partition(b"\r\n\r\n")
            self.take(Answer(int(data[9:12]), head, body, True))
        else:
            super().data_received(data)

    def take(self, answer: Answer) -> None:
        self._due -= 1
        last = answer.closes or not self._due
        self.pump.answered(self.out[0], answer, last=last)
        if last:
            self.out.popleft()
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.out and self.out[0].refused:
            self.pump.unanswered(self.out.popleft(), "closed")
        super().connection_lost(exc)
