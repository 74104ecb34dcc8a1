"""Owns texts that try to leave a folder: `..` in every spelling, roots, devices, NUL, Unicode."""

import random
from collections.abc import Iterator, Sequence
from itertools import product

_UPS = (
    *(b"../", b"..\\", b"..%2f", b"%2e%2e/", b"%2e%2e%2f", b"..%5c", b"%2e%2e%5c", b".%2e/"),
    *(b"%252e%252e%252f", b"..%252f", b"%25252e%25252e%25252f", b"..%c0%af", b"%c0%ae%c0%ae/"),
    *(b"..%u2215", b"%uff0e%uff0e/", b"....//", b"..././", b"..;/", b"..//", b"./../", b".././"),
    *(b".%00./", b"..%00/", b"..%0a/", b"..%09/", b"..\0/", b"../\0", b"%2e.%2f", b"..%2f%2f"),
    *(
        part.encode()
        for part in ("．．/", "‥/", "․․/", "..∕", "..／", "..⁄", "..＼", "%EF%BC%8E%EF%BC%8E/")
    ),
)
_PREFIXES = (
    *(
        b"",
        b"/",
        b"//",
        b"./",
        b".//",
        b"~/",
        b"~root/",
        b"mnist/",
        b"mnist@1/",
        b"mnist@",
        b"dots/",
    ),
    *(
        b"dots@1/",
        b"ds_/",
        b"job_/",
        b"shelf/",
        b"link/",
        b"samples/",
        b"file:",
        b"file://",
        b"file:///",
    ),
    *(
        b"C:",
        b"C:/",
        b"C:\\",
        b"\\\\127.0.0.1\\c$\\",
        b"\\\\?\\C:\\",
        b"\\\\.\\",
        b"/proc/self/cwd/",
    ),
    *(
        b"/proc/self/root/",
        b"/dev/fd/",
        b"/./",
        b"%2f",
        b"%252f",
        b"%5c",
        b"\\",
        b"%00/",
        b"\0/",
        b"%c0%af",
    ),
    *(
        b"a" * 255 + b"/",
        b"a/" * 200,
        b"a" * 3_000 + b"/",
        b"&path=",
        b"|",
        b"$(",
        b"`",
        b"{",
        b"%7b",
    ),
)
_SUFFIXES = (
    *(
        b"",
        b"%00",
        b"%00.png",
        b"\0",
        b"\0.png",
        b"@1",
        b"@champion",
        b"/",
        b"/.",
        b"//",
        b"#",
        b"?x",
    ),
    *(
        b".png",
        b"%20",
        b" ",
        b".",
        b"...",
        b"%2f",
        b";.png",
        b"%0a",
        b"::$DATA",
        b"~1",
        b"%23",
        b"@",
    ),
)
_ALONE = (
    *(
        b".",
        b"..",
        b"...",
        b"/",
        b"//",
        b"\\",
        b"\0",
        b"%00",
        b"%2e",
        b"%2e%2e",
        b"~",
        b"-",
        b"*",
        b"CON",
    ),
    *(
        b"NUL",
        b"COM1",
        b"LPT1.txt",
        b"aux.",
        b"link",
        b"link/",
        b".git",
        b".ssh/id_rsa",
        b"@",
        b"@1",
        b"@../1",
    ),
    *(
        b"mnist@../mnist/1",
        b"mnist@1/../../..",
        b"mnist@-1",
        b"mnist@0",
        b"mnist@1@1",
        b".1.deleted",
    ),
    *(
        b"aliases.json",
        b"noisewell.sqlite3",
        b"../noisewell.sqlite3",
        b"../serve.lock",
        b"../../serve.log",
    ),
    *(
        b"/etc/passwd",
        b"../../../../../../../../etc/passwd",
        b"/proc/self/environ",
        b"/dev/zero",
        b"/dev/stdin",
    ),
    *(
        b"a" * 256,
        b"a" * 70_000,
        b"../" * 1_500,
        b"%2e%2e%2f" * 500,
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xe2\x80\xae",
    ),
)


def payloads(targets: Sequence[str], count: int, seed: int = 0) -> list[bytes]:
    """`count` different texts, always the same; the files they are after are `targets`, given as
    absolute paths and as names. First every spelling alone, then what else goes together."""
    wanted = [target.encode() for target in targets]
    found: dict[bytes, None] = dict.fromkeys(_systematic(wanted))
    rng, texts = random.Random(seed), list(found)
    rng.shuffle(texts)
    texts = [*_ALONE, *wanted, *(text for text in texts if text not in _ALONE)]
    known = dict.fromkeys(texts[:count])
    while len(known) < count:
        up = rng.choice(_UPS) * rng.randint(0, 9)
        parts = rng.choice(_PREFIXES), up, rng.choice(wanted), rng.choice(_SUFFIXES)
        known[b"".join(parts)] = None
    return list(known)


def _systematic(wanted: Sequence[bytes]) -> Iterator[bytes]:
    for up, depth, target in product(_UPS, range(1, 9), wanted):
        yield up * depth + target.lstrip(b"/")
    for prefix, target in product(_PREFIXES, wanted):
        yield prefix + target
    for suffix, target in product(_SUFFIXES, wanted):
        yield target + suffix
