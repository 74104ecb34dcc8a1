"""Owns `noisewell models`: what is registered, and what is done to it, without a service."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.terminal import AsJson, DataDir, settings_from, told_errors
from training.model.registry import DamagedError, Registry

models_cli = typer.Typer(help="What there is, and which version serves.", no_args_is_help=True)


@models_cli.command("list")
def models_list(data_dir: DataDir = Path("data"), as_json: AsJson = False) -> None:
    """Every registered version, with its Fréchet distance and whether it serves."""
    registry = Registry(data_dir / "models")
    with told_errors():
        rows = [
            _row(registry, model, version)
            for model in registry.list_models()
            for version in registry.versions(model)
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("model", "version", "", "fd_cnn", "created")
    for row in rows:
        state = "damaged" if row["damage"] else "champion" if row["champion"] else ""
        cells = (row["model"], row["version"], state, row["fd_cnn"], row["created_at"])
        table.add_row(*map(str, cells))
    Console().print(table)


def _row(registry: Registry, model: str, version: int) -> dict[str, Any]:
    """One that cannot be read is told among the others."""
    row: dict[str, Any] = {"model": model, "version": version, "champion": False}
    row |= {"created_at": None, "fd_cnn": None, "damage": None}
    try:
        row["created_at"] = registry.manifest(model, version)["created_at"]
        row["fd_cnn"] = registry.metrics(model, version).get("fd_cnn")
        row["champion"] = registry.champion(model) == version
    except DamagedError as error:
        row["damage"] = str(error)
    return row


@models_cli.command("show")
def models_show(ref: str, data_dir: DataDir = Path("data"), as_json: AsJson = False) -> None:
    """The card of a version, or all that is known about it as JSON."""
    registry = Registry(data_dir / "models")
    with told_errors():
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
    with told_errors():
        model, version = registry.resolve(ref)
        wrong = registry.damage(model, version)
        if wrong is not None:
            raise ValueError(f"{model}@{version} cannot be promoted: {wrong}")
        registry.promote(model, version, "promoted from the command line")
    typer.echo(f"{model}@{version} is the champion")


@models_cli.command("rollback")
def models_rollback(model: str, data_dir: DataDir = Path("data")) -> None:
    """Serve the version that was champion before."""
    with told_errors():
        version = Registry(data_dir / "models").rollback(model)
    typer.echo(f"{model}@{version} is the champion again")


@models_cli.command("delete")
def models_delete(ref: str, data_dir: DataDir = Path("data")) -> None:
    """Remove NAME@VERSION for good, unless an alias names it; its number is not used again."""
    registry = Registry(data_dir / "models")
    with told_errors():
        model, version = _named(registry, ref)
        registry.delete(model, version)
    typer.echo(f"{model}@{version} is deleted")


@models_cli.command("export")
def models_export(ref: str, file: Path, data_dir: DataDir = Path("data")) -> None:
    """Write NAME@VERSION to one file, a zip, for `models import` elsewhere."""
    from app.transfer import export_version

    registry = Registry(data_dir / "models")
    with told_errors():
        model, version = registry.resolve(ref)
        export_version(registry, model, version, file)
    typer.echo(f"{model}@{version} is in {file}")


@models_cli.command("import")
def models_import(
    file: Path,
    name: Annotated[str | None, typer.Option(help="Default: what it was called.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Serve it by default.")] = False,
    data_dir: DataDir = Path("data"),
) -> None:
    """Register an exported version as the next one, if every byte of it is as it was exported."""
    from app.transfer import import_version

    registry = Registry(data_dir / "models")
    with told_errors():
        model, version = import_version(registry, file, name, settings_from().max_upload_bytes)
        if promote:
            registry.promote(model, version, f"imported from {file.name}")
    champion = " and the champion" if registry.champion(model) == version else ""
    typer.echo(f"{file} is {model}@{version}{champion}")


def _named(registry: Registry, ref: str) -> tuple[str, int]:
    """Of what is done for good, no champion is guessed. Raises like Registry.resolve."""
    if "@" not in ref:
        raise ValueError(f"{ref!r} names no version; expected NAME@VERSION")
    return registry.resolve(ref)
