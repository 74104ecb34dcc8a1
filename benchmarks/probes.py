"""Owns what benchmarks read back from the service: what a PNG says of itself, and its metrics."""

import json
import struct
from typing import Any

from app.bench.load import fetch
from app.bench.wire import Target

_KEYWORD = b"iTXtnoisewell\0\0\0\0\0"


def metadata_of(png: bytes) -> dict[str, Any]:
    """What the PNG says of itself; raises ValueError if it says nothing."""
    start = png.find(_KEYWORD)
    if not png.startswith(b"\x89PNG") or start < 4:
        raise ValueError("no PNG with metadata")
    (length,) = struct.unpack(">I", png[start - 4 : start])
    begin = start + len(_KEYWORD)
    return json.loads(png[begin : start + 4 + length])


async def metric(target: Target, name: str) -> float:
    """The sum of a metric's samples over its labels."""
    answer = await fetch(target, target.get("/metrics"))
    lines = answer.body.decode().splitlines()
    found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    if not found:
        raise ValueError(f"/metrics has no {name}")
    return sum(float(line.rpartition(" ")[2]) for line in found)
