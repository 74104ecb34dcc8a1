import socket
import subprocess
import sys

import pytest

# To 192.0.2.1 of TEST-NET-1, which nobody has.
TRIES = {
    "connect": "with socket.socket() as s: s.connect(('192.0.2.1', 80))",
    "connect_ex": "with socket.socket() as s: s.connect_ex(('192.0.2.1', 80))",
    "udp": "with socket.socket(type=socket.SOCK_DGRAM) as s: s.sendto(b'', ('192.0.2.1', 53))",
    "ipv6": "with socket.socket(socket.AF_INET6) as s: s.connect(('2001:db8::1', 80))",
    "name": "socket.getaddrinfo('example.com', 80)",
    "old": "socket.gethostbyname('example.com')",
    "url": "__import__('urllib.request').request.urlopen('http://192.0.2.1/')",
}


def taken(outbound) -> str:
    """What was written, which thereby counts no more."""
    told = outbound.read_text()
    outbound.write_text("")
    return told


@pytest.mark.parametrize("what", TRIES)
def test_this_process_reaches_no_other_machine(what: str, outbound) -> None:
    with pytest.raises((PermissionError, OSError)):
        exec(TRIES[what])
    assert "socket." in taken(outbound)


@pytest.mark.parametrize("what", ["connect", "name"])
def test_nor_does_a_process_that_it_starts_even_if_that_says_nothing(what: str, outbound) -> None:
    code = f"import socket\ntry:\n    {TRIES[what]}\nexcept OSError:\n    pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "socket." in taken(outbound)


def test_this_machine_is_reached(outbound) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    assert socket.getaddrinfo("localhost", 80)
    with socket.socket(socket.AF_UNIX) as unix, pytest.raises(OSError, match="No such file"):
        unix.connect("/nowhere.sock")
    assert taken(outbound) == ""
