"""Owns the files that were made lately, so that a seed asked for again is not drawn again."""

from collections import OrderedDict

_ENTRY_BYTES = 256  # of the dictionary and its key, so that many small files count as well


class ByteCache:
    """Files by name, at most `max_bytes` of them; the least recently used go first.

    Not thread-safe: the event loop alone uses it, and each call takes a microsecond.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self.num_bytes = 0

    def get(self, name: str) -> bytes | None:
        """The file, which is then the last to go."""
        file = self._files.get(name)
        if file is not None:
            self._files.move_to_end(name)
        return file

    def put(self, name: str, file: bytes) -> None:
        """Keep it, and let go what is too much then."""
        if name in self._files:
            return
        self._files[name] = file
        self.num_bytes += len(file) + _ENTRY_BYTES
        while self.num_bytes > self._max_bytes:
            _, gone = self._files.popitem(last=False)
            self.num_bytes -= len(gone) + _ENTRY_BYTES
