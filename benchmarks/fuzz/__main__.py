"""Owns the command behind `make fuzz`.

python -m benchmarks.fuzz                       schema, raw and paths, some of each
python -m benchmarks.fuzz raw --raw 1000000     one of them, in earnest
python -m benchmarks.fuzz --replay FILE         what an earlier run found, once more
"""

import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.fuzz.findings import Findings
from benchmarks.fuzz.house import ROOT, House, open_house
from benchmarks.fuzz.paths import fuzz_paths
from benchmarks.fuzz.raw import fuzz_raw, pour
from benchmarks.fuzz.schema import fuzz_schema
from benchmarks.fuzz.shots import aim

WIDTH = 140
WORK = ROOT / ".work" / "fuzz"
PARTS = ("schema", "raw", "paths")


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help="schema, raw, paths; none: all of them.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Of schemathesis.")] = 2_000,
    raw: Annotated[int, typer.Option(min=1, help="Mutations.")] = 50_000,
    payloads: Annotated[int, typer.Option(min=1, help="For each text of each route.")] = 200,
    seed: int = 0,
    minutes: Annotated[float, typer.Option(min=0.1, help="For each part, at most.")] = 60,
    replay: Annotated[Path | None, typer.Option(help="Send the bytes of this file.")] = None,
) -> None:
    """Send what nobody should, and look whether the service stays what it was."""
    chosen = parts or PARTS
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"{sorted(unknown)}; expected some of {', '.join(PARTS)}")
    if replay is not None:
        with _scratch() as folder, open_house(folder) as house:
            again(house, replay.read_bytes())
        return
    findings = Findings(WORK)
    tries = {
        "schema": (fuzz_schema, cases),
        "raw": (fuzz_raw, raw),
        "paths": (fuzz_paths, payloads),
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        for name in PARTS:
            if name in chosen:
                fuzz, count = tries[name]
                with _scratch() as folder, open_house(folder) as house:
                    fuzz(house, findings, progress, count, seed, time.monotonic() + 60 * minutes)
    findings.show(Console(width=WIDTH))
    raise SystemExit(bool(findings.bad))


@contextmanager
def _scratch() -> Generator[Path]:
    """In memory where there is some: what is stored on the way would only take time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="noisewell-fuzz-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)


def again(house: House, data: bytes) -> None:
    """Send `data` to a fresh service, and print what it answers and logs."""
    tally = pour(house.target, iter([aim(0, data)]), lambda: None)
    print(tally.statuses, dict(tally.troubles))
    print(house.log.read_text("utf-8", "replace")[-3000:])


if __name__ == "__main__":
    typer.run(main)
