"""Owns `noisewell data`: images are brought into a data folder, listed and looked at."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.settings import Settings
from app.store.datasets import StoredDataset
from app.terminal import (
    PASSED_ON,
    AsJson,
    fail,
    open_store,
    run_child,
    settings_from,
    told_errors,
)

data_cli = typer.Typer(help="Datasets: look at images, import them.", no_args_is_help=True)

# What is not known here is the child's, with its values; so the source has to come first.
First = Annotated[str | None, typer.Argument(metavar="SOURCE")]
DataDir = Annotated[Path | None, typer.Option(help="Default ./data.")]


@data_cli.command("import", context_settings=PASSED_ON)
def data_import(
    ctx: typer.Context,
    source: First = None,
    out: Annotated[str | None, typer.Option(help="A directory to make; default: none.")] = None,
    name: Annotated[str | None, typer.Option(help="Default: as the source.")] = None,
    append_to: Annotated[str | None, typer.Option(help="A dataset, by name or folder.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Pack images for training, with a verdict on every file."""
    if out is not None or not is_source(source):
        given = options(("--out", out), ("--name", name), ("--append-to", append_to))
        raise SystemExit(run_child("training.data", ["import", *first(source), *ctx.args, *given]))
    from app.intake import bring_in, name_from

    settings, path = settings_from(data_dir=data_dir), Path(source or "")
    if not path.exists():
        fail(f"{source!r} does not exist; expected a folder or a file of images")
    more = list(ctx.args)
    if append_to is not None and not Path(append_to).exists():
        base = stored(settings, append_to)
        append_to, name = str(settings.datasets_dir / base.id), name or base.name
    more += options(("--append-to", append_to))
    with told_errors(), open_store(settings) as store:
        dataset, is_new = bring_in(settings, store, path, name or name_from(path), more)
    ref, place = f"{dataset.name}@{dataset.version}", settings.datasets_dir / dataset.id
    what = f"{ref} is in {place}" if is_new else f"nothing new: {ref} has just these images"
    typer.echo(f"{what}; noisewell train {ref} trains on it", err=True)


@data_cli.command("list")
def data_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every dataset of the data folder, the newest first."""
    settings = settings_from(data_dir=data_dir)
    rows: list[dict[str, Any]] = []
    if settings.database_path.exists():
        with told_errors(), open_store(settings) as store:
            rows = [_row(settings, dataset) for dataset in store.list_datasets()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    names = ("dataset", "images", "classes", "size", "held out", "copies", "hash", "MB")
    table = Table(*names, box=None, padding=(0, 2, 0, 0))  # all of it in 80 columns
    for row in rows:
        side, state = row["resolution"], row["status"]
        facts = (row["images"], row["classes"], f"{side}×{side}×{row['channels']}")
        more = (
            row["held_out"],
            row["duplicates"],
            str(row["hash"])[:8],
            f"{row['bytes'] / 1e6:.1f}",
        )
        cells = (*facts, *more) if state == "ready" else (state,)
        table.add_row(row["dataset"], *("" if cell is None else str(cell) for cell in cells))
    Console().print(table)


@data_cli.command("inspect", context_settings=PASSED_ON)
def data_inspect(ctx: typer.Context, source: First = None, data_dir: DataDir = None) -> None:
    """Say what a dataset holds, or what an import would do with a folder, a zip or an array."""
    if is_source(source) and not Path(source or "").exists():
        settings = settings_from(data_dir=data_dir)
        source = str(settings.datasets_dir / stored(settings, source or "").id)
    raise SystemExit(run_child("training.data", ["inspect", *first(source), *ctx.args]))


def stored(settings: Settings, ref: str) -> StoredDataset:
    """The ready dataset of the data folder that is called so; ends the command if there is none."""
    nowhere = f"{ref!r} is no folder or file, and {str(settings.data_dir)!r} has no such dataset"
    if not settings.database_path.exists():
        fail(nowhere)
    with told_errors(), open_store(settings) as store:
        known = store.list_datasets()
        names = ", ".join(sorted({d.name for d in known if d.status == "ready"})) or "none"
        found = [d for d in known if ref in (d.id, d.name, f"{d.name}@{d.version}")]
        if not any(d.status == "ready" for d in found):
            fail(f"{nowhere} that is ready; there is {names}")
        return store.get_dataset(ref)


def is_source(text: str | None) -> bool:
    """Whether the first word of a command says where images are, and is no option."""
    return text is not None and not text.startswith("-")


def first(source: str | None) -> list[str]:
    """The first word again, for a child."""
    return [] if source is None else [source]


def options(*given: tuple[str, object | None]) -> list[str]:
    """Those options again that have a value, for a child."""
    return [f"{name}={value}" for name, value in given if value is not None]


def _row(settings: Settings, dataset: StoredDataset) -> dict[str, Any]:
    from app.retention import size_of

    summary = dataset.summary or {}
    return {
        "dataset": f"{dataset.name}@{dataset.version}",
        "id": dataset.id,
        "status": dataset.status,
        "images": summary.get("num_images"),
        "classes": None if dataset.summary is None else len(summary["class_names"]),
        "resolution": summary.get("resolution"),
        "channels": summary.get("channels"),
        "held_out": summary.get("num_heldout"),
        "duplicates": summary.get("duplicates"),
        "hash": summary.get("hash"),
        "bytes": size_of(settings.datasets_dir / dataset.id),
    }
