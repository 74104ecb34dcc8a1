"""Owns `noisewell train SOURCE`: from somebody's images to a model that serves, by one command."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.data_cli import DataDir, First, first, is_source, options, stored
from app.settings import Settings
from app.terminal import fail, open_store, run_child, settings_from, told_errors
from training.model.presets import MOST_SIDE

if TYPE_CHECKING:
    from app.store.datasets import StoredDataset
    from app.store.store import Store


@dataclass(frozen=True)
class Work:
    """What is trained on, in which folder; note: what a person should know of it."""

    dataset: "StoredDataset"
    run_dir: Path
    note: str


def train(
    ctx: typer.Context,
    source: First = None,
    resolution: Annotated[int | None, typer.Option(help="Of images that are imported.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Default: in the data folder.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the name of the dataset.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Turn a pile of images into generator weights."""
    if not is_source(source):
        given = options(
            ("--resolution", resolution),
            ("--run-dir", run_dir),
            ("--model", model),
            ("--data-dir", data_dir),
        )
        raise SystemExit(run_child("training.train", [*first(source), *ctx.args, *given]))
    if any(arg.partition("=")[0] == "--data" for arg in ctx.args):
        fail(f"{source!r} and --data both say where the images are; give one of them")
    settings = settings_from(data_dir=data_dir)
    work = _work(settings, source or "", resolution, run_dir)
    name = model or work.dataset.name
    typer.echo(f"{work.note}; registers as model {name}", err=True)
    data = settings.datasets_dir / work.dataset.id
    given = options(
        ("--data", data),
        ("--run-dir", work.run_dir),
        ("--model", name),
        ("--data-dir", settings.data_dir),
    )
    code = run_child("training.train", [*given, *ctx.args], tied=True)
    if code == 0:
        _tell_how_to_serve(name, data_dir)
    raise SystemExit(code)


def _work(settings: Settings, source: str, resolution: int | None, run_dir: Path | None) -> Work:
    path = Path(source)
    if not path.exists():
        return _on_dataset(settings, stored(settings, source), run_dir)
    from app.intake import name_from

    name = name_from(path)
    with told_errors(), open_store(settings) as store:
        going = None if run_dir else _interrupted(settings, store, name)
        return going or _on_images(settings, store, path, resolution, run_dir)


def _on_dataset(settings: Settings, dataset: "StoredDataset", run_dir: Path | None) -> Work:
    assert dataset.summary is not None, "it is ready"
    content = dataset.summary["hash"]
    same = [run for run in _runs(settings, dataset.name) if _trains_on(run) == content]
    run = run_dir or (same[0] if same else _new_run(settings, dataset.name))
    on = f"{'goes on with' if same and not run_dir else 'trains in'} {run}"
    return Work(dataset, run, f"{on}, on {dataset.name}@{dataset.version}")


def _interrupted(settings: Settings, store: "Store", name: str) -> Work | None:
    """The newest run of that name that has not ended, with the images that it began with."""
    from app.intake import with_hash

    for run in _runs(settings, name):
        for dataset in with_hash(store, _trains_on(run) or ""):
            on = f"{dataset.name}@{dataset.version} as it was imported"
            return Work(
                dataset, run, f"goes on with {run}, on {on}; remove that folder to begin anew"
            )
    return None


def _on_images(
    settings: Settings,
    store: "Store",
    source: Path,
    resolution: int | None,
    run_dir: Path | None,
) -> Work:
    from app.intake import bring_in, name_from

    name, size = name_from(source), [f"--resolution={resolution}"]
    told = f"imports {source} as dataset {name}"
    if resolution is None:
        size = [f"--max-resolution={MOST_SIDE}"]
        told += f", at most {MOST_SIDE} pixels a side, for minutes of training; or --resolution N"
    typer.echo(told, err=True)
    dataset, is_new = bring_in(settings, store, source, name, size)
    ref, run = f"{dataset.name}@{dataset.version}", run_dir or _new_run(settings, name)
    return Work(dataset, run, f"trains in {run}, on {ref}{'' if is_new else ', known already'}")


# Run folders: NAME-1, NAME-2, … in the data folder


def _runs(settings: Settings, name: str) -> Iterator[Path]:
    """Those of that name that have begun and not ended, the newest first."""
    for number in sorted(_numbers(settings, name), reverse=True):
        run = settings.runs_dir / f"{name}-{number}"
        if (run / "run.json").is_file() and not (run / "result.json").is_file():
            yield run


def _new_run(settings: Settings, name: str) -> Path:
    return settings.runs_dir / f"{name}-{max(_numbers(settings, name), default=0) + 1}"


def _numbers(settings: Settings, name: str) -> list[int]:
    found = (
        re.fullmatch(rf"{re.escape(name)}-([1-9]\d{{0,8}})", run.name)
        for run in settings.runs_dir.glob("[!.]*")
    )
    return [int(match[1]) for match in found if match]


def _trains_on(run: Path) -> str | None:
    """The hash of the images that a run began with; None if it cannot be read."""
    try:
        return json.loads((run / "run.json").read_bytes())["asked"]["dataset_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tell_how_to_serve(model: str, data_dir: Path | None) -> None:
    where = "" if data_dir is None else f" --data-dir {data_dir}"
    url = f"http://127.0.0.1:8000/v1/models/{model}/images/7.png"
    typer.echo(f"noisewell serve{where} serves it: {url}", err=True)
