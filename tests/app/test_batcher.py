import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from app.batcher import Batcher
from app.engine import Loaded
from app.errors import QueueFullError, UnavailableError
from training.model.sampling import Sampler

PATIENCE_SEC = 30.0


class FakeSampler:
    """The single pixel of an image is its class; `gate` holds the device, as a long call would."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def bucket(self, n: int) -> int:
        return n

    def seconds(self, n: int) -> float:
        return 1e-4 * n

    def __call__(self, z: np.ndarray, c: np.ndarray) -> np.ndarray:
        assert len(z) == len(c)
        self.calls.append(c.tolist())
        self.began.set()
        assert self.gate.wait(PATIENCE_SEC)
        if self.error is not None:
            raise self.error
        return c.astype(np.uint8).reshape(-1, 1, 1, 1)


class Observer:
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.answered = 0
        self.outcomes: Counter[str] = Counter()

    def batch(
        self, model: str, version: int, images: int, waited_sec: Sequence[float], compute_sec: float
    ) -> None:
        assert model == "toy"
        assert min(*waited_sec, compute_sec) >= 0
        self.batches.append((images, len(waited_sec)))

    def encoded(self, seconds: float) -> None:
        self.answered += 1

    def done(self, model: str, version: int, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes[outcome] += 1


def load(sampler: FakeSampler, version: int = 1) -> Loaded:
    return Loaded("toy", version, "", (), {}, cast(Sampler, sampler), "")


class Desk:
    """A running batcher with one version, and requests that know what they must get."""

    def __init__(self, **limits: Any) -> None:
        self.sampler = FakeSampler()
        self.loaded = load(self.sampler)
        self.observer = Observer()
        sizes = {"max_batch_size": 64, "max_queue_size": 4096, "max_queue_wait_ms": 60_000}
        self.batcher = Batcher(
            **{**sizes, "max_queue_delay_ms": 0, "observer": self.observer, **limits}
        )

    async def ask(self, *values: int, loaded: Loaded | None = None) -> list[int]:
        """Request images of these values, one each; what comes back should be equal."""
        inputs = np.zeros((len(values), 2), np.float32), np.array(values, np.int64)

        def finish(images: np.ndarray, c: np.ndarray) -> list[int]:
            assert c.tolist() == list(values)
            return images.flatten().tolist()

        return await self.batcher.submit(loaded or self.loaded, len(values), lambda: inputs, finish)

    async def hold(self) -> "asyncio.Task[list[int]]":
        """Keep the device busy with one image until the gate opens."""
        self.sampler.gate.clear()
        held = asyncio.create_task(self.ask(0))
        assert await asyncio.to_thread(self.sampler.began.wait, PATIENCE_SEC)
        return held

    async def queue(self, requests: Sequence[Awaitable[Any]]) -> "list[asyncio.Task[Any]]":
        """Send requests without waiting for their answers."""
        tasks = [asyncio.ensure_future(request) for request in requests]
        await asyncio.sleep(0)
        return tasks


@asynccontextmanager
async def open_desk(**limits: Any) -> AsyncIterator[Desk]:
    desk = Desk(**limits)
    desk.batcher.start()
    try:
        yield desk
    finally:
        desk.sampler.gate.set()
        await asyncio.to_thread(desk.batcher.close)


def run(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a coroutine."""

    def runs() -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(), PATIENCE_SEC)

        asyncio.run(limited())

    return runs


# Batches


@run
async def test_requests_that_wait_for_the_device_form_one_batch() -> None:
    async with open_desk() as desk:
        held = await desk.hold()
        asked = await desk.queue([desk.ask(i) for i in range(1, 65)])
        desk.sampler.gate.set()
        assert await held == [0]
        assert await asyncio.gather(*asked) == [[i] for i in range(1, 65)]
        assert [len(call) for call in desk.sampler.calls] == [1, 64]


@run
async def test_a_batch_counts_images_not_requests() -> None:
    async with open_desk(max_batch_size=4) as desk:
        await desk.hold()
        asked = await desk.queue([desk.ask(1, 2, 3), desk.ask(4, 5), desk.ask(6)])
        desk.sampler.gate.set()
        assert await asyncio.gather(*asked) == [[1, 2, 3], [4, 5], [6]]
        assert desk.sampler.calls[1:] == [[1, 2, 3, 4], [5, 6]]


@run
async def test_a_request_larger_than_a_batch_comes_whole_and_in_order() -> None:
    async with open_desk(max_batch_size=8) as desk:
        assert await desk.ask(*range(100)) == list(range(100))
        assert [len(call) for call in desk.sampler.calls] == [8] * 12 + [4]


@run
async def test_large_requests_do_not_starve_small_ones() -> None:
    async with open_desk(max_batch_size=8) as desk:
        await desk.hold()
        large = await desk.queue([desk.ask(*[100] * 200), desk.ask(*[200] * 200)])
        small = await desk.queue([desk.ask(7)])
        desk.sampler.gate.set()
        assert await small[0] == [7]
        assert any(7 in call for call in desk.sampler.calls[:4])
        assert [len(answer) for answer in await asyncio.gather(*large)] == [200, 200]


@run
async def test_a_batch_never_mixes_versions() -> None:
    async with open_desk() as desk:
        samplers = [FakeSampler(), FakeSampler()]
        versions = [load(sampler, i) for i, sampler in enumerate(samplers)]
        await desk.hold()
        asked = await desk.queue([desk.ask(i, loaded=versions[i % 2]) for i in range(20)])
        desk.sampler.gate.set()
        assert await asyncio.gather(*asked) == [[i] for i in range(20)]
        assert samplers[0].calls == [list(range(0, 20, 2))]
        assert samplers[1].calls == [list(range(1, 20, 2))]


@run
async def test_a_delay_ends_as_soon_as_the_batch_is_full() -> None:
    async with open_desk(max_batch_size=3, max_queue_delay_ms=1000 * PATIENCE_SEC) as desk:
        asked = await desk.queue([desk.ask(i) for i in range(3)])
        await asyncio.gather(*asked)
        assert [len(call) for call in desk.sampler.calls] == [3]


@run
async def test_nothing_of_a_request_runs_on_the_event_loop() -> None:
    names: list[str] = []

    def draw() -> tuple[np.ndarray, np.ndarray]:
        names.append(threading.current_thread().name)
        return np.zeros((1, 2), np.float32), np.zeros(1, np.int64)

    async with open_desk() as desk:
        finish = lambda images, c: names.append(threading.current_thread().name)  # noqa: E731
        await desk.batcher.submit(desk.loaded, 1, draw, finish)
    assert names[0].startswith("drawer")
    assert names[1].startswith("encoder")


@run
async def test_every_call_and_every_wait_is_told_to_the_observer() -> None:
    async with open_desk() as desk:
        await desk.hold()
        asked = await desk.queue([desk.ask(1, 2), desk.ask(3)])
        desk.sampler.gate.set()
        await asyncio.gather(*asked)
    assert desk.observer.batches == [(1, 1), (3, 2)]
    assert desk.observer.answered == 2
    assert desk.observer.outcomes == {"success": 3}


# Callers that leave


@run
async def test_a_caller_that_hangs_up_does_not_shift_its_neighbours() -> None:
    async with open_desk() as desk:
        await desk.hold()
        asked = await desk.queue([desk.ask(i, i) for i in range(30)])
        for task in asked[::3]:
            task.cancel()
        await asyncio.wait(asked[::3])
        desk.sampler.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [a for i, a in enumerate(answers) if i % 3] == [[i, i] for i in range(30) if i % 3]
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::3])
        assert not any(i % 3 == 0 for i in desk.sampler.calls[1])


@run
async def test_a_caller_that_hangs_up_during_its_batch_does_not_shift_its_neighbours() -> None:
    async with open_desk(max_batch_size=8, max_queue_delay_ms=1000 * PATIENCE_SEC) as desk:
        desk.sampler.gate.clear()
        asked = await desk.queue([desk.ask(1), desk.ask(5, 5), desk.ask(2), desk.ask(*range(20))])
        assert await asyncio.to_thread(desk.sampler.began.wait, PATIENCE_SEC)
        asked[1].cancel()
        asked[3].cancel()
        await asyncio.wait([asked[1], asked[3]])
        assert desk.batcher.queued_images == 0
        desk.sampler.gate.set()
        assert [await asked[0], await asked[2]] == [[1], [2]]
        assert desk.sampler.calls == [[1, 5, 5, 2, 0, 1, 2, 3]]


@run
async def test_a_caller_that_hangs_up_frees_its_place_at_once() -> None:
    async with open_desk(max_queue_size=10) as desk:
        await desk.hold()
        (gone,) = await desk.queue([desk.ask(*range(10))])
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert desk.batcher.queued_images == 0
        (come,) = await desk.queue([desk.ask(*range(10))])
        desk.sampler.gate.set()
        assert await come == list(range(10))
        assert sum(len(call) for call in desk.sampler.calls) == 11


# Failures


def fail() -> Any:
    raise ValueError("broken")


@run
async def test_a_request_that_cannot_be_drawn_fails_alone() -> None:
    async with open_desk() as desk:
        await desk.hold()
        broken = desk.batcher.submit(desk.loaded, 2, fail, lambda images, c: None)
        asked = await desk.queue([desk.ask(1), broken, desk.ask(2)])
        desk.sampler.gate.set()
        first, error, last = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, last, str(error)) == ([1], [2], "broken")


@run
async def test_an_answer_that_cannot_be_encoded_fails_alone() -> None:
    async with open_desk() as desk:
        await desk.hold()
        inputs = np.zeros((1, 2), np.float32), np.zeros(1, np.int64)
        broken = desk.batcher.submit(desk.loaded, 1, lambda: inputs, lambda images, c: fail())
        asked = await desk.queue([desk.ask(1), broken, desk.ask(2)])
        desk.sampler.gate.set()
        first, error, last = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, last, str(error)) == ([1], [2], "broken")


@run
async def test_a_sampler_that_raises_fails_its_batch_only() -> None:
    async with open_desk() as desk:
        bad = FakeSampler()
        bad.error = RuntimeError("shapes do not match")
        broken = load(bad, 2)
        await desk.hold()
        asked = await desk.queue([desk.ask(i, loaded=broken) for i in range(3)])
        asked += await desk.queue([desk.ask(9)])
        desk.sampler.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert bad.calls == [[0, 1, 2]]
        assert [str(error) for error in answers[:3]] == ["shapes do not match"] * 3
        assert answers[3] == [9]
        assert desk.batcher.alive


@pytest.mark.parametrize("where", ["draw", "sampler"])
def test_a_large_request_that_fails_leaves_nothing_in_the_queue(where: str) -> None:
    @run
    async def test() -> None:
        async with open_desk(max_batch_size=8, max_queue_size=100) as desk:
            if where == "sampler":
                desk.sampler.error = RuntimeError("broken")
                broken = desk.ask(*range(100))
            else:
                broken = desk.batcher.submit(desk.loaded, 100, fail, lambda images, c: None)
            with pytest.raises((RuntimeError, ValueError), match="broken"):
                await broken
            desk.sampler.error = None
            assert await desk.ask(1) == [1]
            assert desk.batcher.queued_images == 0
            assert len(await desk.ask(*range(100))) == 100

    test()


# Overload and the end


@run
async def test_a_full_queue_answers_at_once_and_says_when_to_come_back() -> None:
    async with open_desk(max_queue_size=10) as desk:
        await desk.hold()
        asked = await desk.queue([desk.ask(*range(8))])
        with pytest.raises(
            QueueFullError, match=r"8 images are waiting.*max_queue_size is 10"
        ) as e:
            await desk.ask(1, 2, 3)
        assert e.value.retry_after_sec > 0
        asked += await desk.queue([desk.ask(1, 2)])
        desk.sampler.gate.set()
        assert await asyncio.gather(*asked) == [list(range(8)), [1, 2]]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("app.batcher.time", self)

    def monotonic(self) -> float:
        return self.now


def test_who_waited_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    @run
    async def test() -> None:
        async with open_desk(max_queue_wait_ms=2000) as desk:
            held = await desk.hold()
            late = await desk.queue([desk.ask(i) for i in range(3)])
            clock.now = 1.5
            asked = await desk.queue([desk.ask(9)])
            clock.now = 2.5
            desk.sampler.gate.set()
            for error in await asyncio.gather(*late, return_exceptions=True):
                assert isinstance(error, UnavailableError)
                assert "max_queue_wait_ms (2000 ms)" in error.detail
            assert [await held, await asked[0]] == [[0], [9]]
            assert desk.batcher.queued_images == 0

    test()


def test_a_large_request_that_began_is_finished_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)

    @run
    async def test() -> None:
        async with open_desk(max_batch_size=1, max_queue_wait_ms=2000) as desk:
            desk.sampler.gate.clear()
            (slow,) = await desk.queue([desk.ask(1, 2, 3)])
            assert await asyncio.to_thread(desk.sampler.began.wait, PATIENCE_SEC)
            clock.now = 100.0
            desk.sampler.gate.set()
            assert await slow == [1, 2, 3]

    test()


@pytest.mark.parametrize("delay_ms", [0, 1000 * PATIENCE_SEC])
def test_closing_answers_what_is_queued_and_refuses_what_comes(delay_ms: float) -> None:
    @run
    async def test() -> None:
        async with open_desk(max_batch_size=4, max_queue_delay_ms=delay_ms) as desk:
            asked = await desk.queue([desk.ask(i, i + 1) for i in range(10)])
            await asyncio.to_thread(desk.batcher.close)
            assert await asyncio.gather(*asked) == [[i, i + 1] for i in range(10)]
            assert not desk.batcher.alive
            with pytest.raises(UnavailableError, match="shutting down"):
                await desk.ask(1)

    test()


def test_a_batcher_that_never_started_can_be_closed() -> None:
    desk = Desk()
    assert not desk.batcher.alive
    desk.batcher.close()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_everyone_gets_their_own(seed: int) -> None:
    chance = random.Random(seed)

    async def one(desk: Desk, versions: list[Loaded]) -> None:
        values = [chance.randrange(256) for _ in range(chance.choice([1, 1, 1, 2, 5, 40]))]
        asked = asyncio.ensure_future(desk.ask(*values, loaded=chance.choice(versions)))
        fate = chance.random()
        if fate < 0.2:
            await asyncio.sleep(chance.random() * 0.01)
            asked.cancel()
            (answer,) = await asyncio.gather(asked, return_exceptions=True)
            assert answer == values or isinstance(answer, asyncio.CancelledError)
        elif fate < 0.3:
            with pytest.raises(ValueError, match="broken"):
                await desk.batcher.submit(desk.loaded, len(values), fail, lambda images, c: None)
            assert await asked == values
        else:
            assert await asked == values

    @run
    async def test() -> None:
        async with open_desk(max_batch_size=8, max_queue_size=100_000) as desk:
            versions = [desk.loaded, load(FakeSampler(), 2)]
            await asyncio.gather(*(one(desk, versions) for _ in range(200)))
            await desk.ask(0)
            assert desk.batcher.queued_images == 0

    test()


@run
async def test_others_are_told_while_more_waits_than_a_batch_holds() -> None:
    told: list[bool] = []
    async with open_desk(max_batch_size=2, pressure=told.append) as desk:
        held = await desk.hold()
        rest = await desk.queue([desk.ask(value) for value in range(1, 4)])
        told.clear()
        desk.sampler.gate.set()
        await asyncio.gather(held, *rest)
    assert told[0]
    assert not told[-1]
