"""Owns `noisewell jobs`: training jobs of a running service, asked for and followed over HTTP."""

import json
import secrets
import sys
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.table import Column, Table

from app.client import Client
from app.schemas import JobStatus, Promote
from app.terminal import AsJson, fail, settings_from, told_errors
from app.watching import INTERRUPTED, describe, follow
from training.model.settings import parse_overrides

JOBS = "/v1/training/jobs"

Url = Annotated[str | None, typer.Option(help="Of the service; default NOISEWELL_URL.")]
Key = Annotated[str | None, typer.Option(help="Default NOISEWELL_API_KEY, which nobody sees.")]
JobId = Annotated[str, typer.Argument(help="Such as `noisewell jobs list` shows.")]

_COLUMNS = ("job", "model", "dataset", "length", "asked for")

jobs_cli = typer.Typer(help="Training jobs of a running service.", no_args_is_help=True)


@jobs_cli.command()
def submit(
    model: Annotated[str, typer.Option(help="The model that gets a new version.")],
    dataset: Annotated[str, typer.Option(help="Name or id.")],
    preset: Annotated[str | None, typer.Option(help="Default: the first that fits.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train about so long.")] = None,
    kimg: Annotated[float | None, typer.Option(help="Or on so many thousand images.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop early at a level: fd=X.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, any setting of the preset.")
    ] = None,
    promote: Annotated[Promote, typer.Option(help="Whether it may take over.")] = "if_better",
    seed: int = 0,
    base: Annotated[str | None, typer.Option(help="Start from this version: NAME@V.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="One key, one job; default: one for this command.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a training. However often a broken connection has it asked, there is one job."""
    with told_errors():
        body = {
            "model": model,
            "dataset": dataset,
            "preset": preset,
            "minutes": minutes,
            "kimg": kimg,
            "until": _goal(until),
            "overrides": {k: _scalar(v) for k, v in parse_overrides(settings or []).items()},
            "promote": promote,
            "seed": seed,
            "base": base,
        }
        asked = {name: value for name, value in body.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        client = _client(url, key)
        job = client.post(JOBS, asked, headers)
    if not (watch and as_json):
        _print(job, as_json, f"{job['id']} is {describe(job)}")
    if watch:
        _watch(client, job["id"], as_json)
    elif not as_json:
        typer.echo(f"Follow it with: noisewell jobs watch {job['id']}", err=True)


@jobs_cli.command("list")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """The newest first."""
    asked = {"limit": limit, "after": after, "status": status, "model": model}
    with told_errors():
        page = _client(url, key).get(f"{JOBS}?{_query(asked)}")
    if as_json:
        typer.echo(json.dumps(page, indent=2))
        return
    columns = (Column(name, no_wrap=True) for name in _COLUMNS)
    table = Table(*columns, "", box=None, pad_edge=False)
    for job in page["data"]:
        cells = (job["id"], job["model"], job["dataset_name"], _length(job))
        table.add_row(*cells, _time(job["created_at"])[5:16], _briefly(job))
    Console().print(table)
    if page["has_more"]:
        typer.echo(f"More: noisewell jobs list --after {page['data'][-1]['id']}", err=True)


@jobs_cli.command()
def show(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """How a job stands, and what was asked for."""
    with told_errors():
        job = _client(url, key).get(_path(job_id))
    if as_json:
        typer.echo(json.dumps(job, indent=2))
        return
    for name, value in {"job": job["id"], "is": describe(job), **_about(job)}.items():
        if value not in (None, {}, False, ""):
            typer.echo(f"{name:<17}{value if isinstance(value, str) else json.dumps(value)}")


@jobs_cli.command()
def watch(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Follow a job to its end: 0 succeeded, 1 failed, 3 cancelled. Ctrl-C leaves it running."""
    with told_errors():
        client = _client(url, key)
    _watch(client, job_id, as_json)


@jobs_cli.command()
def cancel(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """End a job; a running one saves its state first."""
    _do(job_id, "cancel", url, key, as_json)


@jobs_cli.command()
def pause(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Have a job wait; a running one saves its state first."""
    _do(job_id, "pause", url, key, as_json)


@jobs_cli.command()
def resume(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Have a paused job go on where it was."""
    _do(job_id, "resume", url, key, as_json)


@jobs_cli.command()
def retry(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Have a new job go on from the last state of one that failed or was cancelled."""
    with told_errors():
        job = _client(url, key).post_once(f"{_path(job_id)}/retry")
    _print(job, as_json, f"{job['id']} is {describe(job)}; it goes on from {job_id}")


def _do(job_id: str, verb: str, url: str | None, key: str | None, as_json: bool) -> None:
    with told_errors():
        job = _client(url, key).post(f"{_path(job_id)}/{verb}")
    _print(job, as_json, f"{job_id} is {describe(job)}")


def _watch(client: Client, job_id: str, as_json: bool) -> None:
    try:
        with told_errors():
            code = follow(client, _path(job_id), as_json)
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped watching; {job_id} goes on. Again: noisewell jobs watch {job_id}", err=True
        )
        code = INTERRUPTED
    raise SystemExit(code)


def _client(url: str | None, key: str | None) -> Client:
    settings = settings_from(url=url, api_key=key)
    secret = settings.api_key.get_secret_value() if settings.api_key else None
    return Client(settings.url, secret, told=_say)


def _say(text: str) -> None:
    """Beside a bar, too: rich moves what `print` writes above it, but not what typer echoes."""
    print(text, file=sys.stderr)


def _print(job: dict[str, Any], as_json: bool, sentence: str) -> None:
    typer.echo(json.dumps(job, indent=2) if as_json else sentence)


# What is asked


def _goal(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    name, _, level = text.partition("=")
    try:
        return {name.strip(): float(level)}
    except ValueError:
        fail(f"--until {text!r}; expected fd=X with X above 0, such as fd=2.5")


def _scalar(value: Any) -> Any:
    """A list is text on its way: [64, 32] → "64,32"."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _query(asked: dict[str, Any]) -> str:
    return urlencode({name: value for name, value in asked.items() if value is not None})


def _path(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


# What is shown


def _about(job: dict[str, Any]) -> dict[str, Any]:
    names = ("preset", "base", "until", "overrides", "promote", "seed", "attempt", "retry_of")
    times = {name: _time(job[name]) for name in ("created_at", "started_at", "finished_at", "eta")}
    return {
        "model": job["model"],
        "dataset": f"{job['dataset_name']} ({job['dataset']})",
        "length": _length(job),
        **{name: job[name] for name in names},
        "asked for": times["created_at"],
        "started": times["started_at"],
        "trained by about": times["eta"],
        "ended": times["finished_at"],
    }


def _briefly(job: dict[str, Any]) -> str:
    """How it stands without why: `running, training, 58 %`."""
    return ", ".join(describe(job).partition(":")[0].split(", ")[:3])


def _length(job: dict[str, Any]) -> str:
    minutes, kimg = job["minutes"], job["kimg"]
    return f"{kimg:g} kimg" if minutes is None else f"{minutes:g} min"


def _time(iso: str | None) -> str:
    """In the time zone of whoever reads it."""
    return "" if iso is None else f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M:%S}"
