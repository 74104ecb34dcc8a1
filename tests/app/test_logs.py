import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from app.logs import Scrub, Sink, configure_logs

KEY = "correct-horse-battery-staple"
OTHER = "0123456789abcdef0123456789abcdef"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def log_everything(monkeypatch, stream: io.StringIO) -> str:
    """What a log holds after keys turned up in every place there is."""
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs(secrets=[SecretStr(KEY), None])
    log = structlog.get_logger()
    log.info("headers", headers={"Authorization": f"Bearer {OTHER}", "X-API-Key": OTHER})
    log.info("raw", headers=[(b"authorization", f"Bearer {OTHER}".encode()), (b"x-api-key", b"k")])
    log.info("basic", text=f"Authorization: Basic {OTHER}")
    log.info("query", url=f"/v1/models?api_key={OTHER}&x=1", path=f"/{KEY}")
    log.info(f"sent {KEY}")
    log.info("nested", more={"deep": [{"list": (KEY,)}]}, thing=Path(KEY))
    log.info("named", **{"x-api-key": OTHER, "api_key": OTHER})
    try:
        raise ValueError(f"no such key: {KEY}; the header was Bearer {OTHER}")
    except ValueError:
        log.exception("failed")
    return stream.getvalue()


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_no_key_is_in_the_log(monkeypatch, make: Callable[[], io.StringIO]) -> None:
    told = log_everything(monkeypatch, make())
    assert KEY not in told
    assert OTHER not in told
    assert told.count("***") >= 9
    assert "ValueError" in told
    assert "x=1" in told


def test_elsewhere_than_on_a_terminal_every_line_is_json(monkeypatch) -> None:
    lines = log_everything(monkeypatch, io.StringIO()).splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["event"] == "headers"
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events)


def test_a_terminal_gets_lines_for_people(monkeypatch) -> None:
    told = log_everything(monkeypatch, Terminal())
    assert "headers" in told
    assert not told.startswith("{")


def test_what_is_bound_to_a_request_is_in_its_lines(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs()
    with structlog.contextvars.bound_contextvars(request_id="r-7"):
        structlog.get_logger().info("within")
    assert json.loads(stream.getvalue())["request_id"] == "r-7"


@pytest.mark.parametrize("text", ["7 images of toy@1", "the keys of a dictionary", "a secret"])
def test_plain_words_stay(text: str) -> None:
    assert Scrub([]).text(text) == text


def test_a_full_disk_behind_the_log_stops_nothing_and_is_told_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open("/dev/full", "w") as full, path.open("w") as roomy:
        sink = Sink(full)
        for i in range(1000):
            sink.write(f"line {i}\n")
        assert sink.lost == 1000
        os.dup2(roomy.fileno(), full.fileno())
        sink.write("there is room\n")
    first, second = path.read_text().splitlines()
    assert json.loads(first)["lines"] == 1000
    assert second == "there is room"


def test_a_closed_log_stops_nothing(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs()
    stream.close()
    structlog.get_logger().info("nobody reads this")


class FullDisk(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(28, "No space left on device")


def test_a_line_that_cannot_be_written_ends_nobody_s_work(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    configure_logs()
    log = structlog.get_logger()
    log.info("import started")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        log.exception("import broke off")


def test_a_line_is_written_where_it_can_be(capsys) -> None:
    configure_logs()
    structlog.get_logger().warning("disk is nearly full", free=3)
    assert '"free": 3' in capsys.readouterr().err


def test_a_form_that_is_broken_leaves_no_line_of_its_senders_words(caplog) -> None:
    logging.getLogger("python_multipart").setLevel(logging.NOTSET)
    configure_logs()
    parser = MultipartParser(b"x", {})
    with pytest.raises(FormParserError):
        parser.write(b"--y\r\n\r\n")
    assert caplog.records == []
