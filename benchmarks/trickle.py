"""Owns the slow clients: a process that keeps thousands of connections open and hardly uses them.

    python -m benchmarks.trickle KIND PORT COUNT SECONDS

KIND: `head` sends a byte of a header each second, `body` a byte of a body, `reader` asks for 90 KB
and reads nothing. Who is cut comes again, but for readers: to ask again is no slowness, and costs
what asking costs. They come within SECONDS: if all came at once, all would be cut at once. Says
`ready` once all are there, goes on until its standard input ends, waits for the last readers to be
cut, and prints as JSON what came of them.
"""

import json
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from app.bench.tally import quantile_of

SLOTS = 50  # of a second: each has its share of the clients
HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
BODY = (
    b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 100000\r\n\r\n{"model": "'
)
READER = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_ESTABLISHED, _CLOSED = 1, 7  # what Linux says of a connection
FIRST = {"head": HEAD, "body": BODY, "reader": READER}
MSS = 1400  # as of a client across a network; that of loopback would have megabytes on their way


@dataclass
class Clients:
    """All of one kind. after_sec: how long each of those that were cut had been there."""

    kind: str
    port: int
    began: dict[socket.socket, float] = field(default_factory=dict)
    after_sec: list[float] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter[str])
    slots: list[set[socket.socket]] = field(default_factory=lambda: [set() for _ in range(SLOTS)])
    seen: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def connect(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MSS)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        client.setblocking(False)
        client.send(FIRST[self.kind])
        self.began[client] = time.monotonic()
        if self.kind != "reader":
            self.seen.register(client, selectors.EVENT_READ)
        return client

    def fill(self, count: int) -> None:
        """So many are to be connected."""
        while len(self.began) < count:
            min(self.slots, key=len).add(self.connect())

    def slow(self, client: socket.socket) -> None:
        """A second has passed for it."""
        if self.kind == "reader":  # to read would be to take something
            state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            if state != _ESTABLISHED:
                self.cut(client, "reset" if state == _CLOSED else "closed")
        elif client in self.began:
            try:
                client.send(b"a")
            except OSError:
                self.cut(client, "reset")

    def look_until(self, end: float) -> None:
        """Who is answered, or cut, until then."""
        while (left := end - time.monotonic()) > 0:
            if self.kind == "reader":  # of those nothing is looked at
                time.sleep(left)
            else:
                self.look(left)

    def look(self, seconds: float) -> None:
        for key, _ in self.seen.select(seconds):
            client = key.fileobj
            assert isinstance(client, socket.socket)
            try:
                data = client.recv(65_536)
            except OSError:
                data = b""
            self.cut(client, data[9:12].decode("latin-1") or "closed")

    def cut(self, client: socket.socket, told: str) -> None:
        self.after_sec.append(time.monotonic() - self.began.pop(client))
        self.told[told] += 1
        if self.kind != "reader":
            self.seen.unregister(client)
        next(slot for slot in self.slots if client in slot).remove(client)
        client.close()


def main(kind: str, port: int, count: int, seconds: float) -> None:
    """Connect `count` of them, and keep as many."""
    clients = Clients(kind, port)
    stopping = selectors.DefaultSelector()
    stopping.register(sys.stdin, selectors.EVENT_READ)
    turn, began = 0, time.monotonic()
    while not stopping.select(0):
        for client in list(clients.slots[turn % SLOTS]):
            clients.slow(client)
        if kind != "reader" or turn <= seconds * SLOTS:
            clients.fill(min(count, int(count * turn / (seconds * SLOTS))))
        turn += 1
        if turn == int(seconds + 1) * SLOTS:
            print("ready", flush=True)
        clients.look_until(began + turn / SLOTS)
    last = time.monotonic() + 2 * seconds
    while kind == "reader" and clients.began and time.monotonic() < last:
        for client in list(clients.began):
            clients.slow(client)
        time.sleep(0.1)
    after = clients.after_sec
    spread = [round(quantile_of(after, q), 2) for q in (0.001, 0.5, 1)] if after else []
    print(json.dumps({"cut": len(after), "told": clients.told, "after_sec": spread}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
