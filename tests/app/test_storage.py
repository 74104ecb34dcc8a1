import errno
import io
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from training.model.registry import Registry

TOY = "/v1/models/toy"
JOB = {"model": "new", "dataset": "ds_1", "kimg": 1}


class SmallDisk:
    """A file system of 4 MB."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all that is left but for about `leave` bytes."""
        with self._filler.open("ab", buffering=0) as f:
            for piece in (65_536, 4_096, 1):
                with suppress(OSError):  # no space left
                    while True:
                        f.write(b"x" * piece)
            f.truncate(max(0, f.tell() - leave))

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)]
    if os.geteuid() != 0 or subprocess.call(mount, stderr=subprocess.DEVNULL) != 0:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.check_call(["umount", "-l", str(root)])


@pytest.fixture
def service(
    disk: SmallDisk, run_service: Callable[..., Any], make_version: Callable[..., int]
) -> Iterator[Any]:
    """Its data lies on the small disk: toy 1 (champion), 2, 3 and a dataset that is ready."""
    registry = Registry(disk.root / "data" / "models")
    for weights in range(3):
        make_version(registry, weights=weights)
    with run_service(disk.root / "data") as service:
        store = service.context.store
        store.create_dataset("ds_1", "shapes", None)
        store.finish_dataset("ds_1", "ready", summary={"resolution": 28, "channels": 1})
        yield service


def a_zip(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/1.png", bytes(size))
    return buffer.getvalue()


def upload(service: Any, size: int) -> Any:
    files = {"file": ("a.zip", a_zip(size), "application/zip")}
    return service.post("/v1/datasets", data={"name": "more"}, files=files)


def everything(root: Path) -> dict[str, bytes]:
    kept = (p for p in root.rglob("*") if p.is_file() and "sqlite3" not in p.name)
    return {str(p.relative_to(root)): p.read_bytes() for p in kept}


CHANGES: dict[str, tuple[str, str, Any]] = {
    "a job": ("POST", "/v1/training/jobs", JOB),
    "a promotion": ("PUT", f"{TOY}/aliases/champion", {"version": 3}),
    "a deleted dataset": ("DELETE", "/v1/datasets/ds_1", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_on_a_full_disk_a_change_is_refused_and_images_go_on(
    service: Any, disk: SmallDisk, change: str
) -> None:
    method, path, body = CHANGES[change]
    disk.fill()
    before = everything(disk.root)
    answer = service.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["free_bytes"] == 0
    assert "noisewell gc" in answer.json()["detail"]
    assert everything(disk.root) == before
    assert service.get(f"{TOY}/images/7.png").headers["X-Model-Version"] == "1"
    assert service.get("/v1/training/jobs").json()["data"] == []
    disk.free()
    assert service.request(method, path, json=body).status_code in (200, 202, 204)


def test_a_rollback_on_a_full_disk_is_refused_and_can_be_asked_for_again(
    service: Any, disk: SmallDisk
) -> None:
    service.request("PUT", f"{TOY}/aliases/champion", json={"version": 2})
    disk.fill()
    assert service.post(f"{TOY}/rollback").status_code == 507
    assert service.get(TOY).json()["aliases"] == {"champion": 2, "previous": 1}
    disk.free()
    assert service.post(f"{TOY}/rollback").json()["serving"] == 1


def test_an_upload_that_cannot_fit_is_refused_before_it_is_read(
    service: Any, disk: SmallDisk
) -> None:
    disk.fill(leave=200_000)
    answer = upload(service, 1_000_000)
    assert answer.status_code == 507
    assert answer.json()["needed_bytes"] > 1_000_000
    assert 0 < answer.json()["free_bytes"] <= 200_000


def test_an_upload_that_fills_the_disk_leaves_nothing(service: Any, disk: SmallDisk) -> None:
    disk.fill(leave=200_000)
    before = everything(disk.root)

    async def body() -> Any:  # of a length that nobody announced
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
        yield head
        for _ in range(10):
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = service.post("/v1/datasets", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["needed_bytes"]) == (507, None)
    assert everything(disk.root) == before


def test_a_version_that_does_not_fit_is_not_registered(
    service: Any, disk: SmallDisk, make_version: Callable[..., int]
) -> None:
    disk.fill()
    before = everything(disk.root)
    with pytest.raises(OSError, match="No space left"):
        make_version(service.context.registry, weights=9)
    assert everything(disk.root) == before
    disk.free()
    assert make_version(service.context.registry, weights=9) == 4


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OperationalError("", None, Exception("disk I/O error")),
    ],
)
def test_a_broken_disk_is_named_and_nothing_is_acknowledged(
    registry: Registry,
    make_version: Callable[..., int],
    start: Callable[..., Any],
    error: Exception,
) -> None:
    make_version(registry)

    def fail(*_: object) -> None:
        raise error

    with ExitStack() as stack:
        service = stack.enter_context(start())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(service.context.registry, "rollback", fail)
        answer = service.post(f"{TOY}/rollback")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "the disk failed" in answer.json()["detail"]
        assert service.get(f"{TOY}/images/7.png").status_code == 200
