import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.bench.load import LEFT, ClosedLoad, OpenLoad, PushLoad, fetch, run, steady
from app.bench.wire import Answer, Target

Handle = Callable[[str], Awaitable[bytes]]


@dataclass
class Server:
    """A real HTTP server of a few lines: `handle` gives the whole answer to a path."""

    handle: Handle
    target: Target
    paths: list[str] = field(default_factory=list)
    connections: int = 0
    most_at_once: int = 0
    now: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.decode().split()[1]
                self.paths.append(path)
                self.now += 1
                self.most_at_once = max(self.most_at_once, self.now)
                answer = await self.handle(path)
                self.now -= 1
                writer.write(answer)
                if not answer or b"connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(handle: Handle) -> AsyncGenerator[Server, None]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = Server(handle, Target("127.0.0.1", sock.getsockname()[1]))
        listening = await asyncio.start_server(server.serve, sock=sock)
        async with listening:
            yield server


def answer(body: bytes = b"ok", status: int = 200, head: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body


async def at_once(path: str) -> bytes:
    return answer(path.encode())


def numbered(target: Target) -> Callable[[int], bytes]:
    return lambda i: target.get(f"/{i}")


def test_every_request_is_sent_once_over_connections_that_are_kept():
    async def main() -> None:
        async with serving(at_once) as server:
            load = ClosedLoad(server.target, numbered(server.target), 4, images=3, requests=100)
            async with load:
                assert await load.finished(5)
                result = load.cut()
            assert sorted(map(int, (path[1:] for path in server.paths))) == list(range(100))
            assert server.connections == 4
            assert (result.statuses, result.images, result.errors) == ({200: 100}, 300, {})

    run(main())


def test_a_closed_loop_has_as_many_requests_on_their_way_as_connections():
    async def slow(path: str) -> bytes:
        await asyncio.sleep(0.01)
        return answer()

    async def main() -> None:
        async with serving(slow) as server:
            async with ClosedLoad(server.target, numbered(server.target), 8) as load:
                result = await load.window(0.3)
            assert server.most_at_once == 8
            assert result.latency_ms(0.5) >= 9  # timers round to milliseconds

    run(main())


def test_statuses_images_and_times_to_come_back_are_counted():
    async def sometimes(path: str) -> bytes:
        full = int(path[1:]) % 4 == 0
        return answer(b"", 503, "retry-after: 3\r\n") if full else answer()

    async def main() -> None:
        async with serving(sometimes) as server:
            load = ClosedLoad(server.target, numbered(server.target), 2, requests=40)
            async with load:
                assert await load.finished(5)
            result = load.cut()
            assert result.statuses == {200: 30, 503: 10}
            assert (result.images, list(result.retry_after_sec)) == (30, [3.0] * 10)

    run(main())


def test_what_the_check_dislikes_is_an_error_and_no_answer():
    def check(index: int, seen: Answer) -> str | None:
        return None if seen.body == f"/{index}".encode() and index % 2 else "odd"

    async def main() -> None:
        async with serving(at_once) as server:
            load = ClosedLoad(server.target, numbered(server.target), 3, requests=10, check=check)
            async with load:
                assert await load.finished(5)
            result = load.cut()
            assert (result.statuses, result.errors) == ({200: 5}, {"odd": 5})

    run(main())


def test_connections_that_break_are_counted_and_replaced():
    async def fragile(path: str) -> bytes:
        number = int(path[1:])
        if number % 10 == 0:
            return b""  # hangs up without an answer
        return answer(head="connection: close\r\n" if number % 10 == 1 else "")

    async def main() -> None:
        async with serving(fragile) as server:
            load = ClosedLoad(server.target, numbered(server.target), 2, requests=50)
            async with load:
                assert await load.finished(5)
            result = load.cut()
            assert (result.statuses, sum(result.errors.values())) == ({200: 45}, 5)
            assert all(what.startswith("connection lost") for what in result.errors)

    run(main())


def test_what_is_no_http_is_an_error():
    async def gibberish(path: str) -> bytes:
        return b"220 mail.example ready\r\n\r\n"

    async def main() -> None:
        async with serving(gibberish) as server:
            with pytest.raises(ConnectionError, match="is no HTTP/1"):
                await fetch(server.target, server.target.get("/"), timeout_sec=2)

    run(main())


def test_an_answer_that_does_not_come_times_out():
    async def never(path: str) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def main() -> None:
        async with serving(never) as server:
            load = ClosedLoad(
                server.target, numbered(server.target), 3, requests=3, timeout_sec=0.1
            )
            async with load:
                assert await load.finished(5)
            assert load.cut().errors == {"timed out": 3}

    run(main())


def test_clients_leave_when_their_patience_ends():
    async def slow(path: str) -> bytes:
        await asyncio.sleep(0.15)
        return answer()

    def patience(index: int) -> float | None:
        return 0.02 if index % 2 else None

    async def main() -> None:
        async with serving(slow) as server:
            load = ClosedLoad(
                server.target, numbered(server.target), 4, requests=12, patience=patience
            )
            async with load:
                assert await load.finished(5)
            result = load.cut()
            assert (result.statuses, result.errors) == ({200: 6}, {LEFT: 6})

    run(main())


def test_a_server_that_is_not_there_is_told():
    async def main() -> None:
        async with serving(at_once) as server:
            gone = server.target
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{gone.port}"):
            await fetch(gone, gone.get("/"), timeout_sec=0.2)

    run(main())


def test_one_request_waits_no_longer_than_it_is_told_to():
    async def never(path: str) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def main() -> None:
        async with serving(never) as server:
            with pytest.raises(ConnectionError, match=r"within 0.1 s"):
                await fetch(server.target, server.target.get("/"), timeout_sec=0.1)

    run(main())


def test_an_open_loop_keeps_its_rate_whatever_comes_back():
    async def slow(path: str) -> bytes:
        await asyncio.sleep(0.2)
        return answer()

    async def main() -> None:
        async with serving(slow) as server:
            make = numbered(server.target)
            async with OpenLoad(server.target, make, 100, rate=100, spacing="even") as load:
                await asyncio.sleep(0.5)
                assert 40 <= load.sent <= 51  # a busy machine may be late, never early
            assert load.cut().statuses[200] == load.sent

    run(main())


def test_a_poisson_load_has_its_mean_rate_and_uneven_gaps():
    async def main() -> None:
        async with serving(at_once) as server:
            load = OpenLoad(server.target, numbered(server.target), 1, rate=100, seed=3)
            gaps = [load.gap() for _ in range(10_000)]
            mean = sum(gaps) / len(gaps)
            # σ of the mean is 1 % of it; σ of the gaps is their mean.
            assert mean == pytest.approx(0.01, rel=0.05)
            deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
            assert deviation == pytest.approx(mean, rel=0.1)

    run(main())


def test_latencies_count_from_the_moment_a_request_was_due():
    """One connection, an answer takes 50 ms, and ten are asked for at once: the last one waited
    for all of them. Counted from its sending it would look like 50 ms."""

    async def slow(path: str) -> bytes:
        await asyncio.sleep(0.05)
        return answer()

    async def main() -> None:
        async with serving(slow) as server:
            load = PushLoad(server.target, numbered(server.target), 1, requests=10)
            async with load:
                for _ in range(10):
                    load.push(time.perf_counter())
                assert load.waiting >= 9
                assert await load.finished(5)
            result = load.cut()
            assert server.most_at_once == 1
            assert result.latency_ms(1) >= 450  # timers round to milliseconds
            assert result.latency_ms(0.1) < result.latency_ms(1) / 2

    run(main())


def test_a_request_that_waits_for_a_connection_is_waited_for():
    async def breaks_once(path: str) -> bytes:
        return b"" if path == "/0" else answer()

    async def main() -> None:
        async with (
            serving(breaks_once) as server,
            PushLoad(server.target, numbered(server.target), 1, requests=2) as load,
        ):
            load.push(time.perf_counter())
            load.push(time.perf_counter())
            assert await load.finished(5)
            assert load.cut().statuses == {200: 1}

    run(main())


def test_windows_go_on_until_they_agree_and_not_for_ever():
    async def main() -> None:
        async with (
            serving(at_once) as server,
            ClosedLoad(server.target, numbered(server.target), 1) as load,
        ):
            figure = await steady(load, window_sec=0.05, max_windows=4)
            assert 3 <= len(figure.rates) <= 4
            assert figure.settled or len(figure.rates) == 4
            assert figure.per_sec > 0

    run(main())
