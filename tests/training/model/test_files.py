import os
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from training.model.files import (
    locked,
    publish_dir,
    rename,
    sha256_bytes,
    sha256_file,
    staging_dir,
    write_atomic,
    write_json,
)

PATIENCE_SEC = 30.0


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"fd": value})
    assert names(tmp_path) == []


def test_a_staged_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with staging_dir(tmp_path, "v") as staged:
        (staged / "a").write_bytes(b"1")
        publish_dir(staged, tmp_path / "1")
    with staging_dir(tmp_path, "v") as staged:
        (staged / "a").write_bytes(b"2")
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "a").read_bytes() == b"1"


def test_a_published_directory_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "a").write_bytes(b"1")
    with staging_dir(tmp_path, "v") as staged:
        (staged / "a").write_bytes(b"2")
        with pytest.raises(OSError, match="not empty"):
            publish_dir(staged, tmp_path / "1")
    assert (tmp_path / "1" / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["1"]


def test_a_rename_that_cannot_be_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        if path == tmp_path:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("training.model.files.fsync", fail)
    with staging_dir(tmp_path, "v") as staged:
        (staged / "a").write_bytes(b"1")
        with pytest.raises(OSError, match="Input/output"):
            publish_dir(staged, tmp_path / "1")
    assert names(tmp_path) == []
    (tmp_path / "2").mkdir()
    with pytest.raises(OSError, match="Input/output"):
        rename(tmp_path / "2", tmp_path / ".2.deleted")
    assert names(tmp_path) == ["2"]


def test_a_lock_is_held_against_another_holder(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "lock"
    with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass


def test_a_lock_makes_threads_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(50):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SEC)
    assert most == [1] * 200


def test_a_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.model.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        holder.kill()
        holder.wait(PATIENCE_SEC)
        with locked(path, wait=False):
            pass


def test_digests_are_sha256(tmp_path: Path) -> None:
    data = b"noise" * 100_000
    (tmp_path / "a").write_bytes(data)
    assert sha256_bytes(data) == sha256_file(tmp_path / "a") == sha256(data).hexdigest()
