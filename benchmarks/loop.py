"""Owns the proof of the whole loop: sample without a failure while a job trains and takes over.

It starts the real service on a free loopback port, uploads a zip, starts a job, samples from
several clients throughout, and checks every answer. With --kill it also kills the service and all
it started in the middle of the job, starts it again, and waits for the job to end.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from app.bench.child import descendants

START_TIMEOUT_SEC = 60
IMPORT_TIMEOUT_SEC = 300


class Service:
    """`noisewell serve` as a person starts it, on a port of its own."""

    def __init__(self, data_dir: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self.log = data_dir / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds from the command to the first image."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "app.cli", "serve"),
                    *("--port", str(self.port), "--data-dir", str(self.data_dir)),
                ],
                stderr=log,
                start_new_session=True,
            )
        while time.monotonic() - began < START_TIMEOUT_SEC:
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                time.sleep(0.1)
        raise SystemExit(f"the service did not get ready; see {self.log}")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill_all(self) -> int:
        """kill -9 the service and everything it started; returns how many processes that was."""
        assert self.process is not None
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        return len(pids)


class Clients:
    """Threads that sample one seed after another and count what comes back."""

    def __init__(self, url: str, model: str, count: int) -> None:
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self.latencies: list[float] = []
        self._digests: dict[str, set[str]] = {}
        self._first: dict[str, bytes] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._sample, args=(f"{url}/v1/models/{model}/images", i))
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _sample(self, url: str, offset: int) -> None:
        with httpx.Client(timeout=30) as client:
            for i in range(10**9):
                if self._stop.is_set():
                    return
                self._one(client, url, seed=(offset + i) % 50)

    def _one(self, client: httpx.Client, url: str, seed: int) -> None:
        began = time.monotonic()
        try:
            answer = client.get(f"{url}/{seed}.png", params={"class": "3"})
        except httpx.TransportError as error:
            with self._lock:
                self.failures.append(repr(error))
            return
        seconds = time.monotonic() - began
        with self._lock:
            self.latencies.append(seconds)
            if answer.status_code != 200 or not answer.content.startswith(b"\x89PNG"):
                self.failures.append(f"{answer.status_code} {answer.text[:200]}")
                return
            version = answer.headers["x-model-version"]
            self.versions[version] += 1
            self._digests.setdefault(version, set()).add(answer.headers["x-model-digest"])
            if self._first.setdefault(f"{version}/{seed}", answer.content) != answer.content:
                self.failures.append(f"seed {seed} of version {version} changed its bytes")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.failures += [
            f"two digests of {v}: {d}" for v, d in self._digests.items() if len(d) > 1
        ]


def check_same_bytes(service: Service) -> None:
    """One seed alone, again, among 64 others, among 8 clients, and after a restart."""
    one = {"model": "mnist@1", "class": "3"}
    path = f"{service.url}/v1/models/mnist@1/images/7.png?class=3"
    alone = httpx.get(path).content
    batch = httpx.post(
        f"{service.url}/v1/images", json={**one, "n": 65, "seed": 7, "response": "zip"}
    )
    with zipfile.ZipFile(io.BytesIO(batch.content)) as archive:
        among_64 = archive.read(archive.namelist()[0])
    with ThreadPoolExecutor(8) as clients:
        together = set(clients.map(lambda _: httpx.get(path).content, range(64)))
    service.stop()
    service.start()
    others = {httpx.get(path).content, among_64, *together}
    print(f"seed 7 of class 3: {sha256(alone).hexdigest()[:16]}, {len(alone)} bytes, ", end="")
    print("the same each time" if others == {alone} else "NOT the same each time")
    if others != {alone}:
        raise SystemExit(1)


def upload(url: str, path: Path) -> str:
    with path.open("rb") as f:
        answer = httpx.post(
            f"{url}/v1/datasets", data={"name": "loop"}, files={"file": f}, timeout=300
        )
    answer.raise_for_status()
    dataset = answer.json()
    began = time.monotonic()
    while dataset["status"] == "importing" and time.monotonic() - began < IMPORT_TIMEOUT_SEC:
        time.sleep(0.5)
        dataset = httpx.get(f"{url}/v1/datasets/{dataset['id']}").json()
    if dataset["status"] != "ready":
        raise SystemExit(f"the import ended as {dataset['status']}: {dataset['error']}")
    print(f"imported {dataset['num_images']} images in {time.monotonic() - began:.1f} s")
    return dataset["id"]


def submit(url: str, **job: Any) -> str:
    answer = httpx.post(f"{url}/v1/training/jobs", json=job)
    if answer.status_code != 202:
        raise SystemExit(answer.text)
    return answer.headers["location"]


def wait_for(url: str, job: str, done: Any, limit_sec: float) -> dict[str, Any]:
    began = time.monotonic()
    while time.monotonic() - began < limit_sec:
        row = httpx.get(url + job).json()
        if done(row):
            return row
        time.sleep(0.5)
    raise SystemExit(f"{job} did not get there in {limit_sec:.0f} s: {json.dumps(row)}")


def ended(row: dict[str, Any]) -> bool:
    return row["status"] in ("succeeded", "failed", "cancelled")


def main(
    images: Annotated[Path, typer.Argument(help="A zip of class folders that fits `mnist`.")],
    minutes: float = 1.0,
    clients: int = 8,
    promote: str = "always",
    kill: Annotated[bool, typer.Option(help="kill -9 everything in the middle.")] = False,
) -> None:
    """Retrain `mnist` on IMAGES over HTTP while sampling it; exit 1 if anything failed."""
    with tempfile.TemporaryDirectory(prefix="noisewell-loop-") as scratch:
        service = Service(Path(scratch) / "data")
        print(f"first image {service.start():.1f} s after the command")
        try:
            check_same_bytes(service)
            dataset = upload(service.url, images)
            sampling = None if kill else Clients(service.url, "mnist", clients)
            job = submit(
                service.url, model="mnist", dataset=dataset, minutes=minutes, promote=promote
            )
            if kill:
                _kill_and_restart(service, job)
            row = wait_for(service.url, job, ended, minutes * 60 * 4 + 300)
            ok = _tell(service, row, sampling)
        finally:
            service.stop()
        raise SystemExit(0 if ok else 1)


def _kill_and_restart(service: Service, job: str) -> None:
    def training(row: dict[str, Any]) -> bool:
        return ((row["progress"] or {}).get("cur_nimg") or 0) > 2000

    row = wait_for(service.url, job, training, 120)
    time.sleep(35)  # past a saved state, so that the job has something to go on from
    count = service.kill_all()
    print(f"killed {count} processes at {row['progress']['cur_nimg'] / 1000:.1f} kimg or later")
    print(f"first image {service.start():.1f} s after the restart")
    row = wait_for(service.url, job, lambda r: r["attempt"] >= 2, 60)
    print(f"the job goes on as attempt {row['attempt']}")


def _tell(service: Service, row: dict[str, Any], sampling: Clients | None) -> bool:
    print(f"job {row['status']}: {json.dumps(row['result'] or row['error'])[:600]}")
    if row["status"] != "succeeded":
        return False
    if sampling is None:
        log = service.data_dir / "runs" / row["id"] / "log.txt"
        print("".join(line for line in log.open() if "resuming" in line), end="")
        return True
    time.sleep(3)  # the swap follows the alias within poll_sec; see some answers of the new one
    sampling.stop()
    latencies = sorted(sampling.latencies)
    p50, p99 = (latencies[int(len(latencies) * q)] * 1000 for q in (0.5, 0.99))
    print(f"{len(latencies)} requests, {len(sampling.failures)} failed, p50 {p50:.1f} ms, ", end="")
    print(f"p99 {p99:.1f} ms, by X-Model-Version {dict(sampling.versions)}")
    for failure in sampling.failures[:5]:
        print(f"  {failure}")
    version = str(row["result"]["version"])
    promoted = row["result"]["decision"]["promote"]
    return not sampling.failures and (version in sampling.versions) == promoted


if __name__ == "__main__":
    typer.run(main)
