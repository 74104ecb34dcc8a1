"""Owns who in this process is told that a job or a dataset changed."""

import threading
from collections.abc import Callable

from app.errors import UnavailableError


class Changes:
    """A bounded set of callbacks; each is called, without arguments, after every committed write.

    `listening` is notified when one leaves. Writes of other processes are not seen, so a listener
    also looks for itself now and then.
    """

    def __init__(self) -> None:
        self.listening = threading.Condition()
        self._callbacks: dict[object, Callable[[], object]] = {}
        self.closed = False

    def __len__(self) -> int:
        return len(self._callbacks)

    def subscribe(self, callback: Callable[[], object], limit: int) -> Callable[[], None]:
        """Have `callback` (quick, callable from any thread) told; returns what ends that.

        Raises UnavailableError when `limit` listeners are there already.
        """
        token = object()
        with self.listening:
            if len(self._callbacks) >= limit:
                raise UnavailableError(
                    f"{limit} event streams are open, as many as max_event_streams allows;"
                    " close one or come back later.",
                    retry_after_sec=5,
                )
            self._callbacks[token] = callback
        return lambda: self._forget(token)

    def _forget(self, token: object) -> None:
        with self.listening:
            self._callbacks.pop(token, None)
            self.listening.notify_all()

    def tell(self) -> None:
        """Call every callback."""
        with self.listening:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def close(self) -> None:
        """Tell everybody one last time: `closed` is set, nothing will change any more."""
        self.closed = True
        self.tell()
