"""Owns the figures of many images at once: how fast they leave, and in how much memory (Linux).

    python benchmarks/bulk.py                       # n = 1,000, 10,000 and 100,000: minutes
    python benchmarks/bulk.py --counts 1000,10000

A service of its own, with the bundled model, on as many threads as it takes by itself. The last
column of a stream is the service's peak while it was sent; of `sample`, the command's.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.bench.child import Child, service
from app.bench.load import ClosedLoad, run, steady
from training.model.threads import half_the_cores

MODEL, BATCH = "mnist", 64
CHUNK_BYTES = 2**20


def main(
    counts: Annotated[str, typer.Option(help="Images of an answer.")] = "1000,10000,100000",
    connections: Annotated[int, typer.Option(help="Asking for a batch of npy each.")] = 4,
    window_sec: float = 2.0,
) -> None:
    """Print a table of streams and of `noisewell sample`, and npy n = 64 beside the generator."""
    table = Table("what", "n", "first byte", "seconds", "images/s", "MB", "peak MB")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        environment = {**os.environ, "NOISEWELL_START_WORKER": "false"}
        with service(data_dir, environment) as child:
            batches(child, data_dir, connections, window_sec)
            for n in map(int, counts.split(",")):
                for kind in ("npy", "zip", "ndjson"):
                    table.add_row(f"response {kind}", f"{n:,}", *streamed(child, kind, n))
        for n in map(int, counts.split(",")):
            for out in ("all.zip", "folder"):
                row = sampled(data_dir, data_dir / f"{n}" / out, n)
                table.add_row(f"sample --out {out}", f"{n:,}", *row)
    Console().print(table)


def batches(child: Child, data_dir: Path, connections: int, window_sec: float) -> None:
    """npy n = 64 back to back, with the bare generator before and after."""

    def make(i: int) -> bytes:
        body = {"model": MODEL, "seed": i * BATCH, "n": BATCH, "response": "npy"}
        return child.target.post("/v1/images", body)

    async def ask() -> float:
        async with ClosedLoad(child.target, make, connections=connections, images=BATCH) as load:
            await load.window(1.0)
            return (await steady(load, window_sec=window_sec, max_windows=6)).images_per_sec

    before, served, after = bare(data_dir), run(ask()), bare(data_dir)
    alone = (before + after) / 2
    print(
        f"bare generator, batch {BATCH}: {before:,.0f} and {after:,.0f} images/s; "
        f"npy n = {BATCH}, {connections} connections: {served:,.0f}, {served / alone:.0%} of it"
    )


def bare(data_dir: Path) -> float:
    """Images a second of the generator alone, in a process of its own."""
    command = [sys.executable, "-m", "app.bench.bare", str(data_dir / "models"), MODEL]
    command += ["--threads", str(half_the_cores()), "--seconds", "2"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(told.splitlines()[-1])["generator"][str(BATCH)]


def streamed(child: Child, kind: str, n: int) -> Iterator[str]:
    """First byte, seconds, images a second, size and the service's peak."""
    Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # forget the peak before
    connection = http.client.HTTPConnection(child.target.host, child.target.port, timeout=600)
    body = {"model": MODEL, "seed": 0, "n": n, "response": kind}
    began = time.perf_counter()
    connection.request("POST", "/v1/images", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    size, first = 0, 0.0
    while data := answer.read1(CHUNK_BYTES):
        first = first or time.perf_counter() - began
        size += len(data)
    seconds = time.perf_counter() - began
    connection.close()
    status = Path(f"/proc/{child.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e3
    return cells(f"{1e3 * first:.0f} ms", seconds, n, size, peak)


def sampled(data_dir: Path, out: Path, n: int) -> Iterator[str]:
    """The same of the command; the seconds count its start too."""
    command = [sys.executable, "-m", "app.cli", "sample", "--data-dir", str(data_dir)]
    command += ["--model", MODEL, "--seeds", f"0-{n - 1}", "--out", str(out)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    seconds = time.perf_counter() - began
    files = [out] if out.is_file() else out.iterdir()
    size = sum(file.stat().st_size for file in files)
    return cells("", seconds, n, size, usage.ru_maxrss / 1e3)


def cells(first: str, seconds: float, n: int, size: int, peak: float) -> Iterator[str]:
    yield first
    yield f"{seconds:.2f}"
    yield f"{n / seconds:,.0f}"
    yield f"{size / 1e6:.1f}"
    yield f"{peak:.0f}"


if __name__ == "__main__":
    typer.run(main)
