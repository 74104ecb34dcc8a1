import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import workers
from training.data.decode import Target
from training.data.importing import import_dataset
from training.data.options import ImportOptions, Limits
from training.data.outcomes import outcomes
from training.data.slots import BATCH_FILES
from training.data.sources import Item, Items
from training.data.workers import Decoders

GREY8, DEFAULT = Target(8, 1), Limits()


class Held:
    """A source of files in memory."""

    class_names = ()

    def __init__(self, files: list[bytes]) -> None:
        self._files = files
        self.items = Items(len(files), lambda i: Item(f"{i}.png", None, i))

    def read(self, item: Item) -> bytes:
        return self._files[item.key]


def results(files: list[bytes], limits: Limits = DEFAULT, target: Target | None = GREY8) -> list:
    """Reason and first pixel, or reason and header, of each file."""
    source, found = Held(files), []
    with Decoders(limits, len(files)) as decoders:
        for some in outcomes(source, decoders, target, {}):
            for o in some:
                pixel = None if o.pixels is None else int(o.pixels[0, 0, 0])
                found.append((o.reason, pixel if target else o.header))
    return found


def grey(encode, value: int) -> bytes:
    return encode(np.full((8, 8), value, np.uint8))


def slow_jpeg(side: int = 2000, scans: int = 400) -> bytes:
    """A progressive JPEG that says its last scan again and again: small, and seconds to decode."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def png(side: int, colours: int, rows: bytes) -> bytes:
    """A square PNG of one kind of colours, without a palette."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colours, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def large_png() -> bytes:
    """200 MB of pixels in 600 KB."""
    return png(7000, 2, bytes((7000 * 3 + 1) * 7000))


def test_what_pillow_raises_on_damage_is_a_reason_whatever_it_is():
    [(reason, _)] = results([png(8, 3, bytes(9 * 8))])  # AssertionError
    assert reason.startswith("cannot be decoded: ")


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "PPM", "WEBP", "JPEG", "BMP"])
def test_flipped_bytes_are_rejected_or_decoded_and_cost_no_decoder(encode, format):
    data = encode(np.arange(64, dtype=np.uint8).reshape(8, 8), format)
    rng, files = np.random.default_rng(1), []
    for _ in range(200):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(256)
        files.append(bytes(damaged))
    found = results(files)
    assert len(found) == 200
    assert not [r for r, _ in found if r and r.startswith(("makes", "takes"))]


SLOW = Limits(max_image_sec=0.4)
NARROW = Limits(max_decoder_bytes=330_000_000)  # 130 MB beside what is shared


@pytest.mark.parametrize("count", [1, 3])
def test_outcomes_come_in_the_order_of_the_source_however_many_decoders(encode, count, monkeypatch):
    monkeypatch.setattr(workers, "_processors", lambda: count)
    values = [i % 251 for i in range(10 * BATCH_FILES)]
    assert results([grey(encode, v) for v in values]) == [(None, v) for v in values]


def test_a_file_that_takes_too_long_is_rejected_and_its_neighbours_are_not(encode):
    files = [grey(encode, 1), slow_jpeg(), grey(encode, 2), slow_jpeg(), grey(encode, 3)]
    slow = "takes more than 0.4 s to decode (max_image_sec)"
    assert [r or v for r, v in results(files, SLOW)] == [1, slow, 2, slow, 3]


def test_a_file_that_takes_too_much_memory_is_rejected_and_its_neighbours_are_not(encode):
    found = results([grey(encode, 1), large_png(), grey(encode, 2)], NARROW)
    assert [v for _, v in found] == [1, None, 2]
    assert found[1][0] == "takes more memory to decode than 0.33 GB (max_decoder_bytes)"


def test_a_header_that_takes_too_long_is_rejected_too(encode):
    slow = b"P2 #" + b"x" * 30_000_000 + b"\n8 8 255\n"
    found = results([grey(encode, 1), slow, grey(encode, 2)], Limits(max_image_sec=0.2), None)
    assert found[1][0] == "takes more than 0.2 s to decode (max_image_sec)"
    assert [header is None for _, header in found] == [False, True, False]


def test_a_decoder_that_somebody_kills_costs_no_file(encode):
    files = [grey(encode, i % 251) for i in range(40 * BATCH_FILES)]
    killed, found = set(), []
    with Decoders(Limits(), len(files)) as decoders:
        for some in outcomes(Held(files), decoders, GREY8, {}):
            found += [o.reason for o in some]
            if len(found) // (8 * BATCH_FILES) > len(killed):
                killed.add(decoders.pids[0])
                os.kill(decoders.pids[0], signal.SIGKILL)
    assert len(killed) > 2
    assert found == [None] * len(files)


def test_a_decoder_that_stands_still_is_replaced(encode, monkeypatch):
    monkeypatch.setattr(workers, "STALL_SEC", 0.5)
    files = [grey(encode, i % 251) for i in range(20 * BATCH_FILES)]
    stopped, found = 0, []
    with Decoders(Limits(), len(files)) as decoders:
        for some in outcomes(Held(files), decoders, GREY8, {}):
            found += [o.reason for o in some]
            if not stopped:
                stopped = decoders.pids[0]
                os.kill(stopped, signal.SIGSTOP)
        assert stopped not in decoders.pids
    assert found == [None] * len(files)


def test_decoders_that_cannot_start_end_the_import_with_a_sentence(encode, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="does not start"):
        results([grey(encode, 1)])


def test_no_decoder_outlives_its_importer(tmp_path, encode):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(slow_jpeg())
    for i in range(20):
        (tmp_path / "in" / f"{i}.png").write_bytes(grey(encode, i))
    code = f"""
import time
from pathlib import Path
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.decode import Target
from training.data.workers import Decoders
from training.data.options import Limits
with Decoders(Limits(), 9) as decoders:
    for decoder in decoders._decoders:
        batch = decoders.room(Target(8, 1))
        batch.slot.add(Path({str(tmp_path / "in" / "1.jpg")!r}).read_bytes())
        decoders.send(batch)
    print(*decoders.pids, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    until = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert pids
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_no_process_is_started_for_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    np.save(tmp_path / "x.npy", np.zeros((3, 9, 9), np.uint8))
    options = ImportOptions("x", resolution=8)
    assert import_dataset(tmp_path / "x.npy", tmp_path / "out", options).num_images == 3
