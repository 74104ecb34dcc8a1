"""Owns the `noisewell` command: thin verbs over the service, the registry and training.

torch takes seconds to import, so only the verbs that need it do.
"""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.edge import is_loopback
from app.errors import NoisewellError
from app.settings import Settings
from training.model.registry import (
    Registry,
    UnknownModelError,
    UnknownVersionError,
)

CHUNK = 64
DataDir = Annotated[Path, typer.Option(help="Where models, datasets and jobs are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print data for programs.")]
_CHILD = {"allow_extra_args": True, "ignore_unknown_options": True}

cli = typer.Typer(
    name="noisewell",
    help="Noise in, PNG out; retrain while serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_cli = typer.Typer(help="What there is, and which version serves.", no_args_is_help=True)
cli.add_typer(models_cli, name="models")
data_cli = typer.Typer(help="Datasets: look at images, import them.", no_args_is_help=True)
cli.add_typer(data_cli, name="data")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Default ./data.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
) -> None:
    """Serve images over HTTP, with one training worker beside."""
    from app.logs import configure_logs
    from app.server import run_server
    from app.store.database import SchemaError

    settings = _settings(host=host, port=port, data_dir=data_dir, device=device)
    if settings.api_key is None and not is_loopback(settings.host):
        _fail(
            f"refusing to listen on {settings.host} without a key, since anybody could reach it; "
            f"set one, NOISEWELL_API_KEY=$(openssl rand -hex 32), or listen on 127.0.0.1"
        )
    configure_logs()
    try:
        run_server(settings)
    except BlockingIOError:
        _fail(f"another service uses {settings.data_dir}; stop it or give another --data-dir")
    except (ValueError, SchemaError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"cannot serve on {settings.host}:{settings.port} from {settings.data_dir}: {error}")


@cli.command()
def worker(
    data_dir: Annotated[Path | None, typer.Option(help="Default ./data.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
) -> None:
    """Run training jobs without serving."""
    from app.logs import configure_logs
    from app.worker import run_worker

    configure_logs()
    run_worker(_settings(data_dir=data_dir, device=device))


@cli.command(context_settings={**_CHILD, "help_option_names": []})
def train(ctx: typer.Context) -> None:
    """Turn a pile of images into generator weights."""
    _child("training.train", ctx.args)


@cli.command(context_settings={**_CHILD, "help_option_names": []})
def evaluate(ctx: typer.Context) -> None:
    """Measure a registered generator on images it was not trained on."""
    _child("training.evaluate", ctx.args)


@data_cli.command("inspect", context_settings={**_CHILD, "help_option_names": []})
def data_inspect(ctx: typer.Context) -> None:
    """Say what an import would do with a folder, a zip or an array."""
    _child("training.data", ["inspect", *ctx.args])


@data_cli.command("import", context_settings={**_CHILD, "help_option_names": []})
def data_import(ctx: typer.Context) -> None:
    """Pack images for training, with a verdict on every file."""
    _child("training.data", ["import", *ctx.args])


@cli.command(context_settings={**_CHILD, "help_option_names": []})
def bench(ctx: typer.Context) -> None:
    """Print figures about training: speed, spread over seeds, toys whose answer is known."""
    _child("training.bench", ctx.args)


@cli.command(context_settings={**_CHILD, "help_option_names": []})
def export(ctx: typer.Context) -> None:
    """Write a registered generator as ONNX."""
    _child("training.export", ctx.args)


@cli.command()
def sample(
    model: Annotated[str, typer.Option(help="NAME or NAME@VERSION.")],
    seeds: Annotated[str, typer.Option(help="Such as 7 or 0-63.")],
    out: Annotated[Path, typer.Option(help="Folder for the PNGs.")],
    class_: Annotated[str | None, typer.Option("--class", help="Name or index.")] = None,
    truncation: Annotated[float, typer.Option(help="0 < ψ ≤ 1.")] = 1.0,
    grid: Annotated[Path | None, typer.Option(help="All of them in one PNG, too.")] = None,
    data_dir: DataDir = Path("data"),
    device: str = "auto",
) -> None:
    """Write images of seeds to a folder, the same bytes as the service answers."""
    from app.ask import Ask, class_from_text, split_ref
    from app.engine import Engine
    from app.logs import configure_logs
    from app.png import encode_png
    from training.model.grid import make_grid
    from training.model.sampling import pick_device

    configure_logs(logging.WARNING)
    wanted = _parse_seeds(seeds)
    if not 0 < truncation <= 1:
        _fail(f"--truncation {truncation:g}; expected above 0 and at most 1")
    with _told_errors():
        engine = Engine(Registry(data_dir / "models"), pick_device(device), CHUNK, 1)
        loaded = engine.get(*split_ref(model))
        classes = None if class_ is None else class_from_text(loaded, class_)
        out.mkdir(parents=True, exist_ok=True)
        drawn: list[NDArray[np.uint8]] = []
        starts = range(wanted.start, wanted.stop, CHUNK)
        for start in track(starts, "sampling", console=Console(stderr=True)):
            some = range(start, min(start + CHUNK, wanted.stop))
            c = None if classes is None else np.full(len(some), classes, np.int64)
            ask = Ask(loaded, some, None, c, truncation)
            z, c = ask.draw()
            images = loaded.sampler(z, c)
            for i, pixels in enumerate(images):
                data = ask.encode(i, pixels, int(c[i]), "png")
                (out / f"seed-{some[i]}.png").write_bytes(data)
            if grid is not None:
                drawn.append(images)
        if grid is not None:
            grid.write_bytes(encode_png(make_grid(np.concatenate(drawn))))
    typer.echo(f"{len(wanted)} images of {loaded.ref} in {out}")


@models_cli.command("list")
def models_list(data_dir: DataDir = Path("data"), as_json: AsJson = False) -> None:
    """Every registered version, with its Fréchet distance and whether it serves."""
    registry = Registry(data_dir / "models")
    with _told_errors():
        rows = [
            {"model": model, "version": version, "champion": registry.champion(model) == version}
            | {"created_at": registry.manifest(model, version)["created_at"]}
            | {"fd_cnn": registry.metrics(model, version).get("fd_cnn")}
            for model in registry.list_models()
            for version in registry.versions(model)
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("model", "version", "", "fd_cnn", "created")
    for row in rows:
        cells = (row["model"], row["version"], "champion" if row["champion"] else "")
        table.add_row(*(str(c) for c in (*cells, row["fd_cnn"], row["created_at"])))
    Console().print(table)


@models_cli.command("show")
def models_show(ref: str, data_dir: DataDir = Path("data"), as_json: AsJson = False) -> None:
    """The card of a version, or all that is known about it as JSON."""
    registry = Registry(data_dir / "models")
    with _told_errors():
        model, version = registry.resolve(ref)
        if as_json:
            about = registry.manifest(model, version), registry.metrics(model, version)
            typer.echo(json.dumps({**about[0], "metrics": about[1]}, indent=2))
        else:
            typer.echo((registry.path(model, version) / "card.md").read_text("utf-8"))


@models_cli.command("promote")
def models_promote(ref: str, data_dir: DataDir = Path("data")) -> None:
    """Serve NAME@VERSION by default; running services follow within seconds."""
    registry = Registry(data_dir / "models")
    with _told_errors():
        model, version = registry.resolve(ref)
        registry.promote(model, version, "promoted from the command line")
    typer.echo(f"{model}@{version} is the champion")


@models_cli.command("rollback")
def models_rollback(model: str, data_dir: DataDir = Path("data")) -> None:
    """Serve the version that was champion before."""
    with _told_errors():
        version = Registry(data_dir / "models").rollback(model)
    typer.echo(f"{model}@{version} is the champion again")


def main() -> None:
    """The entry point of the `noisewell` command."""
    cli()


def _settings(**options: Any) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        _fail(f"{name} is {first.get('input')!r}: {first['msg']} (option or NOISEWELL_ variable)")


def _child(module: str, args: Sequence[str]) -> None:
    """Run a verb of `training` as a process of its own, and end as it ended."""
    code = subprocess.call([sys.executable, "-m", module, *args])
    raise SystemExit(code if code >= 0 else 128 - code)


def _parse_seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,16})(?:-(\d{1,16}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < 2**53:
        _fail(f"--seeds {text!r}; expected a number or a range such as 0-63, below 2^53")
    return range(first, last + 1)


@contextmanager
def _told_errors() -> Generator[None, None, None]:
    """One line for what a person can mend; a traceback for what is our fault."""
    try:
        yield
    except NoisewellError as error:
        _fail(error.detail)
    except (UnknownModelError, UnknownVersionError, ValueError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(f"Error: {' '.join(message.split())}", err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
