"""Owns `noisewell keys`: keys to a service, given out and taken back in its data folder."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.keys import Key, digest_of, new_key
from app.scopes import SCOPES
from app.terminal import AsJson, DataDir, fail, open_store, settings_from, told_errors

keys_cli = typer.Typer(
    help="Who may use the service; a running one follows within seconds.", no_args_is_help=True
)


@keys_cli.command("create")
def keys_create(
    scope: Annotated[list[str], typer.Option(help="What it opens; may be given several times.")],
    name: Annotated[str, typer.Option(help="Whose it is, for the list.")] = "",
    days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="How long; default for good.")
    ] = None,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: what is kept of it opens nothing.

    generate: images. read: what there is, pages and metrics. train: datasets and jobs.
    admin: all of these, and what moves or deletes models and datasets.
    """
    if unknown := set(scope) - set(SCOPES):
        fail(f"--scope {unknown.pop()!r}; expected one of {', '.join(SCOPES)}")
    if len(name) > 64 or not name.isprintable():
        fail(f"--name {name[:80]!r}; expected at most 64 printable characters")
    made = new_key()
    with told_errors(), open_store(settings_from(data_dir=data_dir)) as store:
        key = store.add_key(name, digest_of(made), frozenset(scope), days)
    if as_json:
        typer.echo(json.dumps({"key": made, **_row(key)}, indent=2))
        return
    typer.echo(made)
    typer.echo(
        f"{key.id} opens {', '.join(_scopes(key))}{_until(key)}; it is not shown again", err=True
    )


@keys_cli.command("list")
def keys_list(data_dir: DataDir = Path("data"), as_json: AsJson = False) -> None:
    """Every key ever made, and whether it opens anything now."""
    with told_errors(), open_store(settings_from(data_dir=data_dir)) as store:
        rows = [_row(key) for key in store.list_keys()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("id", "name", "scopes", "state", "made", "until")
    for row in rows:
        until = row["revoked_at"] or row["expires_at"] or ""
        table.add_row(
            row["id"],
            row["name"],
            ", ".join(row["scopes"]),
            row["state"],
            row["created_at"][:10],
            until[:10],
        )
    Console().print(table)


@keys_cli.command("revoke")
def keys_revoke(key_id: str, data_dir: DataDir = Path("data")) -> None:
    """Have a key open nothing from now on, for good."""
    with told_errors(), open_store(settings_from(data_dir=data_dir)) as store:
        key = store.revoke_key(key_id)
    typer.echo(f"{key.id} is revoked since {_time(key.revoked_at)}")


def _row(key: Key) -> dict[str, Any]:
    """All but the digest."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": _scopes(key),
        "state": key.state(time.time()),
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
    }


def _scopes(key: Key) -> list[str]:
    """As the table of scopes has them."""
    return sorted(key.scopes, key=SCOPES.index)


def _until(key: Key) -> str:
    return "" if key.expires_at is None else f" until {_time(key.expires_at)}"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%MZ}"
