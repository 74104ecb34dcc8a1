"""Owns talking to a running service: requests that are tried again, streams that go on."""

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from app.errors import NoisewellError

WAITS_SEC = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # before each further try of a stream
REQUEST_TRIES = 5  # a person waits for the answer, while a stream is left alone
TIMEOUT_SEC = 60.0  # of silence; a stream says something every 15 s
MAX_BODY_BYTES = 16_000_000
MAX_LINE_BYTES = 1_000_000


class ServiceError(NoisewellError):
    """The service refused: its own words, and the status it gave."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class SilentError(NoisewellError):
    """No answer that counts: the connection failed, or the service has no capacity now.

    wait_sec: as the service asks for, None if it did not come to that.
    """

    status = 503
    code = "unavailable"

    def __init__(self, detail: str, wait_sec: float | None = None) -> None:
        super().__init__(detail)
        self.wait_sec = wait_sec


@dataclass(frozen=True)
class StreamedEvent:
    """One event of a stream; one without `id` is news that nobody keeps."""

    id: int | None
    type: str
    data: dict[str, Any]


class Client:
    """Speaks to one service.

    told: hears, in a sentence, what is tried again and when. wait: lets so many seconds pass.
    Every method raises ServiceError for a refusal and SilentError once all tries are used up.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        told: Callable[[str], object],
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """Raises ValueError for a URL that is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}; expected such as http://127.0.0.1:8000")
        self._url = url
        self._make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._address = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._told = told
        self._wait = wait

    def get(self, path: str) -> Any:
        """The JSON answer."""
        return self._patiently(lambda: self._ask("GET", path, None, {}))

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON answer. It may be asked several times: only for what changes nothing twice."""
        return self._patiently(lambda: self._ask("POST", path, body, headers or {}))

    def post_once(self, path: str) -> Any:
        """The JSON answer of a request that is sent once."""
        return self._ask("POST", path, None, {})

    def events(self, path: str, after: int = 0) -> Generator[StreamedEvent]:
        """What a stream tells behind `after`, without end: each event once, in order.

        A connection that breaks or ends is opened again behind the last event seen.
        """
        tries = 0
        while True:
            try:
                for event in self._stream(path, after):
                    after, tries = event.id or after, 0
                    yield event
                raise SilentError(f"{self._url} ended the stream")
            except SilentError as error:
                if tries == len(WAITS_SEC):
                    raise
                self._pause(error, tries)
                tries += 1

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        for tries in range(REQUEST_TRIES - 1):
            try:
                return ask()
            except SilentError as error:
                self._pause(error, tries)
        return ask()

    def _pause(self, error: SilentError, tries: int) -> None:
        """Say why and wait before one more try."""
        seconds = max(WAITS_SEC[tries], min(error.wait_sec or 0.0, WAITS_SEC[-1]))
        self._told(f"{error.detail}; trying again in {seconds:g} s")
        self._wait(seconds)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Any:
        with self._answer(method, path, body, headers) as answer:
            try:
                return json.loads(answer.read(MAX_BODY_BYTES))
            except ValueError as error:  # http.client takes a body that was cut short for whole
                raise SilentError(f"{self._url} broke off its answer") from error

    def _stream(self, path: str, after: int) -> Generator[StreamedEvent]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self._answer("GET", path, None, headers) as answer:
            yield from _parse(answer)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Generator[HTTPResponse]:
        """An answer that is no error, while its connection is open."""
        content = None if body is None else json.dumps(body).encode()
        about = {} if body is None else {"Content-Type": "application/json"}
        connection = self._make(*self._address, timeout=TIMEOUT_SEC)
        try:
            connection.request(
                method, self._prefix + path, content, {**self._headers, **about, **headers}
            )
            answer = connection.getresponse()
            if answer.status >= 400:
                raise _refusal(answer, self._url)
            yield answer
        except (OSError, HTTPException) as error:
            told = str(error) or type(error).__name__
            raise SilentError(f"{self._url} does not answer: {told}") from error
        finally:
            connection.close()


def _refusal(answer: HTTPResponse, url: str) -> NoisewellError:
    try:
        detail = str(json.loads(answer.read(MAX_LINE_BYTES))["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{url} answered {answer.status} and no reason"
    if answer.status != 503:
        return ServiceError(detail, answer.status)
    after = answer.headers.get("Retry-After", "")
    return SilentError(detail, float(after) if after.isdecimal() else None)


def _parse(answer: HTTPResponse) -> Generator[StreamedEvent]:
    """The whole events of a stream; one that the end cuts off is not told."""
    fields: dict[str, str] = {}
    while line := answer.readline(MAX_LINE_BYTES):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            seq = int(fields["id"]) if "id" in fields else None
            yield StreamedEvent(seq, fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}
