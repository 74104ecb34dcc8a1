"""Owns what all verbs of the command share: settings out of options, and errors in one line."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from app.errors import NoisewellError
from app.settings import Settings
from training.model.registry import Registry, UnknownModelError, UnknownVersionError

if TYPE_CHECKING:
    from app.engine import Engine

DataDir = Annotated[Path, typer.Option(help="Where models, datasets and jobs are.")]
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
