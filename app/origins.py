"""Owns which names the service answers to, and which sites' pages may change something in it."""

import ipaddress
import re
from functools import lru_cache

from starlette.datastructures import Headers

from app.errors import CrossSiteError, MisdirectedError

_SAFE = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"\[?([a-z0-9._:-]{1,253}?)\]?(:[0-9]{1,5})?")
_SHOWN = 80


def is_loopback(host: str) -> bool:
    """Whether listening on `host` reaches this machine alone."""
    return host == "localhost" or _loops_back(host.strip("[]")) is True


def is_elsewhere(end: tuple[str, int | None] | None) -> bool:
    """Whether this end of a connection is an address beyond loopback; a name is none."""
    return end is not None and _loops_back(end[0]) is False


# Asked several times a request, of the same few addresses.
@lru_cache(maxsize=256)
def _loops_back(host: str) -> bool | None:
    """None of what is no address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return None


class Origins:
    """Checks of Host and Origin, which are what a browser says truthfully of a page.

    A page anywhere may point its own name at 127.0.0.1 (DNS rebinding), or post to it outright;
    neither needs a key where none is set.
    """

    def __init__(self, loopback: bool, allowed_hosts: tuple[str, ...]) -> None:
        """loopback: only this machine is listened to, so its own names are all there are.

        Beyond it, without `allowed_hosts`, any Host is answered: a key is wanted there.
        """
        self._others = frozenset(host.lower() for host in allowed_hosts)
        self._checked = loopback or bool(self._others)

    def check(self, method: str, headers: Headers) -> None:
        """Raises MisdirectedError or CrossSiteError."""
        host = headers.get("host", "").lower()
        if self._checked and host and not self._answers_to(_name(host)):
            raise MisdirectedError(
                f"this service does not answer to the host {_shown(host)}; if that is a name of it,"
                " put it in NOISEWELL_ALLOWED_HOSTS"
            )
        if method not in _SAFE:
            self._check_site(host, headers)

    def _answers_to(self, name: str | None) -> bool:
        return name is not None and (is_loopback(name) or name in self._others)

    def _check_site(self, host: str, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None:
            same = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        else:
            place = origin.lower().partition("://")[2]
            same = bool(place) and (place == host or _name(place) in self._others)
        if not same:
            raise CrossSiteError(
                f"a page of {_shown(origin or 'another site')} sent this through a browser, and"
                " only the service's own pages may; if that site is yours, put its host in"
                " NOISEWELL_ALLOWED_HOSTS"
            )


def _name(host: str) -> str | None:
    """The host without its port; None if it is no host."""
    found = _HOST.fullmatch(host)
    return found[1] if found else None


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])
