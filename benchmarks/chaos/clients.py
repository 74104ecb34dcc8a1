"""Owns who uses the service while it is killed: one client samples, another one submits jobs."""

import io
import threading
import time
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.store.jobs import END_STATUSES

MODEL = "squares"
TIMEOUT_SEC = 30.0
UNFINISHED = 3  # jobs that wait or run at a time
# Some hundred steps of the smallest preset: a few seconds, saved several times.
JOB = {"model": MODEL, "dataset": MODEL, "preset": "tiny", "kimg": 2, "promote": "always"}


def squares() -> bytes:
    """A zip of 300 small images of three classes."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(300):
            pixels = rng.integers(0, 40, (28, 28), np.uint8)
            pixels[4 + 8 * (i % 3) : 10 + 8 * (i % 3), 6:22] = 220
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            archive.writestr(f"{'abc'[i % 3]}/{i}.png", png.getvalue())
    return buffer.getvalue()


def upload(url: str) -> None:
    """Make the dataset and wait until it is ready."""
    files = {"file": ("squares.zip", squares())}
    answer = httpx.post(f"{url}/v1/datasets", data={"name": MODEL}, files=files)
    answer.raise_for_status()
    end = time.monotonic() + TIMEOUT_SEC
    while httpx.get(f"{url}/v1/datasets/{MODEL}").json()["status"] != "ready":
        if time.monotonic() > end:
            raise TimeoutError(f"the dataset is not ready after {TIMEOUT_SEC:.0f} s")
        time.sleep(0.1)


class Repeating:
    """A thread that does one thing again and again, with a pause, until `with` ends."""

    def __init__(self, do: Callable[[httpx.Client], None], pause_sec: float) -> None:
        self._do = do
        self._pause_sec = pause_sec
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _repeat(self) -> None:
        with httpx.Client(timeout=TIMEOUT_SEC) as client:
            while not self._stop.wait(self._pause_sec):
                try:
                    self._do(client)
                except httpx.TransportError:
                    continue  # it was killed; who asks again is answered by the next one


class Sampler:
    """Asks for images of the champion; an answer is an image, or the service is not there."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/models/{MODEL}/images"
        self.answers = 0
        self.wrong: list[str] = []
        self._digests: dict[str, str] = {}

    def ask(self, client: httpx.Client) -> None:
        answer = client.get(f"{self._url}/{self.answers % 50}.png")
        if answer.status_code == 404 and not self._digests:
            return  # no version yet
        if answer.status_code == 503 and "the service is starting" in answer.text:
            return  # killed, it listens again before it has loaded its models
        self.answers += 1
        if answer.status_code != 200 or not answer.content.startswith(b"\x89PNG"):
            self.wrong.append(f"a sample was answered {answer.status_code}: {answer.text[:200]}")
            return
        version, digest = answer.headers["x-model-version"], answer.headers["x-model-digest"]
        if self._digests.setdefault(version, digest) != digest:
            self.wrong.append(f"version {version} was served with two digests")


class Submitter:
    """Keeps a few jobs in the queue; who got no answer sends the same key again.

    accepted: id of the job by the key that it was asked for with. The seed of a job is its number.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/training/jobs"
        self.accepted: dict[str, str] = {}
        self.wrong: list[str] = []

    def ask(self, client: httpx.Client) -> None:
        if len(self.unfinished(client)) >= UNFINISHED:
            return
        seed = len(self.accepted)
        headers = {"Idempotency-Key": f"job-{seed}"}
        answer = client.post(self._url, json={**JOB, "seed": seed}, headers=headers)
        if answer.status_code == 202:
            self.accepted[headers["Idempotency-Key"]] = answer.json()["id"]
        else:
            self.wrong.append(f"a job was answered {answer.status_code}: {answer.text[:200]}")

    def unfinished(self, client: httpx.Client) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = client.get(self._url, params={"limit": 20}).json()["data"]
        return [job for job in jobs if job["status"] not in END_STATUSES]
