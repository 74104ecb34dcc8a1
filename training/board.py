"""Owns the TensorBoard events of a run, for whoever has the `tensorboard` extra."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.config import ConfigError


def open_board(run_dir: Path) -> Callable[[dict[str, Any]], None]:
    """A function that writes the numbers of a line of statistics to `run_dir`/tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"--tensorboard needs a package that is not there ({error.name}); "
            "pip install 'noisewell[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(run_dir / "tensorboard"))

    def write(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name not in ("cur_nimg", "total_nimg"):
                writer.add_scalar(name, value, line["cur_nimg"])
        writer.flush()

    return write
