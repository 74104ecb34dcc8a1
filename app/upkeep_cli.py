"""Owns `noisewell doctor` and `noisewell gc`: a data directory is looked over, and tidied."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.settings import Settings
from app.terminal import AsJson, DataDir, fail, local_engine, open_store, settings_from, told_errors
from training.model.registry import Registry

if TYPE_CHECKING:
    from app.checkup import Check
    from app.retention import Item
    from app.store.store import Store

_NEEDED = ("device", "permissions", "database")  # to look at the data at all


def gc(
    data_dir: DataDir = Path("data"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Throw away what is over the limits: old runs and their states, evaluators, versions."""
    settings = _existing(data_dir)
    with told_errors(), open_store(settings) as store:
        items = _collected(settings, store, dry_run)
    rows: list[dict[str, Any]] = [
        {"kind": item.kind, "path": str(item.path), "bytes": item.num_bytes, "why": item.reason}
        for item in items
    ]
    freed = sum(item.num_bytes for item in items)
    if as_json:
        typer.echo(json.dumps({"freed_bytes": freed, "dry_run": dry_run, "items": rows}, indent=2))
        return
    if rows:
        _show(rows)
    typer.echo(f"{len(rows)} items, {freed:,} bytes {'would go' if dry_run else 'freed'}")


def _collected(settings: Settings, store: "Store", dry_run: bool) -> "list[Item]":
    from app.retention import collect

    try:
        return collect(settings, store, Registry(settings.models_dir), dry_run=dry_run)
    except BlockingIOError:
        fail(f"another process is tidying {settings.data_dir}; wait until it is done")


def doctor(
    data_dir: DataDir = Path("data"),
    device: str = "auto",
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what can be derived; stop services first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the machine, look for damage, load what would serve, say under which certificate.

    Ends with 0 if all is well, 1 for damaged data, 2 if it could not look, and with the code of
    the first check of the machine that failed: 10 versions, 11 device, 12 permissions, 13 disk,
    14 port, 15 database.
    """
    from app.checkup import checks, exit_code
    from app.logs import configure_logs
    from app.main import other_service

    configure_logs(logging.CRITICAL)
    settings = _existing(data_dir)
    with told_errors():
        found = list(checks(settings, device, other_service(data_dir)))
    if not as_json:
        for check in found:
            typer.echo(check.line)
    if code := exit_code([check for check in found if check.name in _NEEDED]):
        if as_json:
            _print_json(found, [], [], [])
        raise SystemExit(code)  # what comes next would fail for the same reason
    findings = _examined(settings, repair=repair)
    serving, refused = _serving(settings, device)
    if as_json:
        _print_json(found, serving, refused, findings)
    else:
        _tell(serving, findings)
    for ref in refused:
        typer.echo(f"Error: {ref} is the champion and cannot be loaded; see its log", err=True)
    damaged = bool(refused) or any(f["repaired"] is None for f in findings)
    raise SystemExit(exit_code(found) or int(damaged))


def _print_json(
    found: "list[Check]",
    serving: list[dict[str, Any]],
    refused: list[str],
    findings: list[dict[str, str | None]],
) -> None:
    told = {
        "checks": [{"ok": check.ok, **vars(check)} for check in found],
        "serving": serving,
        "refused": refused,
        "findings": findings,
    }
    typer.echo(json.dumps(told, indent=2))


def _serving(settings: Settings, device: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What would serve, under which certificate; and the champions that cannot be loaded."""
    with told_errors():
        engine = local_engine(settings.data_dir, device, settings)
        engine.refresh()
        loaded = [engine.get(model, version) for model, version in engine.serving().items()]
    serving = [{"serves": v.ref, "id": v.certificate_id, **vars(v.certificate)} for v in loaded]
    return serving, [f"{model}@{r.version or '?'}" for model, r in engine.refused().items()]


def _examined(settings: Settings, *, repair: bool) -> list[dict[str, str | None]]:
    from app.doctor import alone, examine

    registry = Registry(settings.models_dir)
    with told_errors(), alone(settings) as undisturbed, _store_if_any(settings) as store:
        if repair and not undisturbed:
            raise ValueError(f"a service or a worker uses {settings.data_dir}; stop it first")
        # What a running service is about to write looks like what a dead one left.
        findings = examine(settings, store, registry, undisturbed=undisturbed)
        return [
            {"what": f.what, "problem": f.problem, "repaired": f.repair() if repair else None}
            for f in findings
        ]


def _tell(serving: list[dict[str, Any]], findings: list[dict[str, str | None]]) -> None:
    for row in serving:
        table = Table(show_header=False, title=row["serves"], title_justify="left")
        for name, value in list(row.items())[1:]:
            table.add_row(name, ", ".join(map(str, value)) if name == "buckets" else str(value))
        Console().print(table)
    if findings:
        _show(findings)
        if any(finding["repaired"] is None for finding in findings):
            typer.echo("noisewell doctor --repair puts this right; stop the service first")


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], title_justify="left")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def _existing(data_dir: Path) -> Settings:
    """The settings, for a data directory that is there: nothing is made by looking for it."""
    if not data_dir.is_dir():
        fail(f"--data-dir {data_dir} is not there; expected the directory of a service")
    return settings_from(data_dir=data_dir)


@contextmanager
def _store_if_any(settings: Settings) -> "Generator[Store | None]":
    if not settings.database_path.exists():
        yield None
        return
    with open_store(settings) as store:
        yield store
