import io
import json
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from app.ask import Ask
from app.bulk import Grid, Json, Ndjson, Npy, StoredZip, Zip
from app.engine import Engine, Loaded
from training.model.grid import make_grid
from training.model.registry import Registry

GIB = 2**30


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, make_version) -> Loaded:
    registry = Registry(tmp_path_factory.mktemp("models"))
    make_version(registry, classes=('a "quoted" one', "ünder, 数", "dog"), channels=3)
    return Engine(registry, torch.device("cpu"), 8, 1).get("toy", None)


def written(writer, ask: Ask, n: int, part: int) -> bytes:
    """The body, its parts made in the wrong order."""
    parts = {}
    for start in reversed(range(0, n, part)):
        z, c = ask.part(slice(start, min(start + part, n))).draw()
        parts[start] = bytes(writer.part(ask.loaded.sampler(z, c), c, start))
    return b"".join(parts[start] for start in sorted(parts)) + b"".join(writer.end())


# Bodies


@pytest.mark.parametrize("kind", [Npy, Zip, Ndjson, Json])
@pytest.mark.parametrize("n", [1, 8, 19])
def test_a_body_is_the_same_in_whatever_parts_it_is_made(loaded: Loaded, kind, n: int) -> None:
    ask = Ask(loaded, range(7, 7 + n), None, None, 0.9)
    bodies = {part: written(kind(ask, n, "png"), ask, n, part) for part in (1, 3, 8, 19)}
    assert len(set(bodies.values())) == 1
    assert kind(ask, n, "png").length in (None, len(bodies[1]))


def test_npy_is_what_numpy_writes_and_its_length_is_known_before(loaded: Loaded) -> None:
    ask = Ask(loaded, range(5), None, None, 1.0)
    expected = io.BytesIO()
    np.save(expected, loaded.sampler(*ask.draw()))
    assert written(Npy(ask, 5, "png"), ask, 5, 2) == expected.getvalue()
    assert Npy(ask, 5, "png").length == len(expected.getvalue())


def test_npy_takes_pixels_as_they_are_and_copies_none(loaded: Loaded) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    part = Npy(Ask(loaded, range(9), None, None, 1.0), 9, "png").part(images, np.zeros(2), 7)
    assert np.shares_memory(np.frombuffer(part, np.uint8), images)
    assert len(part) == images.size


def test_lines_and_json_hold_the_same_objects_under_any_class_name(loaded: Loaded) -> None:
    ask = Ask(loaded, range(9), None, None, 1.0)
    lines = written(Ndjson(ask, 9, "png"), ask, 9, 4).decode("ascii").splitlines()
    whole = json.loads(written(Json(ask, 9, "png"), ask, 9, 4))
    assert [json.loads(line) for line in lines] == whole["data"]
    assert {one["class"] for one in whole["data"]} == set(loaded.class_names)
    assert {name: whole[name] for name in ("model", "version", "digest")} == {
        "model": "toy",
        "version": 1,
        "digest": loaded.digest,
    }


def test_files_of_a_zip_are_numbered_since_seeds_may_repeat(loaded: Loaded) -> None:
    ask = Ask(loaded, [7, 7], None, None, 1.0)
    with zipfile.ZipFile(io.BytesIO(written(Zip(ask, 2, "webp"), ask, 2, 1))) as archive:
        assert archive.namelist() == ["000000-seed-7.webp", "000001-seed-7.webp"]
        assert archive.read("000000-seed-7.webp") == archive.read("000001-seed-7.webp")
    given = Ask(loaded, None, np.zeros((1, 8), np.float32), np.zeros(1, np.int64), 1.0)
    with zipfile.ZipFile(io.BytesIO(written(Zip(given, 1, "png"), given, 1, 1))) as archive:
        assert archive.namelist() == ["000000.png"]


# One picture


@pytest.mark.parametrize("n", [1, 2, 5, 9, 10])
def test_a_grid_filled_out_of_order_is_the_grid_made_at_once(n: int) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 3, 4, 2), np.uint8)
    grid = Grid(n, 3, 4, 2)
    for start in reversed(range(0, n, 2)):
        grid.put(images[start : start + 2], start)
    assert np.array_equal(grid.pixels, make_grid(images))


# Zip


def stored(n: int) -> bytes:
    archive = StoredZip(n, lambda i: f"{i}.txt")
    body = archive.files(0, [b"%d" % i for i in range(n)])
    return body + b"".join(archive.end())


@pytest.mark.parametrize("n", [0, 1, 1024, 65_534, 65_535, 65_536])
def test_a_zip_of_any_number_of_files_is_read_whole(n: int) -> None:
    with zipfile.ZipFile(io.BytesIO(stored(n))) as archive:
        assert archive.namelist() == [f"{i}.txt" for i in range(n)]
        assert archive.testzip() is None
        for i in {0, n // 2, n - 1} & set(range(n)):
            assert archive.read(f"{i}.txt") == b"%d" % i


@pytest.mark.skipif(shutil.which("unzip") is None, reason="there is no unzip")
@pytest.mark.parametrize("n", [1, 65_536])
def test_unzip_finds_no_error(tmp_path: Path, n: int) -> None:
    (tmp_path / "some.zip").write_bytes(stored(n))
    told = subprocess.run(["unzip", "-tq", tmp_path / "some.zip"], capture_output=True, check=True)
    assert told.stdout.startswith(b"No errors")


def test_only_a_zip_that_needs_it_is_zip64() -> None:
    assert b"PK\6\6" not in stored(65_534)
    data = stored(65_535)
    (place,) = struct.unpack_from("<Q", data, len(data) - 22 - 20 + 8)  # in the locator
    assert data[place : place + 4] == b"PK\6\6"


def test_a_zip_names_one_fixed_day_and_ordinary_rights() -> None:
    with zipfile.ZipFile(io.BytesIO(stored(1))) as archive:
        about = archive.getinfo("0.txt")
    assert about.date_time == (1980, 1, 1, 0, 0, 0)
    assert about.external_attr >> 16 == 0o100644
    assert about.compress_type == zipfile.ZIP_STORED


def test_a_zip_can_be_unpacked_while_it_arrives() -> None:
    assert list(unpacked_from_the_front(stored(100))) == [
        (f"{i}.txt", b"%d" % i) for i in range(100)
    ]


def unpacked_from_the_front(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Files by the headers before them, as a reader of a pipe sees them."""
    at = 0
    while data[at : at + 4] == b"PK\3\4":
        flags, day, size, name_length = struct.unpack_from("<6xH4xH4xL4xH", data, at)
        assert flags == 0  # sizes are here, not behind
        assert day == 33  # 1 January 1980
        name = data[at + 30 : at + 30 + name_length].decode()
        at += 30 + name_length + size
        yield name, data[at - size : at]


def test_files_beyond_four_gib_are_found(tmp_path: Path) -> None:
    archive = StoredZip(3, lambda i: f"{i}.bin")
    with (tmp_path / "large.zip").open("wb") as f:
        for i in range(2):  # holes, which take no room on the disk
            f.write(archive.header(i, 0, 3 * GIB))
            f.seek(3 * GIB, io.SEEK_CUR)
        f.write(archive.files(2, [b"the last"]))
        f.writelines(archive.end())
    with zipfile.ZipFile(tmp_path / "large.zip") as read:
        assert read.getinfo("1.bin").header_offset == 3 * GIB + 35
        assert read.getinfo("2.bin").header_offset > 4 * GIB
        assert read.read("2.bin") == b"the last"
        assert read.getinfo("1.bin").file_size == 3 * GIB
