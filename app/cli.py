"""Owns the `noisewell` command: thin verbs over the service, the registry and training.

torch takes seconds to import, so only the verbs that need it do.
"""

import logging
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from app.data_cli import data_cli
from app.jobs_cli import jobs_cli
from app.keys_cli import keys_cli
from app.models_cli import models_cli
from app.terminal import (
    PASSED_ON,
    AsJson,
    DataDir,
    fail,
    local_engine,
    run_child,
    settings_from,
    told_errors,
)
from app.train_cli import train
from app.upkeep_cli import doctor, gc
from training.model.files import write_atomic

cli = typer.Typer(
    name="noisewell",
    help="Noise in, PNG out; retrain while serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(models_cli, name="models")
cli.command()(doctor)
cli.command()(gc)
cli.command(context_settings=PASSED_ON)(train)
cli.add_typer(data_cli, name="data")
cli.add_typer(jobs_cli, name="jobs")
cli.add_typer(keys_cli, name="keys")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Default ./data.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
) -> None:
    """Serve images over HTTP, with one training worker beside."""
    from app.keys import Keyring
    from app.logs import configure_logs
    from app.main import other_service, refuse_to_be_open
    from app.server import run_server
    from app.store.database import SchemaError

    settings = settings_from(host=host, port=port, data_dir=data_dir, device=device)
    configure_logs(secrets=[settings.api_key])
    try:
        if not settings.database_path.exists():  # where keys are, so that there can be none
            refuse_to_be_open(Keyring(settings.api_key), settings)
        run_server(settings)
    except (ValueError, SchemaError) as error:
        fail(str(error))
    except OSError as error:
        # Its address is taken before its directory is looked at, though the first one has both.
        if first := other_service(settings.data_dir):
            told = f"another service, {first}, uses {settings.data_dir}"
            fail(f"{told}; stop it or give another --data-dir")
        fail(f"cannot serve on {settings.host}:{settings.port} from {settings.data_dir}: {error}")


@cli.command()
def worker(
    data_dir: Annotated[Path | None, typer.Option(help="Default ./data.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
) -> None:
    """Run training jobs without serving."""
    from app.logs import configure_logs
    from app.store.database import SchemaError
    from app.worker import run_worker

    configure_logs()
    try:
        run_worker(settings_from(data_dir=data_dir, device=device))
    except SchemaError as error:
        fail(str(error))


@cli.command(context_settings=PASSED_ON)
def evaluate(ctx: typer.Context) -> None:
    """Measure a registered generator on images it was not trained on."""
    raise SystemExit(run_child("training.evaluate", ctx.args))


@cli.command(context_settings=PASSED_ON)
def bench(ctx: typer.Context) -> None:
    """Print figures: `bench serve` of the service; speed, seeds and toys of training."""
    if ctx.args[:1] == ["serve"]:
        raise SystemExit(run_child("app.bench.serve", ctx.args[1:]))
    if ctx.args[:1] in ([], ["--help"]):
        typer.echo("Of the service: noisewell bench serve --help\nOf training:")
    raise SystemExit(run_child("training.bench", ctx.args))


@cli.command(context_settings=PASSED_ON)
def export(ctx: typer.Context) -> None:
    """Write a registered generator as ONNX."""
    raise SystemExit(run_child("training.export", ctx.args))


@cli.command()
def sample(
    model: Annotated[str, typer.Option(help="NAME or NAME@VERSION.")],
    seeds: Annotated[str, typer.Option(help="Such as 7 or 0-63.")],
    out: Annotated[Path, typer.Option(help="Folder for the PNGs, or one file NAME.zip.")],
    class_: Annotated[str | None, typer.Option("--class", help="Name or index.")] = None,
    truncation: Annotated[float, typer.Option(help="0 < ψ ≤ 1.")] = 1.0,
    grid: Annotated[Path | None, typer.Option(help="All of them in one PNG, too.")] = None,
    data_dir: DataDir = Path("data"),
    device: str = "auto",
) -> None:
    """Write images of seeds, the same bytes as the service answers, and a manifest of them."""
    from app.ask import Ask, class_from_text, split_ref
    from app.logs import configure_logs
    from app.png import encode_png
    from app.sample import empty_grid, write_samples

    configure_logs(logging.WARNING)
    wanted = _parse_seeds(seeds)
    n = len(wanted)
    if not 0 < truncation <= 1:
        fail(f"--truncation {truncation:g}; expected above 0 and at most 1")
    settings = settings_from()
    with told_errors():
        loaded = local_engine(data_dir, device, settings).get(*split_ref(model))
        index = None if class_ is None else class_from_text(loaded, class_)
        classes = None if index is None else np.broadcast_to(np.int64(index), n)
        ask = Ask(loaded, wanted, None, classes, truncation)
        picture = None if grid is None else empty_grid(ask, n, settings.max_pixels_per_request)
        with _progress(n) as advance:
            write_samples(ask, n, out, picture, advance)
        if grid is not None and picture is not None:
            grid.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(grid, encode_png(picture.pixels))
    typer.echo(f"{n} images of {loaded.ref} in {out}")


@cli.command()
def verify(
    image: Annotated[Path, typer.Argument(help="A PNG as it was made.")],
    data_dir: DataDir = Path("data"),
    device: str = "auto",
    as_json: AsJson = False,
) -> None:
    """Render an image again: 0 if it is what its metadata says, 1 if it differs, 2 if unknown."""
    from app.logs import configure_logs
    from app.verification import again, read_picture, verdict

    configure_logs(logging.WARNING)
    settings = settings_from()
    with told_errors():
        with image.open("rb") as file:
            picture = read_picture(file.read(settings.max_verify_bytes + 1), settings)
        engine = local_engine(data_dir, device, settings)
        loaded = engine.get(picture.claims.model, picture.claims.version)
        images = loaded.sampler(*again(picture, loaded).draw())
        result = verdict(picture, loaded, images[0])
    told = f"{result.verdict}: {result.detail}"
    typer.echo(result.model_dump_json(by_alias=True, indent=2) if as_json else told)
    raise SystemExit(0 if result.match else 1)


def main() -> None:
    """The entry point of the `noisewell` command."""
    cli()


@contextmanager
def _progress(n: int) -> Generator[Callable[[int], None], None, None]:
    """A bar on stderr for n images, moved by what it gives; Ctrl-C ends the command in one line."""
    columns = ("sampling", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("sampling", total=n)
    try:
        with bar:
            yield lambda more: bar.advance(task, more)
    except KeyboardInterrupt:
        done = int(bar.tasks[0].completed)
        typer.echo(f"Stopped after {done} of {n} images; the same command makes all", err=True)
        raise SystemExit(130) from None  # as a shell reports what Ctrl-C ended


def _parse_seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,16})(?:-(\d{1,16}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < 2**53:
        fail(f"--seeds {text!r}; expected a number or a range such as 0-63, below 2^53")
    return range(first, last + 1)


if __name__ == "__main__":
    main()
