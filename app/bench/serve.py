"""Owns `noisewell bench serve`: what the service answers a second, beside what the parts could do.

The ideal is what one machine could carry if generator, encoder and HTTP cost nothing beyond
themselves: 1 / (1 / generator + 1 / encoder + 1 / static HTTP), each at its best thread count.
"""

import io
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.bench.child import Child, ChildError, free_port, service
from app.bench.load import ClosedLoad, fetch, run, steady
from app.bench.tally import Steady
from app.bench.wire import Answer, Target
from app.children import scrubbed_environment
from app.settings import Settings

CONNECTIONS = (64, 8, 1)
NPY_IMAGES, NPY_CONNECTIONS = 64, 4
_SERVING = ("device", "serving_threads", "max_batch_size", "max_queue_delay_ms")

Bare = dict[str, Any]

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Pace:
    """How long each figure takes at most: windows of so many seconds, until three agree."""

    window_sec: float
    max_windows: int
    bare_sec: float


@dataclass(frozen=True)
class Report:
    """png: by number of connections. static, bare: None or empty for a service elsewhere."""

    ref: str
    png: dict[int, Steady]
    not_modified: Steady
    npy: Steady
    static: Steady | None = None
    bare: list[Bare] = field(default_factory=list[Bare])

    @property
    def generator(self) -> float | None:
        """Images a second of the best bucket at the best thread count."""
        return max((rate for b in self.bare for rate in b["generator"].values()), default=None)

    @property
    def encoder(self) -> float | None:
        return max((b["encoder"] for b in self.bare), default=None)

    @property
    def ideal(self) -> float | None:
        parts = (self.generator, self.encoder, self.static.per_sec if self.static else None)
        known = [part for part in parts if part]
        return ideal_per_sec(*known) if len(known) == len(parts) else None

    def shares(self) -> dict[str, float | None]:
        """What the figures come to, of what they could be."""
        static = self.static.per_sec if self.static else None
        return {
            "png_64_of_ideal": _share(self.png[64].per_sec, self.ideal),
            "not_modified_of_static": _share(self.not_modified.per_sec, static),
            "npy_of_generator": _share(self.npy.images_per_sec, self.generator),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.ref,
            "png": {str(c): figure.to_json() for c, figure in sorted(self.png.items())},
            "not_modified": self.not_modified.to_json(),
            "npy": self.npy.to_json(),
            "static": self.static.to_json() if self.static else None,
            "bare": self.bare,
            "ideal_per_sec": self.ideal,
            "shares": self.shares(),
        }


@cli.command()
def main(
    url: Annotated[str, typer.Option(help="A running service, instead of one of its own.")] = "",
    model: Annotated[str, typer.Option(help="Its champion is asked for.")] = "mnist",
    quick: Annotated[bool, typer.Option("--quick", help="Shorter and rougher.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for programs.")] = False,
) -> None:
    """Measure the service: single PNGs, 304s and arrays, beside its parts and their ideal."""
    pace = Pace(1, 3, 0.3) if quick else Pace(3, 6, 1)
    try:
        report = _running(url, model, pace) if url else _own(model, pace)
    except (ChildError, ConnectionError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        typer.echo(shown(report), nl=False)


def ideal_per_sec(*parts: float) -> float:
    """Images a second where each passes all parts, each of which alone does so many a second."""
    return 1 / sum(1 / part for part in parts)


def _running(url: str, model: str, pace: Pace) -> Report:
    key = Settings().api_key
    target = Target.of(url, key.get_secret_value() if key else None)
    with _progress(_http_steps()) as step:
        return measured(target, model, pace, step)


def _own(model: str, pace: Pace) -> Report:
    """Its service has a key, as one that others can reach would."""
    settings, key = Settings(), secrets.token_urlsafe(16)
    env = scrubbed_environment() | {"NOISEWELL_API_KEY": key}
    env |= {f"NOISEWELL_{name.upper()}": str(getattr(settings, name)) for name in _SERVING}
    threads = sorted({1, os.cpu_count() or 1})
    with (
        tempfile.TemporaryDirectory(prefix="noisewell-bench-") as scratch,
        _progress(_http_steps() + 2 + len(threads)) as step,
    ):
        data_dir = Path(scratch) / "data"
        step("starting a service")
        with service(data_dir, env) as child:
            target = Target("127.0.0.1", child.target.port, key)
            png = Path(scratch) / "ready.png"
            png.write_bytes(_image(target, model).body)
            step("a ready PNG from memory")
            static = _static(png, pace)
            report = measured(target, model, pace, step)
        bare: list[Bare] = []
        for count in threads:
            step(f"generator and encoder, {count} thread(s)")
            bare.append(_bare(data_dir / "models", model, count, settings.device, pace))
        return replace(report, static=static, bare=bare)


def measured(
    target: Target,
    model: str,
    pace: Pace,
    step: Callable[[str], None],
) -> Report:
    first = _image(target, model)
    ref, etag = f"{model}@{first.header('x-model-version')}", first.header("etag") or ""
    draw = random.Random()
    same = target.get(f"/v1/models/{ref}/images/0.png", {"if-none-match": etag})

    def single(_: int) -> bytes:  # every seed once: no cache helps
        return target.get(f"/v1/models/{ref}/images/{draw.randrange(2**53)}.png")

    def array(_: int) -> bytes:
        seed = draw.randrange(2**53 - NPY_IMAGES)
        about = {"model": ref, "n": NPY_IMAGES, "seed": seed, "response": "npy"}
        return target.post("/v1/images", about)

    def figure(make: Callable[[int], bytes], connections: int, **options: Any) -> Steady:
        load = ClosedLoad(target, make, connections, **options)
        return run(_steady(load, pace))

    png: dict[int, Steady] = {}
    for connections in CONNECTIONS:
        step(f"single PNGs, {connections} connection(s)")
        png[connections] = figure(single, connections, check=_expect(200))
    step("304s")
    not_modified = figure(lambda _: same, 64, check=_expect(304))
    step(f"arrays of {NPY_IMAGES}")
    npy = figure(array, NPY_CONNECTIONS, images=NPY_IMAGES, check=_expect(200))
    return Report(ref, png, not_modified, npy)


def _expect(status: int) -> Callable[[int, Answer], str | None]:
    return lambda _, answer: None if answer.status == status else f"answered {answer.status}"


async def _steady(load: ClosedLoad, pace: Pace) -> Steady:
    async with load:
        await load.window(pace.window_sec)  # warms it up
        return await steady(load, pace.window_sec, pace.max_windows)


def _static(png: Path, pace: Pace) -> Steady:
    port = free_port()
    command = (sys.executable, "-m", "app.bench.static", str(png), str(port))
    with Child(command, port, "/image.png", png.with_name("static.log")) as child:
        request = child.target.get("/image.png")
        return run(_steady(ClosedLoad(child.target, lambda _: request, 64), pace))


def _bare(models_dir: Path, model: str, threads: int, device: str, pace: Pace) -> Bare:
    command = [sys.executable, "-m", "app.bench.bare", str(models_dir), model]
    command += ["--threads", str(threads), "--seconds", str(pace.bare_sec), "--device", device]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ChildError(f"the bare generator failed: {ended.stderr.strip()[-500:]}")
    return json.loads(ended.stdout)


def _image(target: Target, model: str) -> Answer:
    path = f"/v1/models/{model}/images/0.png"
    answer = run(fetch(target, target.get(path)))
    if answer.status != 200:
        raise ChildError(f"GET {path} answered {answer.status}: {answer.body[:200]!r}")
    return answer


def _http_steps() -> int:
    return len(CONNECTIONS) + 2


@contextmanager
def _progress(steps: int) -> Generator[Callable[[str], None], None, None]:
    """Gives a function that says what is measured next; the bar is on stderr."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=steps)
        begun = False

        def step(text: str) -> None:
            nonlocal begun
            bar.update(task, description=text, advance=1 if begun else 0)
            begun = True

        yield step


def _share(part: float, whole: float | None) -> float | None:
    return round(part / whole, 3) if whole else None


def shown(report: Report) -> str:
    """The report as tables."""
    console = Console(record=True, file=io.StringIO(), width=80)
    console.print(_answers(report))
    if report.bare:
        console.print(_parts(report.bare))
    if report.ideal:
        console.print(f"ideal: {report.ideal:,.0f} PNG/s")
    figures = [*report.png.values(), report.not_modified, report.npy]
    if failed := sum(figure.windows.failed for figure in figures):
        console.print(f"{failed:,} requests had no good answer: the service is not sound")
    if not all(figure.settled for figure in figures):
        console.print("?: no three windows in a row lay within 10 % of each other")
    return console.export_text()


def _answers(report: Report) -> Table:
    table = Table(title=f"{report.ref}, load from the same machine", title_justify="left")
    table.add_column("clients")
    for name in ("req/s", "images/s", "p50 ms", "p99 ms", "share"):
        table.add_column(name, justify="right")
    shares = report.shares()
    for clients, figure in sorted(report.png.items()):
        share = shares["png_64_of_ideal"] if clients == 64 else None
        _add(table, f"{clients} × PNG", figure, share, "of ideal")
    _add(table, "64 × 304", report.not_modified, shares["not_modified_of_static"], "of static")
    name = f"{NPY_CONNECTIONS} × npy of {NPY_IMAGES}"
    _add(table, name, report.npy, shares["npy_of_generator"], "of generator")
    if report.static:
        _add(table, "64 × static PNG", report.static, None, "")
    return table


def _add(table: Table, name: str, figure: Steady, share: float | None, of: str) -> None:
    rate = f"{figure.per_sec:,.0f}" + ("" if figure.settled else " ?")
    p50, p99 = (f"{figure.latency_ms(q):.2f}" for q in (0.5, 0.99))
    shown = "" if share is None else f"{share:.0%} {of}"
    table.add_row(name, rate, f"{figure.images_per_sec:,.0f}", p50, p99, shown)


def _parts(bare: list[Bare]) -> Table:
    table = Table(title="alone, images/s", title_justify="left")
    table.add_column("")
    for one in bare:
        table.add_column(f"{one['threads']} thread(s)", justify="right")
    for bucket in bare[0]["generator"]:
        rates = [one["generator"].get(bucket) for one in bare]
        shown = ["" if rate is None else f"{rate:,.0f}" for rate in rates]
        table.add_row(f"generator, bucket {bucket}", *shown)
    table.add_row("encoder", *(f"{one['encoder']:,.0f}" for one in bare))
    return table


if __name__ == "__main__":
    cli(prog_name="noisewell bench serve")
