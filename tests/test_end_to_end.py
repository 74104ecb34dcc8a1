"""The whole loop with real processes: upload, train, swap under load, and survive kill -9."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.bench.child import descendants

LIMIT_SEC = 90
FAST = {"NOISEWELL_LEASE_SEC": "2", "NOISEWELL_POLL_SEC": "0.2"}


class Service:
    """`noisewell serve` on a free port, with everything it starts in one process session each."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
        self.log = self.data_dir.parent / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)],
                stderr=log,
                env={**os.environ, **FAST},
            )
        self.url = self.wait_for(self._address)
        self.wait_for(lambda: self._status("/health/live") == 200)

    def _address(self) -> str | None:
        for line in self.log.read_text().splitlines():
            if "listening" in line:
                return line.partition('"url": "')[2].partition('"')[0]
        return None

    def _status(self, path: str) -> int:
        try:
            return httpx.get(self.url + path).status_code
        except httpx.TransportError:
            return 0

    def wait_for(self, seen: Callable[[], Any]) -> Any:
        """What `seen` returns once it is true; other processes' doings are no event here."""
        end = time.monotonic() + LIMIT_SEC
        while time.monotonic() < end:
            if found := seen():
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"not seen in {LIMIT_SEC} s; {self.log.read_text()[-2000:]}")

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path)
        answer.raise_for_status()
        return answer.json()

    def wait_for_job(self, path: str, *statuses: str) -> dict[str, Any]:
        return self.wait_for(lambda: row if (row := self.get(path))["status"] in statuses else None)

    def kill_all(self) -> None:
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    running = Service(tmp_path / "data")
    yield running
    running.process.terminate()
    assert running.process.wait(60) == 0, running.log.read_text()


def squares_zip() -> bytes:
    """300 images of a square whose place tells the class, one of them cut short."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(300):
            pixels = rng.integers(0, 40, (28, 28), np.uint8)
            pixels[4 + 8 * (i % 3) : 10 + 8 * (i % 3), 6:22] = 220
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            archive.writestr(f"{'abc'[i % 3]}/{i}.png", png.getvalue())
        archive.writestr("a/cut.png", png.getvalue()[:200])
    return buffer.getvalue()


def upload(service: Service) -> None:
    answer = httpx.post(
        f"{service.url}/v1/datasets", data={"name": "squares"}, files={"file": squares_zip()}
    )
    assert answer.status_code == 202, answer.text
    dataset = service.wait_for_job(answer.headers["location"], "ready", "failed")
    assert dataset["status"] == "ready", dataset
    assert dataset["num_images"] == 300
    assert [r["file"] for r in dataset["rejections"]] == ["a/cut.png"]


def submit(service: Service, **job: Any) -> str:
    body = {"model": "squares", "dataset": "squares", "preset": "tiny", **job}
    answer = httpx.post(f"{service.url}/v1/training/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def test_a_better_generator_takes_over_without_a_failed_request(service):
    upload(service)
    first = service.wait_for_job(submit(service, kimg=0.1), "succeeded", "failed")
    assert first["result"]["version"] == 1, first
    service.wait_for(lambda: service.get("/v1/status")["models"].get("squares") == 1)

    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def sample() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                answer = client.get(f"{service.url}/v1/models/squares/images/7.png?class=b")
                answers.append((answer.status_code, answer.headers["x-model-version"]))

    clients = [threading.Thread(target=sample) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        second = service.wait_for_job(submit(service, kimg=2), "succeeded", "failed")
        assert second["result"]["decision"]["promote"], second
        service.wait_for(lambda: answers[-1][1] == "2")
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert {status for status, _ in answers} == {200}
    versions = [version for _, version in answers]
    assert set(versions) == {"1", "2"}
    version = service.get("/v1/models/squares/versions/2")
    assert version["lineage"]["job"] == second["id"]
    assert version["metrics"]["fd_cnn_floor"] >= 0
    assert service.get("/v1/models/squares")["aliases"] == {"champion": 2, "previous": 1}


def test_a_job_survives_kill_9_of_the_service_and_all_it_started(service):
    upload(service)
    job = submit(service, kimg=4)
    service.wait_for(lambda: (service.get(job)["progress"] or {}).get("cur_nimg"))
    service.kill_all()
    service.start()
    row = service.wait_for_job(job, "succeeded", "failed")
    assert row["status"] == "succeeded", row
    assert row["attempt"] == 2
    assert service.get("/v1/models/squares")["serving"] == row["result"]["version"] == 1
    events = [e["type"] for e in service.get(f"{job}/events?limit=100")["data"]]
    assert events[0] == "queued"
    assert events.count("started") == 2
    assert events[-1] == "succeeded"
