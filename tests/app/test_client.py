"""Whoever speaks to a service over connections that break hears everything, once."""

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import httpx
import pytest

from app.client import REQUEST_TRIES, WAITS_SEC, Client, ServiceError, SilentError

JOBS = "/v1/training/jobs"
BODY = {"model": "mnist", "dataset": "digits", "minutes": 1}
PATIENCE_SEC = 30.0


class Relay:
    """Passes connections on to a server; of each answer, only as many bytes as `budgets` says."""

    def __init__(self, to: httpx.URL, budgets: Iterator[int]) -> None:
        self._to = (to.host, to.port)
        self._budgets = budgets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0

    def run(self) -> None:
        """Until `stop`; one connection after the other, as the client makes them."""
        while True:
            inner, _ = self._listener.accept()
            with inner:
                budget = next(self._budgets, None)
                if budget is None:
                    return
                inner.settimeout(PATIENCE_SEC)
                self.connections += 1
                with socket.create_connection(self._to, PATIENCE_SEC) as outer:
                    self._pass(inner, outer, budget)

    def _pass(self, inner: socket.socket, outer: socket.socket, budget: int) -> None:
        asking = threading.Thread(target=copy, args=(inner, outer))
        asking.start()
        while data := outer.recv(min(max(budget, 1), 65536)):  # so that there is an answer to lose
            if budget <= 0:
                break
            inner.sendall(data)
            budget -= len(data)
        inner.shutdown(socket.SHUT_RDWR)
        asking.join(PATIENCE_SEC)


def copy(a: socket.socket, b: socket.socket) -> None:
    with suppress(OSError):
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)


@contextmanager
def relaying(to: httpx.Client, budgets: list[int]) -> Iterator[Relay]:
    relay = Relay(to.base_url, iter(budgets))
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        relay._budgets = iter(())
        socket.create_connection(relay._listener.getsockname()).close()
        thread.join(PATIENCE_SEC)
        relay._listener.close()


class Ears:
    """What a client says and how long it waits, without waiting."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.waits: list[float] = []

    def client(self, url: Any) -> Client:
        return Client(str(url), told=self.heard.append, wait=self.waits.append)


def test_a_stream_that_keeps_breaking_tells_every_event_once_while_they_are_written(
    house: Any, client: httpx.Client
) -> None:
    job_id = house.queue()
    rng = random.Random(0)
    budgets = [rng.randint(700, 2500) for _ in range(200)]

    def write() -> None:
        for _ in range(30):
            house.store.release_job(house.claim())
        house.store.request_cancel(job_id)

    writer = threading.Thread(target=write)
    with relaying(client, budgets) as relay:
        writer.start()
        seen = []
        for event in islice(Ears().client(relay.url).events(f"{JOBS}/{job_id}/events"), 99):
            seen.append(event)
            if event.type == "cancelled":
                break
    writer.join(PATIENCE_SEC)
    assert [event.id for event in seen] == list(range(1, 63))
    assert [event.data["seq"] for event in seen] == list(range(1, 63))
    assert relay.connections > 5


def test_a_stream_gives_up_only_after_all_tries_in_a_row_were_in_vain(
    house: Any, client: httpx.Client
) -> None:
    job_id = house.queue()
    for _ in range(10):
        house.store.release_job(house.claim())
    ears = Ears()
    with relaying(client, [20] * 5 + [1000] + [20] * 100) as relay:
        events = ears.client(relay.url).events(f"{JOBS}/{job_id}/events")
        assert next(events).id == 1
        with pytest.raises(SilentError):
            list(events)
    assert ears.waits == [*WAITS_SEC[:5], *WAITS_SEC]


def test_a_service_that_is_not_there_is_asked_a_few_times_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ears = Ears()
    with pytest.raises(SilentError, match=f"{url} does not answer: .*refused"):
        ears.client(url).get(JOBS)
    assert ears.waits == list(WAITS_SEC[: REQUEST_TRIES - 1])
    assert ears.heard[0].endswith("trying again in 0.5 s")


def test_a_request_whose_answer_is_lost_is_sent_again_and_makes_one_job(
    house: Any, client: httpx.Client
) -> None:
    with relaying(client, [0, 30, 100_000]) as relay:
        job = Ears().client(relay.url).post(JOBS, BODY, {"Idempotency-Key": "k"})
    assert [j.id for j in house.store.list_jobs(10)] == [job["id"]]
    assert relay.connections == 3


def test_a_full_service_is_asked_again_when_it_says(house: Any, client: httpx.Client) -> None:
    for _ in range(3):
        house.queue()
    ears = Ears()
    with pytest.raises(SilentError, match="max_queued_jobs"):
        ears.client(client.base_url).post(JOBS, BODY)
    assert ears.waits == [30.0] * (REQUEST_TRIES - 1)  # 60 are asked for; nobody waits so long
    assert "trying again in 30 s" in ears.heard[0]


def test_a_refusal_is_told_in_the_words_of_the_service_and_not_tried_again(
    client: httpx.Client,
) -> None:
    ears = Ears()
    with pytest.raises(ServiceError, match="'job_0' does not exist") as refused:
        ears.client(client.base_url).get(f"{JOBS}/job_0")
    assert (refused.value.status, ears.waits) == (404, [])


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected such as http"):
        Ears().client(url)
