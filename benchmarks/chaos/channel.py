"""Owns how the process that does operations and the one that breaks it talk: JSON, by messages."""

import json
import socket
from typing import Any

MAX_BYTES = 100_000


class Channel:
    """One end of a Unix socket that keeps messages apart."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, **message: Any) -> None:
        self._socket.send(json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """The next message; None once the other side is gone. Raises TimeoutError."""
        received = self._socket.recv(MAX_BYTES)
        return json.loads(received) if received else None

    def close(self) -> None:
        self._socket.close()
