"""Owns many file names in little memory, and what two spellings of one name have in common."""

import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

MAX_NAME_BYTES = 4096


class Names(Sequence[str]):
    """Names by number, some eight bytes each beside their UTF-8.

    A list of 300,000 short strings takes 30 MB, this 10.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        """names: UTF-8, or as the file system has them."""
        self._ends = array("Q")
        text = bytearray()
        for name in names:
            text += name
            self._ends.append(len(text))
        self._text = bytes(text)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(len(self))[index]
        return self._name(numbers) if isinstance(numbers, int) else [*map(self._name, numbers)]

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for end in self._ends:
            yield stored_text(self._text[begin:end])
            begin = end

    def only(self, numbers: Sequence[int]) -> "Names":
        """Those of the numbers, which ascend; this itself if that is all of them."""
        if len(numbers) == len(self):
            return self
        return Names(stored_bytes(self._name(i)) for i in numbers)

    def _name(self, number: int) -> str:
        begin = self._ends[number - 1] if number else 0
        return stored_text(self._text[begin : self._ends[number]])


def stored_text(name: bytes) -> str:
    """A name as text; what is not UTF-8 becomes what Python has for that, lone surrogates."""
    return name.decode("utf-8", "surrogateescape")


def stored_bytes(name: str) -> bytes:
    """The inverse of `stored_text`."""
    return name.encode("utf-8", "surrogateescape")


def normal_name(name: str) -> str:
    """A relative path without `.` parts, doubled slashes or a last slash, in Unicode's form C.

    macOS writes é as two characters, others as one: to people both are one name, and so they are
    here. Case counts: `cat` and `Cat` are two names.
    """
    plain = name
    if not name.isascii():
        plain = unicodedata.normalize("NFC", name)
    if plain.startswith("./") or plain.endswith(("/", "/.")) or "//" in plain or "/./" in plain:
        plain = "/".join(part for part in plain.split("/") if part not in ("", "."))
    return plain


def printable(name: str) -> str:
    """`name` with what cannot be shown (stray bytes, control characters) written as escapes."""
    if name.isprintable():
        return name
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return "".join(shown)
