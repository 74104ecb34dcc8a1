import sys
import time
from pathlib import Path

import pytest

from app.bench.child import Child, ChildError, descendants, free_port
from app.bench.load import fetch, run

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="wants /proc")

LISTENS = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
handler = http.server.SimpleHTTPRequestHandler
handler.protocol_version = "HTTP/1.1"
http.server.HTTPServer(("127.0.0.1", {port}), handler).serve_forever()
"""


def child(tmp_path: Path, code: str, **options: float) -> Child:
    port = free_port()
    command = (sys.executable, "-c", code.format(port=port))
    return Child(command, port, "/", tmp_path / "log.txt", **options)


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def ends(pid: int) -> bool:
    """Within some seconds: a killed process takes a moment."""
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


@needs_proc
def test_a_child_answers_when_it_is_there_and_leaves_nothing_behind(tmp_path: Path):
    with child(tmp_path, LISTENS) as started:
        assert run(fetch(started.target, started.target.get("/"))).status == 200
        assert started.rss_bytes() > 1_000_000
        assert 0 < started.cpu_sec() < 60
        (grandchild,) = descendants(started.pid)
        assert is_running(grandchild)
    assert ends(started.pid)
    assert ends(grandchild)


def test_a_child_that_ends_is_told_with_its_last_words(tmp_path: Path):
    broken = child(tmp_path, "import sys; sys.exit('no such model')  # {port}")
    with pytest.raises(ChildError, match=r"ended with code 1; last in .*: no such model"):
        broken.__enter__()


@needs_proc
def test_a_child_that_never_answers_is_given_up(tmp_path: Path):
    mute = child(tmp_path, "import time; time.sleep(60)  # {port}", timeout_sec=0.3)
    with pytest.raises(ChildError, match="does not answer after 0 s"):
        mute.__enter__()
    assert ends(mute.pid)
