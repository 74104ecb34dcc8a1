"""Owns what all verbs of the command share: settings, the store, children, errors in one line."""

import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from app.errors import NoisewellError
from app.settings import Settings
from training.model.registry import Registry, UnknownModelError, UnknownVersionError

if TYPE_CHECKING:
    from app.engine import Engine
    from app.store.store import Store

# Of verbs that a child has the options of: whatever is not known here is passed on to it.
PASSED_ON: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
DataDir = Annotated[
    Path, typer.Option(help="Where models, datasets and jobs are.", envvar="NOISEWELL_DATA_DIR")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print data for programs.")]


def settings_from(**options: Any) -> Settings:
    """The settings, with the options that are not None; ends the command if one cannot be."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        fail(f"{name} is {first.get('input')!r}: {first['msg']} (option or NOISEWELL_ variable)")


def local_engine(data_dir: Path, device: str, settings: Settings) -> "Engine":
    """The service's own: threads and batches are part of the certificate. Raises ValueError."""
    import torch

    from app.engine import Engine
    from training.model.sampling import pick_device
    from training.model.threads import half_the_cores

    torch.set_num_threads(settings.serving_threads or half_the_cores())
    return Engine(Registry(data_dir / "models"), pick_device(device), settings.max_batch_size, 1)


@contextmanager
def open_store(settings: Settings) -> "Generator[Store]":
    """The jobs and datasets of a data folder; ends the command if they cannot be read."""
    from app.store.database import SchemaError
    from app.store.store import Store

    try:
        store = Store.open(settings.database_path)
    except SchemaError as error:
        fail(str(error))
    with closing(store):
        yield store


def run_child(module: str, args: Sequence[str], *, tied: bool = False) -> int:
    """Run a verb of `training` as a process of its own; returns how it ended, as a shell does.

    It is told to end when this process is, and this process waits until it has. tied: it also
    ends when this process is killed.
    """
    tie = ["--exit-with-stdin"] if tied else []
    stdin = subprocess.PIPE if tied else None  # held open until the child has ended
    command = [sys.executable, "-m", module, *args, *tie]
    with subprocess.Popen(command, stdin=stdin) as child, _outliving(child):
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _outliving(child: "subprocess.Popen[bytes]") -> Generator[None]:
    """Ctrl-C reaches both from the terminal, SIGTERM only us; both are for the child to heed."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end(number: int, frame: FrameType | None) -> None:
        child.terminate()

    terminate = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)


@contextmanager
def told_errors() -> Generator[None, None, None]:
    """One line for what a person can mend; a traceback for what is our fault."""
    try:
        yield
    except NoisewellError as error:
        fail(error.detail)
    except (UnknownModelError, UnknownVersionError, ValueError, OSError, MemoryError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command with exit code 2 and one line on stderr."""
    typer.echo(f"Error: {' '.join(message.split())}", err=True)
    raise SystemExit(2)
