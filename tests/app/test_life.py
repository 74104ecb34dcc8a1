"""A service from its first moment to its last, as its operator and their supervisor see it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from app.engine import Engine
from app.errors import UnavailableError
from app.life import EXIT_DEAD, Life
from app.machine import is_device_broken, is_out_of_memory
from app.watchdog import watch

PATIENCE_SEC = 60.0


def test_what_it_says_while_it_starts_is_why_it_is_not_ready() -> None:
    life = Life()
    life.tell("loading models")
    with pytest.raises(UnavailableError, match="is starting: loading models"):
        life.check_ready()
    with pytest.raises(UnavailableError):
        life.check_able()
    life.check_alive()
    life.begin()
    life.check_ready()
    life.tell("too late")
    assert (life.phase, life.doing) == ("ready", "")


def test_while_draining_images_are_drawn_still_and_it_is_not_ready() -> None:
    life = Life()
    life.begin()
    life.drain()
    life.check_able()
    life.check_alive()
    with pytest.raises(UnavailableError, match="is draining"):
        life.check_ready()


def test_who_is_dead_stays_dead_for_the_first_reason() -> None:
    life = Life()
    life.die("the device failed")
    for after in (life.begin, life.drain, lambda: life.die("another")):
        after()
        assert (life.phase, life.doing) == ("dead", "the device failed")
    with pytest.raises(UnavailableError, match="is dead: the device failed"):
        life.check_alive()


def test_a_service_listens_before_its_models_are_loaded(
    registry, make_version, monkeypatch, run_service, tmp_path
) -> None:
    make_version(registry)
    gate, refresh = threading.Event(), Engine.refresh

    def slow(self: Engine, max_bytes: float) -> None:
        assert gate.wait(PATIENCE_SEC)
        refresh(self, max_bytes)

    monkeypatch.setattr(Engine, "refresh", slow)
    with run_service(tmp_path / "data", wait=False) as service:
        assert service.get("/health/live").status_code == 200
        ready = service.get("/health/ready")
        assert ready.status_code == 503
        assert "is starting: loading models" in ready.json()["detail"]
        for answer in (service.get("/v1/models/toy/images/7.png"), service.images(n=1)):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert service.get("/v1/status").json()["phase"] == "starting"
        gate.set()
        assert service.context.life.started.wait(PATIENCE_SEC)
        assert service.get("/health/ready").status_code == 200
        assert service.get("/v1/models/toy/images/7.png").status_code == 200


def test_a_device_that_fails_makes_the_service_dead(registry, make_version, start) -> None:
    make_version(registry)
    with start(image_cache_bytes=0) as service:
        loaded = service.context.engine.get("toy", None)

        def broken(z: object, c: object) -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        object.__setattr__(loaded, "sampler", Broken(loaded.sampler, broken))
        answer = service.get("/v1/models/toy/images/7.png")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert service.get("/health/live").status_code == 503
        assert service.get("/health/ready").status_code == 503


class Broken:
    """A sampler whose calls are another's."""

    def __init__(self, sampler, call) -> None:
        self._sampler, self._call = sampler, call

    def __call__(self, z, c):
        return self._call(z, c)

    def __getattr__(self, name: str):
        return getattr(self._sampler, name)


def test_a_batch_without_memory_is_made_in_halves_and_then_refused(
    registry, make_version, start
) -> None:
    make_version(registry)
    with start(image_cache_bytes=0) as service:
        whole = service.images(n=8, seed=0, response="npy").content
        loaded, room, sizes = service.context.engine.get("toy", None), [4], []
        sampler = loaded.sampler

        def tight(z, c):
            sizes.append(len(z))
            if len(z) > room[0]:
                raise torch.OutOfMemoryError("out of memory")
            return sampler(z, c)

        object.__setattr__(loaded, "sampler", Broken(sampler, tight))
        assert service.images(n=8, seed=0, response="npy").content == whole
        assert sizes == [8, 4, 4]
        room[0] = 1
        answer = service.images(n=8, seed=0, response="npy")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "max_batch_size" in answer.json()["detail"]
        assert service.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("error", "memory", "broken"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True, False),
        (RuntimeError("shapes do not match"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_what_an_error_of_the_device_means(error: Exception, memory: bool, broken: bool) -> None:
    assert (is_out_of_memory(error), is_device_broken(error)) == (memory, broken)


def test_a_batch_that_does_not_end_is_noticed(registry, make_version, start) -> None:
    make_version(registry)
    with start(max_batch_sec=0.1) as service, service.held():
        assert service.context.life.died.wait(PATIENCE_SEC)
        answer = service.get("/health/live")
        assert answer.status_code == 503
        assert "max_batch_sec is 0.1" in answer.json()["detail"]


class Gone:
    busy_sec = 0.0
    broken = True


def test_a_batcher_whose_thread_is_gone_is_noticed() -> None:
    life = Life()
    stop = watch(Gone(), 0.1, life.die)
    assert life.died.wait(PATIENCE_SEC)
    stop()


# The process


@contextmanager
def served(data_dir: Path, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`noisewell serve` on a free port, ready."""
    log = data_dir.parent / "serve.log"
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
    given = {**os.environ, "NOISEWELL_START_WORKER": "false", "NOISEWELL_DEVICE": "cpu", **env}
    with log.open("wb") as out, subprocess.Popen(command, stderr=out, env=given) as process:
        try:
            with httpx.Client(base_url=_address(process, data_dir), timeout=PATIENCE_SEC) as client:
                _until_ready(client)
                yield process, client
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes], data_dir: Path) -> str:
    """As the lock names it for who comes second."""
    end, lock = time.monotonic() + PATIENCE_SEC, data_dir / "serve.lock"
    while not (lock.exists() and " at " in lock.read_text()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    return lock.read_text().split(" at ")[1].strip()


def _until_ready(client: httpx.Client) -> None:
    end = time.monotonic() + PATIENCE_SEC
    while client.get("/health/ready").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stuck_device_ends_the_process_with_70(registry, make_version, tmp_path) -> None:
    make_version(registry)
    slow = {"NOISEWELL_MAX_BATCH_SEC": "0.000001", "NOISEWELL_IMAGE_CACHE_BYTES": "0"}
    with served(tmp_path / "data", **slow) as (process, client):
        end = time.monotonic() + PATIENCE_SEC
        while process.poll() is None and time.monotonic() < end:
            try:
                client.post("/v1/images", json={"model": "toy", "n": 1024, "response": "npy"})
            except httpx.HTTPError:
                break
        assert process.wait(PATIENCE_SEC) == EXIT_DEAD
