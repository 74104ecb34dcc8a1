"""Owns the guard against outbound connections: Python loads it at the start of each process.

Sockets may reach this machine and no other. Whoever tries is refused, and stands in the file that
SOCKET_GUARD names, so that it is found out even if the error is swallowed.
"""

import ipaddress
import os
import sys

_REACHING = ("socket.connect", "socket.sendto", "socket.sendmsg")
_NAMING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
# Of its own machine a torchrun asks for the full name, which a resolver may ask others for.
_OWN_NAMES = (None, "", "localhost", os.uname().nodename)


def is_here(host: object) -> bool:
    """Whether a host is this machine, without asking anybody."""
    text = host.decode("latin-1") if isinstance(host, bytes) else host
    if text in _OWN_NAMES:
        return True
    try:
        address = ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return False  # a name, which somebody else would have to resolve
    return address.is_loopback or address.is_unspecified


def look(event: str, args: tuple) -> None:
    """Raises PermissionError for what leaves the machine."""
    if not event.startswith("socket."):
        return
    if event in _REACHING:
        address = args[1]
        here = not isinstance(address, tuple) or is_here(address[0])  # a path: a Unix socket
    elif event in _NAMING:
        address = args[0]
        here = is_here(address)
    else:
        return
    if not here:
        tell(f"{event} {address!r} by {sys.argv[0] or sys.executable}")
        raise PermissionError(f"{event} to {address!r}: tests reach no other machine")


def tell(what: str) -> None:
    """One line for the suite to find, whatever process it is."""
    path = os.environ.get("SOCKET_GUARD")
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(what + "\n")


sys.addaudithook(look)
