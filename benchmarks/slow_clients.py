"""Owns the proof that clients which are slow on purpose are cut, and that others hardly notice.

    python -m benchmarks.slow_clients

An honest client asks for PNGs at a steady rate. In turns with windows in which it is alone, 2,000
others send a byte of a head each second, or of a body, or read nothing of the 90 KB that they asked
for before. They came over the time of a deadline, so that in each window all of them are cut; heads
and bodies connect again at once. They are one more process on the same cores: what that takes there
is in the ratio too, and told beside it.

Before that, four requests are refused on the wire: a header of a megabyte, 10,000 headers, a length
beside chunks, no Host.
"""

import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from app.bench.child import Child, cpu_of, service
from app.bench.load import OpenLoad, run
from app.bench.tally import Result, merged
from benchmarks.mix import not_ok
from benchmarks.verdicts import Verdicts

KINDS = {"head": "slow heads", "body": "slow bodies", "reader": "slow readers"}
MAX_RATIO = 1.2
# As by default, but for bodies, which get 30.
DEADLINE_SEC = {"head": 10, "body": 10, "reader": 30}
# That a cut may come after the deadline. That of a reader counts from the last byte that its system
# took, which goes on for some seconds though nobody reads.
LATE_SEC = {"head": 1, "body": 1, "reader": 10}
WINDOW_SEC = 12
HOST = b"Host: 127.0.0.1\r\n"
REFUSED = {
    "a header of 1 MB": (431, b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 2**20 + b"\r\n\r\n"),
    "10,000 headers": (431, b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 10_000 + b"\r\n"),
    "Content-Length beside Transfer-Encoding": (
        400,
        b"POST /v1/images HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
}


@dataclass(frozen=True)
class Weight:
    """What the service holds."""

    rss_bytes: int
    descriptors: int

    @staticmethod
    def of(child: Child) -> "Weight":
        return Weight(child.rss_bytes(), len(list(Path(f"/proc/{child.pid}/fd").iterdir())))

    def __str__(self) -> str:
        return f"{self.rss_bytes / 2**20:.0f} MiB, {self.descriptors} descriptors"


@dataclass
class Seen:
    """Of one kind: the honest client's seconds, and what became of the slow ones."""

    alone: list[Result] = field(default_factory=list[Result])
    beside: list[Result] = field(default_factory=list[Result])
    reports: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    before: list[Weight] = field(default_factory=list[Weight])
    during: list[Weight] = field(default_factory=list[Weight])
    cpu_sec: list[float] = field(default_factory=list[float])  # of a second, by the slow ones


def refuse(verdicts: Verdicts, port: int) -> None:
    for name, (status, request) in REFUSED.items():
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(request)
            answer = b""
            while part := client.recv(65_536):
                answer += part
        ms = 1000 * (time.perf_counter() - began)
        got = answer[9:12].decode("latin-1")
        body = answer.partition(b"\r\n\r\n")[2]
        code = json.loads(body)["code"] if body else "no body"
        verdicts.check(
            f"{name}: {got} {code}, hung up after {ms:.0f} ms ({status})", got == str(status)
        )


async def beside(child: Child, kind: str, count: int, load: OpenLoad) -> Seen:
    """One window alone, one beside `count` slow clients."""
    seen = Seen()
    await load.window(1)
    seen.alone += [await load.window(1) for _ in range(WINDOW_SEC)]
    seen.before.append(Weight.of(child))
    command = [sys.executable, "-m", "benchmarks.trickle", kind, str(child.target.port)]
    command += [str(count), str(DEADLINE_SEC[kind])]
    slow = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert slow.stdin is not None
    assert slow.stdout is not None
    assert (await slow.stdout.readline()).strip() == b"ready"
    await load.window(1)
    cpu = cpu_of(slow.pid)
    seen.beside += [await load.window(1) for _ in range(WINDOW_SEC)]
    seen.cpu_sec.append((cpu_of(slow.pid) - cpu) / WINDOW_SEC)
    seen.during.append(Weight.of(child))
    slow.stdin.close()
    seen.reports.append(json.loads(await slow.stdout.readline()))
    await slow.wait()
    return seen


async def measure(
    child: Child, kinds: list[str], count: int, rate: float, rounds: int
) -> dict[str, Seen]:
    """All kinds in turns, again and again, so that what else the machine does meets all of them."""
    target, draw = child.target, random.Random(0)
    found = {kind: Seen() for kind in kinds}

    def make(_: int) -> bytes:
        return target.get(f"/v1/models/mnist/images/{draw.randrange(2**53)}.png")

    async with OpenLoad(target, make, 64, rate, check=not_ok) as load:
        for _ in range(rounds):
            for kind, seen in found.items():
                one = await beside(child, kind, count, load)
                for name, some in vars(one).items():
                    getattr(seen, name).extend(some)
    return found


def tell(verdicts: Verdicts, kind: str, seen: Seen, count: int) -> None:
    alone, attacked = merged(seen.alone), merged(seen.beside)
    cut = sum(report["cut"] for report in seen.reports)
    told: dict[str, int] = {}
    for report in seen.reports:
        for what, times in report["told"].items():
            told[what] = told.get(what, 0) + times
    spread = [report["after_sec"] for report in seen.reports if report["after_sec"]]
    first, last = min(s[0] for s in spread), max(s[-1] for s in spread)
    deadline_sec, slack = DEADLINE_SEC[kind], LATE_SEC[kind]
    verdicts.check(
        f"{count:,} {KINDS[kind]} at once: {cut:,} cut, {first:.2f} to {last:.2f} s after they"
        f" began (deadline {deadline_sec:g} s, at most {slack:g} s late); told {told}",
        cut >= count * len(seen.reports)
        and 0.95 * deadline_sec <= first
        and last <= deadline_sec + slack,
    )
    for name, result in (("alone", alone), ("beside them", attacked)):
        verdicts.note(
            f"{name}: {result.ok:,} answers, p50 {result.latency_ms(0.5):.2f} ms, p99"
            f" {result.latency_ms(0.99):.2f} ms {result.errors or ''}"
        )
    ratio = _of_a_second(seen.beside) / _of_a_second(seen.alone)
    verdicts.check(
        f"p99 of a second, median of {len(seen.beside)}: {_of_a_second(seen.beside):.2f} ms beside"
        f" them, {_of_a_second(seen.alone):.2f} alone: {ratio:.2f} × ({MAX_RATIO}); they themselves"
        f" took {max(seen.cpu_sec):.0%} of a core",
        ratio <= MAX_RATIO,
    )
    verdicts.check(
        f"requests that failed: {alone.failed + attacked.failed} (0)", not attacked.failed
    )
    verdicts.note(f"the service meanwhile: {max(seen.during, key=lambda w: w.rss_bytes)}")


def main(
    count: Annotated[int, typer.Option(help="Slow clients at once.")] = 2000,
    rate: Annotated[float, typer.Option(help="Of the honest client, requests a second.")] = 200,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    kind: Annotated[list[str] | None, typer.Option(help="head, body, reader.")] = None,
) -> None:
    """Serve an honest client beside slow ones."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    env = {**os.environ, "NOISEWELL_START_WORKER": "false", "NOISEWELL_IMAGE_CACHE_BYTES": "0"}
    for slow, name in (("head", "HEADER"), ("body", "BODY"), ("reader", "UNREAD")):
        env[f"NOISEWELL_MAX_{name}_SEC"] = str(DEADLINE_SEC[slow])
    verdicts = Verdicts()
    with (
        tempfile.TemporaryDirectory(prefix="noisewell-slow-") as scratch,
        service(Path(scratch) / "data", env) as child,
    ):
        refuse(verdicts, child.target.port)
        _calm(child)
        found = run(measure(child, kind or list(KINDS), count, rate, rounds))
        before = next(iter(found.values())).before[0]
        for slow, seen in found.items():
            tell(verdicts, slow, seen, count)
        after = _settled(child, before)
        verdicts.check(
            f"before: {before} (with connections of the honest client); after: {after}",
            after.descriptors <= before.descriptors,
        )
    raise SystemExit(verdicts.exit_code)


def _of_a_second(windows: list[Result]) -> float:
    """Milliseconds; the median, so that a neighbour of this machine who is busy for some seconds
    does not count as what is measured."""
    return median(window.latency_ms(0.99) for window in windows)


def _calm(child: Child) -> None:
    """Until all models are loaded."""
    used, end = child.cpu_sec(), time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(1)
        if child.cpu_sec() - used < 0.05:
            return
        used = child.cpu_sec()


def _settled(child: Child, before: Weight) -> Weight:
    """Once the connections are gone, or after some seconds."""
    end = time.monotonic() + 15
    while (after := Weight.of(child)).descriptors > before.descriptors and time.monotonic() < end:
        time.sleep(0.5)  # of which nobody tells
    return after


if __name__ == "__main__":
    typer.run(main)
