"""Owns how the service and its worker log: lines for people on a terminal, JSON elsewhere."""

import logging
import sys
from contextlib import suppress
from typing import Any

import structlog


class _Lossy(structlog.PrintLogger):
    """A line that cannot be written is lost: a full disk below the log ends nobody's work."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def configure_logs(level: int = logging.INFO) -> None:
    """On stderr, from `level` up."""
    render: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if sys.stderr.isatty():
        render = [structlog.dev.ConsoleRenderer()]  # shows an exception by itself
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lossy(sys.stderr),
    )
