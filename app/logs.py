"""Owns how the service and its worker log: lines for people on a terminal, JSON elsewhere.

No key leaves by it, and no log that cannot be written stops what is logged about.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from pydantic import SecretStr

HIDDEN = "***"

# Without one of these nothing below finds anything; a line a request must cost little.
_HINT = re.compile("bearer|nw_|authorization|key|token|password|secret", re.IGNORECASE)

_SECRETS = (
    (re.compile(r"nw_[A-Za-z0-9_-]{43}"), HIDDEN),  # a key of app/keys.py, wherever it stands
    (re.compile(r"(?i)(bearer\s+)[^\s\"',;]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=,]\s*b?[\"']?)[^\"'\r\n,}]+"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:x-api-key|api[_-]?key|access[_-]?token|password|secret)"
            r"[\"']?\s*[:=,]\s*b?[\"']?)[^\s\"'&,;}\\]+"
        ),
        rf"\1{HIDDEN}",
    ),
)


def configure_logs(level: int = logging.INFO, secrets: Iterable[SecretStr | None] = ()) -> None:
    """On stderr, from `level` up; `secrets` are hidden wherever they turn up."""
    # What is wrong with a form its sender is told; here, its lines would be the sender's to write.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    scrub = Scrub(secret.get_secret_value() for secret in secrets if secret is not None)
    render: Any = structlog.processors.JSONRenderer(default=repr)
    if sys.stderr.isatty():
        # A traceback without local variables: those hold what nobody asked to be told.
        render = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            scrub.event,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(Sink(sys.stderr)),  # type: ignore[arg-type]
    )


class Scrub:
    """Hides keys: those it knows, and whatever stands where a key would."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = sorted({key for key in known if key}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """`text` without them."""
        for key in self._known:
            text = text.replace(key, HIDDEN)
        if _HINT.search(text) is None:
            return text
        for pattern, hidden in _SECRETS:
            text = pattern.sub(hidden, text)
        return text

    def event(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        """A processor before lines are made of events."""
        return self._value(event)

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case bool() | int() | float() | None:
                return value
            case Mapping():
                return {
                    self.text(str(name)): self._named(str(name), v) for name, v in value.items()
                }
            case list() | tuple() | set() | frozenset():
                return [self._value(v) for v in value]
            case _:
                return self.text(repr(value))

    def _named(self, name: str, value: Any) -> Any:
        """A value of a mapping: under the name of a key it is one."""
        if (
            isinstance(value, str)
            and _HINT.search(name)
            and self.text(f"{name}: x") != f"{name}: x"
        ):
            return HIDDEN
        return self._value(value)


class Sink:
    """Where lines go. A line that cannot be written is lost and counted; nothing else happens.

    Past Python's buffers, in which lines for a full disk would pile up.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lost = 0
        self._stream = stream
        self._lock = threading.Lock()
        try:
            self._fd: int | None = stream.fileno()
        except (OSError, ValueError, AttributeError):  # none, as under a test
            self._fd = None

    def write(self, text: str) -> None:
        """One line or several. Never raises."""
        with self._lock:
            if self.lost:
                text = f'{{"event": "lines of the log were lost", "lines": {self.lost}}}\n{text}'
            try:
                self._put(text)
                self.lost = 0
            except (OSError, ValueError):
                self.lost += 1

    def flush(self) -> None:
        """Nothing is kept back."""

    def _put(self, text: str) -> None:
        if self._fd is None:
            self._stream.write(text)
            self._stream.flush()
            return
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]
