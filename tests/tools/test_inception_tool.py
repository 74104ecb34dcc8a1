"""The converter opens one file only, elsewhere, and leaves a whole file or none."""

import hashlib
import io
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from typer.testing import CliRunner

import tools.inception as tool
from tools.inception import PUBLISHED, Source, cli, convert, download
from training.metrics.inception import load_inception, tensor_shapes
from training.model.checkpoint import CheckpointError

ROOT = Path(__file__).parents[2]


def source_of(data: bytes, url: str = "https://example.org/weights.pth") -> Source:
    return Source(url, len(data), hashlib.sha256(data).hexdigest())


def pickled(value):
    """As the published file is, in the format torch wrote before 1.6."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tensors():
    shapes = tensor_shapes()
    tensors = {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}
    counts = {f"{name.rpartition('.')[0]}.num_batches_tracked" for name in shapes if ".bn." in name}
    return tensors | {name: torch.tensor(0) for name in counts}


class Mine:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_the_weights_come_out_as_they_went_in(tensors, tmp_path):
    file, out = tmp_path / "weights.pth", tmp_path / "inception.safetensors"
    file.write_bytes(pickled(tensors))
    source = source_of(file.read_bytes())
    convert(file, out, source)
    with safe_open(out, framework="pt") as converted:
        assert converted.metadata()["source_sha256"] == source.sha256
        assert set(converted.keys()) == tensor_shapes().keys()
        for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.bn.running_var", "fc.bias"):
            assert torch.equal(converted.get_tensor(name), tensors[name])
    # It was made here, not from the published file: no FID can be measured with it.
    with pytest.raises(CheckpointError, match="FID is defined on '6726825d0af5'"):
        load_inception(out)


def test_the_one_file_that_is_read_is_the_published_one():
    assert PUBLISHED.num_bytes == 95_628_359
    assert PUBLISHED.sha256 == "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    assert PUBLISHED.url.startswith("https://github.com/mseitzer/pytorch-fid/releases/download/")


@pytest.mark.parametrize("size", [-1, 1], ids=["a byte short", "a byte long"])
def test_a_file_of_another_size_is_never_opened(tmp_path, size):
    file, out, mark = (tmp_path / name for name in ("weights.pth", "out", "mark"))
    data = pickled(Mine(mark))
    file.write_bytes(data)
    expected = Source("https://example.org", len(data) - size, source_of(data).sha256)
    with pytest.raises(
        ValueError, match=f"the published weights have {expected.num_bytes:,}; fetch"
    ):
        convert(file, out, expected)
    assert not mark.exists()
    assert not out.exists()


def test_a_file_of_another_hash_is_never_opened(tmp_path, monkeypatch):
    file, out, mark = (tmp_path / name for name in ("weights.pth", "out", "mark"))
    data = pickled(Mine(mark))
    file.write_bytes(data)
    monkeypatch.setattr(multiprocessing, "get_context", pytest.fail)
    with pytest.raises(
        ValueError, match=r"has SHA-256 .*, the published weights have 000000000000"
    ):
        convert(file, out, Source("https://example.org", len(data), "0" * 64))
    assert not mark.exists()
    assert not out.exists()


def test_a_pickle_that_runs_code_runs_none_even_under_the_right_hash(tmp_path, capfd):
    file, out, mark = (tmp_path / name for name in ("weights.pth", "out", "mark"))
    file.write_bytes(pickled(Mine(mark)))
    out.write_text("what was there")
    with pytest.raises(ValueError, match="the process that reads the weights died"):
        convert(file, out, source_of(file.read_bytes()))
    assert "Weights only load failed" in capfd.readouterr().err
    assert not mark.exists()
    assert out.read_text() == "what was there"


def test_weights_of_another_network_are_not_written(tmp_path, monkeypatch):
    file, out = tmp_path / "weights.pth", tmp_path / "out"
    file.write_bytes(b"another network")
    found = save({"fc.weight": torch.zeros(1000, 2048)})
    monkeypatch.setattr(tool, "_opened_elsewhere", lambda data, source: found)
    with pytest.raises(CheckpointError, match="is not the Inception-v3 of 2015-12-05"):
        convert(file, out, source_of(file.read_bytes()))
    assert not out.exists()


def hang(pipe, source):
    time.sleep(60)


def test_a_child_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    file.write_bytes(pickled({}))
    monkeypatch.setattr(tool, "_open_pickle", hang)
    monkeypatch.setattr(tool, "_TIMEOUT_SEC", 0.01)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="not read within"):
        convert(file, tmp_path / "out", source_of(file.read_bytes()))
    assert multiprocessing.active_children() == []
    assert time.monotonic() - begin < 30


def test_the_child_cannot_take_the_machine_s_memory():
    code = "import tools.inception as t; t._bound_this_process(); bytearray(5 << 30)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "MemoryError" in child.stderr


@pytest.fixture
def published() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server on this machine: its address and what it serves, by path."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in files else 404)
            self.end_headers()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", files
        server.shutdown()
        thread.join()


def test_a_download_of_the_right_hash_is_kept(published, tmp_path):
    address, files = published
    files["/w.pth"] = b"weights"
    download(tmp_path / "w.pth", source_of(b"weights", f"{address}/w.pth"))
    assert (tmp_path / "w.pth").read_bytes() == b"weights"


@pytest.mark.parametrize("sent", [b"weightz", b"weight", b"weights and more"])
def test_of_any_other_download_nothing_stays(published, tmp_path, sent):
    address, files = published
    files["/w.pth"] = sent
    with pytest.raises(ValueError, match=r"fetch http://.* again"):
        download(tmp_path / "w.pth", source_of(b"weights", f"{address}/w.pth"))
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_in_one_line(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"short")
    result = CliRunner().invoke(cli, ["convert", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "has 5 bytes, the published weights have 95,628,359; fetch" in result.stderr
    assert result.stderr.count("\n") == 1
