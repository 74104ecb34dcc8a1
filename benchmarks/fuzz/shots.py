"""Owns what bytes are to HTTP, told by the parser that the service has, and what is due then."""

from dataclasses import dataclass

import httptools

_STREAM = b"text/event-stream"


@dataclass(frozen=True)
class Shot:
    """Bytes to send, and what they are.

    methods: of the requests in them that are whole, up to the first that ends the connection.
    plain: exactly one and nothing behind it, on a connection that stays: others may follow.
    refused: the parser found an error, behind those that are whole.
    """

    index: int
    data: bytes
    methods: tuple[bytes, ...]
    plain: bool
    refused: bool

    @property
    def stream(self) -> bool:
        """Its answer may have no end, so that its beginning is enough."""
        return _STREAM in self.data.lower()

    @property
    def due(self) -> int:
        """How many answers; a refusal may also be that the connection is closed."""
        return 1 if self.refused or (self.methods and self.stream) else len(self.methods)


class _Seen:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.methods: list[bytes] = []
        self.begun = 0
        self.kept = True
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        if self.kept:
            self.methods.append(self.parser.get_method())
            self.kept = self.parser.should_keep_alive()


def aim(index: int, data: bytes) -> Shot:
    """What `data` is."""
    seen, refused = _Seen(), False
    try:
        seen.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        refused = True
    plain = seen.begun == len(seen.methods) == 1 and seen.kept and not refused
    shot = Shot(index, data, tuple(seen.methods), plain, refused)
    return Shot(index, data, shot.methods, False, refused) if plain and shot.stream else shot
