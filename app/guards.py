"""Owns what every answer of the service says to browsers, wherever it is made."""

from collections.abc import Iterable

# Of every answer: it is what it says it is, tells no other site where it was seen, and is embedded
# by pages of the same site alone (another port of it is the same site).
_GUARDS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-site"),
)
# Of what is no page of ours, each of which brings its own: opened as one, it runs and fetches
# nothing. The style is the browser's own, around an image that is opened alone.
_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox",
)


def guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With what every answer of the service says to browsers."""
    given = [*headers, *_GUARDS]
    if all(name != _POLICY[0] for name, _ in given):
        given.append(_POLICY)
    return given
