"""Owns what a connection may do before the service sees a request: sizes, framing, deadlines.

uvicorn waits for ever for a head, a body or a reader, and keeps a head of any size. Here whoever
goes too far gets one problem document and is hung up on, counted, and at a bounded rate logged.
Requests as they should be must not pay for it: a connection has one timer, which looks every few
seconds at what is waited for.
"""

import asyncio
import math
import secrets
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any, cast

import structlog
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app import problems
from app.errors import (
    CrowdedError,
    HeadTooLargeError,
    MalformedError,
    NoisewellError,
    SlowBodyError,
    SlowHeadError,
    SlowReaderError,
    TargetTooLongError,
)
from app.guards import guarded
from app.metrics import Metrics
from app.settings import Settings

BODY_BYTES_PER_SEC = 262_144  # each so many that arrive buy a body another second
_SLICE_BYTES = 32_768  # what the parser is given at once, at most; a head in one needs no count
_MAX_PIPELINED = 100
_MAX_ANSWERS = 100  # kept; details hold no more than a reason of the parser, or a setting
_CROWD = 64  # connections beyond the cap that are told why; who comes after them is not
_LINGER_SEC = 1.0  # for a client that is sending still to read why it is hung up on
_DISCARDED_BYTES = 4_000_000  # what it may send meanwhile, or after an answer that came early
_LOOKS = 4  # in the time that a reader may take nothing
_MOST_LOOKS = 16  # in the shortest deadline: a body buys its seconds one by one
_LOG_SEC = 1.0  # between lines about one cause
_AT_ONCE = struct.pack("ii", 1, 0)

# What is expected of the client next
_NOTHING, _REQUEST, _HEAD, _BODY = range(4)

log = structlog.get_logger(__name__)


class Refusals:
    """Counts who was refused and why, and logs the first of each second by cause.

    Answers are kept: thousands may have to be refused in a moment, and most for the same reason.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._answers: dict[tuple[str, str], bytes] = {}
        self._told: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def answered(self, error: NoisewellError, client: str | None) -> None:
        """A request was answered with `error`."""
        self._metrics.request("other", error.status)
        self.cut(error.code, client)

    def cut(self, cause: str, client: str | None) -> None:
        """A connection was ended for `cause`."""
        self._metrics.rejected(cause)
        times = self._untold[cause] = self._untold.get(cause, 0) + 1
        now = time.monotonic()
        if now - self._told.get(cause, -math.inf) >= _LOG_SEC:
            self._told[cause], self._untold[cause] = now, 0
            log.warning("refused a connection", cause=cause, client=client, times=times)

    def answer(self, error: NoisewellError) -> bytes:
        """The headers that it always has, and the body."""
        found = self._answers.get((error.code, error.detail))
        if found is None:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            response = problems.of(error, shared=True)
            headers = [*guarded(response.raw_headers), (b"connection", b"close")]
            found = _lines(headers) + b"\r\n" + bytes(response.body)
            self._answers[error.code, error.detail] = found
        return found


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class _Flow(FlowControl):
    """Flow control, with a clock that stands still while the client is kept from sending."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)
        self._now = loop.time
        self._stood_sec = self._paused_at = 0.0

    def clock(self) -> float:
        return (self._paused_at if self.read_paused else self._now()) - self._stood_sec

    def pause_reading(self) -> None:
        if not self.read_paused:
            self._paused_at = self._now()
        super().pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self._stood_sec += self._now() - self._paused_at
        super().resume_reading()


class Protocol(HttpToolsProtocol):
    """One connection."""

    _flow: _Flow  # uvicorn's `flow`

    def __init__(self, settings: Settings, refusals: Refusals, **made_by_uvicorn: Any) -> None:
        super().__init__(**made_by_uvicorn)
        self._settings = settings
        self._refusals = refusals
        self._slice_bytes = min(_SLICE_BYTES, settings.max_header_bytes)
        self._shortest_sec = min(
            settings.max_header_sec,
            settings.max_body_sec,
            settings.max_unread_sec / _LOOKS,
            self.timeout_keep_alive,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._waiting: Any = None  # the application, for as much of a body as is kept
        self.url = b""
        # What is expected of the client since when, on the clock of `_flow`.
        self._expected, self._since = _REQUEST, 0.0
        # Of the request that is arriving: the list of headers as the present read began, whole
        # reads that brought no end of a head and no byte of a body, bytes of the body.
        self._held: list[tuple[bytes, bytes]] | None = None
        self._barren_bytes = self._body_bytes = self._discarded_bytes = 0
        # deaf: nothing is parsed any more. refusal: what the client will be told, once answers
        # that were begun before are through. over: it was told, and it has a second to go.
        self._why: NoisewellError | None = None
        self._refusal: NoisewellError | None = None
        self._deaf = self._over = False
        # What waited to be read when there was last a look, and since when nothing of it was.
        self._unread, self._unread_since = 0, 0.0

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self.flow = self._flow = _Flow(self.transport, self.loop)
        self._since = self._flow.clock()
        self._look_in(self._shortest_sec)
        crowd = len(self.connections) - self._settings.max_connections
        if crowd > _CROWD:
            self.transport.abort()
        elif crowd > 0:
            self._refuse(
                CrowdedError(
                    f"{self._settings.max_connections} connections are open, and max_connections"
                    " allows no more; try again"
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:  # uvicorn tells the newest alone, which may wait for this
            _leave(self._answering)
        super().connection_lost(exc)
        # What refers to each other is garbage that a service looks for seldom (`server.py`).
        self._timer = self._why = self._refusal = self._waiting = self._running = None
        self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        if len(data) <= self._slice_bytes:
            self._feed(data)
            return
        whole = memoryview(data)
        for start in range(0, len(data), self._slice_bytes):
            self._feed(whole[start : start + self._slice_bytes])

    def _feed(self, data: bytes | memoryview) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        self._held, came = self.headers, self._body_bytes + self._discarded_bytes
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess]
        except HttpParserUpgrade:  # to nothing that is spoken here: answered as if not asked for
            return
        except HttpParserError as error:
            # Of all callbacks only what reads the URL may fail without a reason.
            other = isinstance(error, HttpParserCallbackError)
            reason = "its URL cannot be read" if other else str(error)
            self._refuse(self._why or _malformed(reason))
            return
        if self.headers is not self._held:  # a head began or ended
            self._barren_bytes = 0
            if self._expected != _NOTHING:
                self._since = self._flow.clock()
        elif self._body_bytes + self._discarded_bytes != came:
            self._barren_bytes = 0
        else:
            self._barren(len(data))

    def _barren(self, count: int) -> None:
        """A part of a head or of a trailer, or what stands before a head or between chunks."""
        if self._expected in (_REQUEST, _NOTHING):
            self._expected, self._since = _HEAD, self._flow.clock()
        self._barren_bytes += count
        if self._barren_bytes > self._settings.max_header_bytes:
            self._refuse(self._too_large())

    def _discard(self, count: int) -> None:
        self._discarded_bytes += count
        if self._discarded_bytes > _DISCARDED_BYTES:
            self._flow.pause_reading()

    # What the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expected = _HEAD

    def on_headers_complete(self) -> None:
        self._why = self._wrong_with_head()
        if self._why is not None:
            raise self._why  # which the parser does not hand on
        super().on_headers_complete()
        if self.parser.should_upgrade():  # pyright: ignore[reportOptionalMemberAccess]
            self.cycle.keep_alive = False
        self._expected, self._body_bytes = _BODY, 0
        self.headers = []  # trailers would pass for headers that were looked at

    def _wrong_with_head(self) -> NoisewellError | None:
        settings, headers = self._settings, self.headers
        if headers is self._held and self._head_bytes() > settings.max_header_bytes:
            return self._too_large()
        if len(headers) > settings.max_headers:
            return HeadTooLargeError(
                f"the request has more than the {settings.max_headers} headers that max_headers"
                " allows; send fewer"
            )
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not hosts[0]:
            http_1_0 = self.parser.get_http_version() == "1.0"  # pyright: ignore[reportOptionalMemberAccess]
            if hosts or not http_1_0:
                return _malformed("expected one Host header that names a host")
        if len(self.pipeline) >= _MAX_PIPELINED:
            return CrowdedError(
                f"{_MAX_PIPELINED} requests of this connection wait for their turn; read their"
                " answers before sending more"
            )
        return None

    def _head_bytes(self) -> int:
        """What came of the head so far, but for spaces and its first words."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discard(len(body))
            if self._discarded_bytes > _DISCARDED_BYTES:
                self._hang_up()
            return
        self._body_bytes += len(body)
        super().on_body(body)
        if self._waiting is not None and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._start()

    def on_message_complete(self) -> None:
        self._expected = _NOTHING
        super().on_message_complete()
        if self._waiting is not None:
            self._start()

    # What the answers tell

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Once the body is whole, or as much of it as is kept: a slow one costs no task."""
        self._running, self._waiting = cycle, app
        asks = cycle.waiting_for_100_continue
        if asks or not cycle.more_body or len(cycle.body) > HIGH_WATER_LIMIT:
            self._start()

    def _start(self) -> None:
        cycle, app, self._waiting = self._running, self._waiting, None
        assert cycle is not None
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each request: the look at deadlines sees to that."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._tell(self._refusal)
        elif self._expected == _NOTHING:
            self._since = self._flow.clock()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread, self._unread_since = self.transport.get_write_buffer_size(), self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = 0

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """Whose answer is being made; None if nobody is to be answered now."""
        cycle = self._running
        done = cycle is None or cycle.response_complete or cycle.disconnected
        return None if done else cycle

    # Deadlines

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Whether anything has taken too long; no deadline can pass before the next look."""
        if self._over:
            self.transport.abort()
            return
        if self._sender_left() <= 0:
            self._too_slow()
        reader_left = self._reader_left()
        if reader_left <= 0:
            self._refusals.cut(SlowReaderError.code, self._peer)
            self._reset()
        elif not self._over:
            left = min(self._sender_left(), reader_left, self._shortest_sec)
            self._look_in(max(left, self._shortest_sec / _MOST_LOOKS))

    def _sender_left(self) -> float:
        """Seconds that the client has for what is expected of it."""
        if self._deaf or (self._expected == _NOTHING and self._answering):
            return math.inf
        if self._expected == _NOTHING:
            given = self.timeout_keep_alive
        elif self._expected == _BODY:
            given = self._settings.max_body_sec + self._body_bytes / BODY_BYTES_PER_SEC
        else:
            given = self._settings.max_header_sec
        return self._since + given - self._flow.clock()

    def _reader_left(self) -> float:
        """Seconds that the client has to take something of what waits for it."""
        unread, now = self.transport.get_write_buffer_size(), self.loop.time()
        if unread < self._unread or not self._unread:
            self._unread_since = now
        self._unread = unread
        return self._settings.max_unread_sec - (now - self._unread_since) if unread else math.inf

    def _reset(self) -> None:
        """Drop also what the system holds for a client that does not take it."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    def _too_slow(self) -> None:
        if self._expected in (_REQUEST, _NOTHING):  # browsers connect to be quicker later
            self.transport.close()
        elif self._expected == _HEAD:
            self._refuse(
                SlowHeadError(
                    "the head of the request took longer than the"
                    f" {self._settings.max_header_sec:g} s that max_header_sec allows"
                )
            )
        else:
            self._refuse(
                SlowBodyError(
                    f"the body took longer than the {self._settings.max_body_sec:g} s that"
                    f" max_body_sec allows, and one more for each {BODY_BYTES_PER_SEC} bytes of it;"
                    " send it faster, or in smaller parts"
                )
            )

    # Refusals

    def _too_large(self) -> NoisewellError:
        most = self._settings.max_header_bytes
        if self._expected == _BODY:
            return HeadTooLargeError(
                f"what stands between the chunks of the body, or after them, is over the {most}"
                " bytes that max_header_bytes allows; send it as headers, or not at all"
            )
        if len(self.url) > most // 2:
            return TargetTooLongError(
                f"URL and headers are over the {most} bytes that max_header_bytes allows; send what"
                " is long in a body"
            )
        return HeadTooLargeError(
            f"the head of the request is over the {most} bytes that max_header_bytes allows; send"
            " fewer or shorter headers"
        )

    def _refuse(self, error: NoisewellError) -> None:
        """Read nothing more, answer `error` after what was begun before, and hang up."""
        self._deaf = True
        if self._expected == _BODY and not self._take_back():
            self._refusals.cut(error.code, self._peer)
            self._hang_up()
            return
        self._refusals.answered(error, self._peer)
        self._refusal = error
        if self._answering is None:
            self._tell(error)

    def _take_back(self) -> bool:
        """The request whose body was arriving: its client is gone. Whether it can be answered."""
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
            return True
        _leave(self.cycle)
        return not self.cycle.response_started

    def _tell(self, error: NoisewellError) -> None:
        named = (b"x-request-id", secrets.token_hex(8).encode())
        moment = _lines([*self.server_state.default_headers, named])
        self._refusal = None
        self.transport.write(STATUS_LINE[error.status] + moment + self._refusals.answer(error))
        self._hang_up()

    def _hang_up(self) -> None:
        """End the sending side, so that the client reads why; a moment later, all of it."""
        self._deaf = self._over = True
        if not self.transport.is_closing():
            self.transport.write_eof()
        self._look_in(_LINGER_SEC)

    @property
    def _peer(self) -> str | None:
        return self.client[0] if self.client else None


def _leave(cycle: RequestResponseCycle) -> None:
    """Its application is told that the client has left, which waits for no 100 Continue either."""
    cycle.disconnected = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()


def _malformed(reason: str) -> MalformedError:
    return MalformedError(f"this is no HTTP/1.1 request as it should be: {reason}")
