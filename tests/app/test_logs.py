import io
import sys
from collections.abc import Iterator

import pytest
import structlog

from app.logs import configure_logs


class FullDisk(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def configured_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


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
