"""Owns the comparison with other servers: the same generator behind each, one PNG a request.

Every peer is written as its own documentation recommends (benchmarks/peers/, one file each) and
lives in a virtual environment of its own under .peers/, which sees this project's packages, so that
torch is not installed again. Every server gets the same number of torch threads, every request a
random seed of its own, so that no cache can help. Servers take turns, one at a time, in several
rounds, each round in another order, with quiet gaps; ratios are taken inside a round.
"""

import importlib.metadata
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.bench.child import Child, ChildError, free_port, service
from app.bench.load import ClosedLoad, run, steady
from app.bench.tally import Steady
from app.bench.wire import Answer, Target
from training.model.threads import half_the_cores

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ROOT / "benchmarks" / "peers"
WARM_UP_SEC = 4
CONNECTIONS = (64, 1)

Figures = dict[int, Steady]  # by number of connections


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Peer:
    """command: arguments after the interpreter. ready: answers 200 to GET once it serves.
    request: a seed → the request for its image. body: how every good answer begins."""

    name: str
    requires: str | None
    command: tuple[str, ...]
    ready: str
    request: Callable[[Target, int], bytes]
    body: bytes = b"\x89PNG"

    @property
    def package(self) -> str:
        return (self.requires or "fastapi").partition("=")[0].partition(">")[0].partition("[")[0]

    @property
    def home(self) -> Path:
        return ROOT / ".peers" / self.package

    @property
    def python(self) -> str:
        return str(self.home / "bin" / "python") if self.requires else sys.executable


def _post_seed(path: str, field: str, listed: bool) -> Callable[[Target, int], bytes]:
    return lambda target, seed: target.post(path, {field: [seed] if listed else seed})


PEERS = (
    Peer(
        "FastAPI, plain",
        None,
        (str(SERVERS / "plain_fastapi.py"),),
        "/images/0.png",
        lambda target, seed: target.get(f"/images/{seed}.png"),
    ),
    Peer(
        "LitServe",
        "litserve==0.2.*",
        (str(SERVERS / "litserve_server.py"),),
        "/health",
        _post_seed("/predict", "seed", listed=False),
    ),
    Peer(
        "BentoML, PNG in JSON",
        "bentoml==1.4.*",
        ("-m", "bentoml", "serve", "bentoml_server:Images", "--working-dir", str(SERVERS)),
        "/readyz",
        _post_seed("/generate", "seeds", listed=True),
        b'["iVBOR',
    ),
    Peer(
        "BentoML, bare PNG",
        "bentoml==1.4.*",
        ("-m", "bentoml", "serve", "bentoml_png_server:Images", "--working-dir", str(SERVERS)),
        "/readyz",
        _post_seed("/generate", "seed", listed=False),
    ),
    Peer(
        "Ray Serve",
        "ray[serve]>=2.50,<3",
        (str(SERVERS / "ray_server.py"),),
        "/?seed=0",
        lambda target, seed: target.get(f"/?seed={seed}"),
    ),
)
NOISEWELL = Peer(
    "Noisewell",
    None,
    (),
    "/health/ready",
    lambda target, seed: target.get(f"/v1/models/mnist@1/images/{seed}.png"),
)


def install(peer: Peer) -> None:
    """A virtual environment with the peer in it, unless it is there; raises ChildError."""
    done = peer.home / "installed.txt"
    if peer.requires is None or (done.is_file() and done.read_text() == peer.requires):
        return
    say(f"installing {peer.requires} in {peer.home.relative_to(ROOT)}")
    venv.create(peer.home, clear=True, with_pip=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([peer.python, "-c", ask], text=True).strip()
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)}
    (Path(site) / "noisewell.pth").write_text("\n".join(sorted(ours)) + "\n")
    pip = [peer.python, "-m", "pip", "install", "--disable-pip-version-check", peer.requires]
    ended = subprocess.run(pip, capture_output=True, text=True)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["pip said nothing"]
        raise ChildError(f"not installed: {lines[-1]}")
    done.write_text(peer.requires)


def version_of(peer: Peer) -> str:
    if peer is NOISEWELL or peer.requires is None:
        return importlib.metadata.version("noisewell" if peer is NOISEWELL else "fastapi")
    ask = f"import importlib.metadata as m; print(m.version({peer.package!r}))"
    return subprocess.check_output([peer.python, "-c", ask], text=True).strip()


def started(peer: Peer, threads: int, scratch: Path) -> Child:
    """The peer's server, not yet entered."""
    (scratch / "bento").mkdir(exist_ok=True)
    port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NOISEWELL_")},
        "NOISEWELL_SERVING_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(scratch),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(scratch / "bento"),
    }
    log = scratch / f"{peer.package}.log"
    if peer is NOISEWELL:
        return service(scratch / "data", env, log)
    options = ("--host", "127.0.0.1", "--port", str(port)) if "serve" in peer.command else ()
    return Child((peer.python, *peer.command, *options), port, peer.ready, log, env)


async def measured(peer: Peer, target: Target, seconds: float, windows: int) -> Figures:
    draw = random.Random()

    def make(_: int) -> bytes:
        return peer.request(target, draw.randrange(2**53))

    def check(_: int, answer: Answer) -> str | None:
        if answer.status != 200 or answer.body.startswith(peer.body):
            return None
        return "no PNG"

    figures: Figures = {}
    for connections in CONNECTIONS:
        async with ClosedLoad(target, make, connections, check=check) as load:
            await load.window(WARM_UP_SEC)
            figures[connections] = await steady(load, seconds, windows)
    return figures


def main(
    only: Annotated[str, typer.Option(help="Such as litserve,bentoml; default all.")] = "",
    rounds: int = 3,
    seconds: Annotated[float, typer.Option(help="Of a window.")] = 3,
    windows: Annotated[int, typer.Option(help="At most so many, until three in a row agree.")] = 6,
    gap: Annotated[float, typer.Option(help="Seconds of quiet between two servers.")] = 3,
    threads: Annotated[int, typer.Option(help="torch's; 0 for half the cores.")] = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Serve the bundled generator by every peer and by Noisewell in turn, and print the table."""
    threads = threads or half_the_cores()
    wanted = _wanted(only)
    failed = _install_all(wanted)
    seen: dict[str, list[Figures]] = {peer.name: [] for peer in wanted}
    for number in range(rounds):
        start = number % len(wanted)
        for peer in (*wanted[start:], *wanted[:start]):
            if peer.name in failed:
                continue
            say(f"round {number + 1} of {rounds}: {peer.name}")
            try:
                seen[peer.name].append(_turn(peer, threads, seconds, windows))
            except (ChildError, OSError) as error:
                failed[peer.name] = f"did not serve: {error}"
            time.sleep(gap)
    rows = [_row(peer, seen, failed) for peer in wanted]
    if as_json:
        print(json.dumps({"threads": threads, "rounds": rounds, "rows": rows}, indent=2))
    else:
        _print(rows, f"one PNG a request, {threads} torch thread(s) each, {rounds} rounds")


def _wanted(only: str) -> list[Peer]:
    names = {name.strip().lower() for name in only.split(",") if name.strip()}
    if odd := names - {name for peer in PEERS for name in (peer.name.lower(), peer.package)}:
        raise SystemExit(f"no peer is called {sorted(odd)}; there are {[p.name for p in PEERS]}")
    return [NOISEWELL, *(p for p in PEERS if not names or names & {p.name.lower(), p.package})]


def _install_all(peers: list[Peer]) -> dict[str, str]:
    """Why those that could not be installed were not."""
    failed: dict[str, str] = {}
    for peer in peers:
        try:
            install(peer)
        except (ChildError, OSError, subprocess.SubprocessError) as error:
            failed[peer.name] = str(error)
    return failed


def _turn(peer: Peer, threads: int, seconds: float, windows: int) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as scratch,
        started(peer, threads, Path(scratch)) as child,
    ):
        return run(measured(peer, child.target, seconds, windows))


def _row(peer: Peer, seen: dict[str, list[Figures]], failed: dict[str, str]) -> dict[str, Any]:
    about: dict[str, Any] = {"name": peer.name}
    if peer.name in failed or not seen[peer.name]:
        return {**about, "failed": failed.get(peer.name, "not measured")}
    about["version"] = version_of(peer)
    for connections in CONNECTIONS:
        ours = [figures[connections] for figures in seen[NOISEWELL.name]]
        theirs = [figures[connections] for figures in seen[peer.name]]
        p50s = [f.latency_ms(0.5) for f in theirs]
        about[f"{connections} connections"] = {
            "per_sec": round(median(f.per_sec for f in theirs), 1),
            "p50_ms": round(median(p50s), 2),
            "p99_ms": round(median(f.latency_ms(0.99) for f in theirs), 2),
            "noisewell_per_sec_ratio": _ratio(
                [f.per_sec for f in ours], [f.per_sec for f in theirs]
            ),
            "noisewell_p50_ratio": _ratio([f.latency_ms(0.5) for f in ours], p50s),
            "not_good": sum(f.windows.failed for f in theirs),
            "settled": [f.settled for f in theirs],
            "rounds": [round(f.per_sec, 1) for f in theirs],
        }
    return about


def _ratio(ours: list[float], theirs: list[float]) -> float | None:
    """Ours over theirs, the median of the rounds."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=False) if b]
    return round(median(ratios), 2) if ratios else None


def _print(rows: list[dict[str, Any]], about: str) -> None:
    for connections in CONNECTIONS:
        table = Table(title=f"{about}, {connections} connection(s)", title_justify="left")
        table.add_column("server")
        for name in ("req/s", "p50 ms", "p99 ms", "Noisewell's req/s ×", "p50 ×", "not good"):
            table.add_column(name, justify="right")
        table.add_column("rounds")
        for row in rows:
            if "failed" in row:
                table.add_row(row["name"], row["failed"])
                continue
            seen = row[f"{connections} connections"]
            keys = ("per_sec", "p50_ms", "p99_ms", "noisewell_per_sec_ratio", "noisewell_p50_ratio")
            cells = [str(seen[key]) for key in (*keys, "not_good")]
            rounds = zip(seen["rounds"], seen["settled"], strict=True)
            shown = " ".join(f"{rate:g}{'' if settled else '?'}" for rate, settled in rounds)
            table.add_row(f"{row['name']} {row['version']}", *cells, shown)
        Console(width=140).print(table)
    print("ratios: Noisewell's figure over the server's, the median of the rounds;")
    print("?: no three windows in a row lay within 10 % of each other")


if __name__ == "__main__":
    typer.run(main)
