"""Owns the proof that a service which is told to stop under load fails no request it took.

Clients on keep-alive connections ask for PNGs and arrays of 64, without a pause, when SIGTERM
comes; they go on, and connect again, until nobody listens. A request counts as taken once it was
written to a connection that was made: each of them must get its answer, whole.
Only a connection that is refused is no failure. The service must end by itself with 0, within 30 s.
"""

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from app.bench.child import Child, service
from app.bench.load import ClosedLoad, run
from benchmarks.mix import mixed, not_ok
from benchmarks.verdicts import Verdicts

CLIENTS, ARRAYS = 32, 8  # of so many requests, one is for an array
ENDS_IN_SEC = 30.0
REFUSED = "cannot connect: ConnectionRefusedError"
PATIENT = {  # nobody is sent away for the load's sake: that is another benchmark
    "NOISEWELL_MAX_QUEUE_WAIT_MS": "30000",
    "NOISEWELL_START_WORKER": "false",
    "NOISEWELL_IMAGE_CACHE_BYTES": "0",
}


async def stopped(child: Child, draw: random.Random) -> tuple[float, Counter[str], int]:
    """Seconds from SIGTERM to the end, what went wrong, and how many answers were right."""
    requests = mixed(child.target, draw, ARRAYS)
    load = ClosedLoad(child.target, requests, CLIENTS, check=not_ok)
    async with load:
        await asyncio.sleep(draw.uniform(0.3, 1.0))
        began = time.perf_counter()
        await asyncio.to_thread(child.stop)
        seconds = time.perf_counter() - began
        result = load.cut()
    errors = Counter({what: n for what, n in result.errors.items() if what != REFUSED})
    return seconds, errors, result.ok


def main(rounds: Annotated[int, typer.Option(min=1)] = 50) -> None:
    """Stop a service under load, again and again."""
    verdicts, draw = Verdicts(), random.Random(0)
    seconds: list[float] = []
    errors: Counter[str] = Counter()
    whole = answers = 0
    with tempfile.TemporaryDirectory(prefix="noisewell-sigterm-") as scratch:
        for number in range(rounds):
            with service(Path(scratch) / "data", {**os.environ, **PATIENT}) as child:
                took, failed, ok = run(stopped(child, draw))
            if not ok:
                failed["no request was answered"] += 1
            if child.code != 0:
                failed[f"exit code {child.code}"] += 1
            seconds.append(took)
            errors += failed
            answers += ok
            whole += not failed
            print(f"{number + 1:>4}: {took:.1f} s, {ok} answers, {dict(failed) or 'none failed'}")
    verdicts.check(f"rounds without a failure: {whole} ({rounds}) {dict(errors) or ''}", not errors)
    verdicts.note(f"{answers:,} requests answered")
    verdicts.check(
        f"from SIGTERM to the end: median {median(seconds):.1f} s, at most {max(seconds):.1f} s"
        f" ({ENDS_IN_SEC:.0f})",
        max(seconds) < ENDS_IN_SEC,
    )
    raise SystemExit(verdicts.exit_code)


if __name__ == "__main__":
    typer.run(main)
