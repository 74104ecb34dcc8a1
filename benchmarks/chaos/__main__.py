"""Owns the command behind `make chaos` and `make chaos-full`.

python -m benchmarks.chaos            a sample of each kind of fault, in minutes
python -m benchmarks.chaos --full     all of them; stopped and started again, it goes on
"""

import shutil
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.companions import run_companions
from benchmarks.chaos.imports import IMPORTS
from benchmarks.chaos.injection import inject, inject_into_broken_code
from benchmarks.chaos.operations import OPERATIONS
from benchmarks.chaos.outcomes import Journal, rows
from benchmarks.chaos.random_kills import kill_at_random
from benchmarks.chaos.report import PAGE, ROOT, commit_of_code, table, write_page
from benchmarks.chaos.services import try_services

WORK = ROOT / ".work" / "chaos"
INJECTED = (
    *(operation.name for operation in (*OPERATIONS, *IMPORTS)),
    *("checkpoint", "export", "import"),
)


def main(
    full: Annotated[bool, typer.Option("--full", help="Every case, not a sample.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was done before.")] = False,
) -> None:
    """Break things, look whether every promise held, and write docs/chaos.md."""
    if shutil.which("strace") is None:
        raise SystemExit("strace is needed to strike at system calls; apt-get install strace")
    commit, began = commit_of_code(), time.monotonic()
    kind = "full" if full else "sample"
    journal = Journal.open(WORK / f"{kind}-{commit}.jsonl", fresh=fresh or not full)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        run(Campaign(journal, progress, full))
    minutes = (time.monotonic() - began) / 60
    write_page(journal.outcomes, "make chaos-full" if full else "make chaos", minutes, commit)
    bad = [outcome for outcome in journal.outcomes if not outcome.good]
    print(table(rows(journal.outcomes)))
    print(f"{len(bad)} of {len(journal.outcomes)} not as promised; see {PAGE.relative_to(ROOT)}")
    raise SystemExit(bool(bad))


def run(campaign: Campaign) -> None:
    """Every part, one after another."""
    inject_into_broken_code(campaign)
    inject(campaign, INJECTED)
    try_services(campaign)
    kill_at_random(campaign)
    run_companions(campaign)


if __name__ == "__main__":
    typer.run(main)
