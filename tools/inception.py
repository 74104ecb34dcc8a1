"""Owns how the published Inception weights become a file the evaluator may read.

The weights are published as a torch pickle, and a pickle can run code. So nothing here reads one
before its size and SHA-256 are those of the one file that is meant; then a process of its own
opens it, bounded in time and memory, and only tensors come back. Run from the repository:

    python tools/inception.py download --out FILE.pth
    python tools/inception.py convert FILE.pth --out inception.safetensors
"""

import hashlib
import io
import multiprocessing
import resource
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load, save

from training.metrics.inception import SOURCE_BYTES, SOURCE_SHA256, pack
from training.model.checkpoint import CheckpointError
from training.model.files import write_atomic
from training.parent import fail

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
_TIMEOUT_SEC = 120
_MEMORY_BYTES = 4 << 30  # torch and its threads, the file twice, the tensors twice
_MAX_REPLY_BYTES = 128 << 20

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@dataclass(frozen=True)
class Source:
    """The one file that is meant: where it is published, its size and its hex SHA-256."""

    url: str
    num_bytes: int
    sha256: str

    def check(self, data: bytes, what: str) -> None:
        """Raise ValueError if `data` is not that file."""
        if len(data) != self.num_bytes:
            there = f"{len(data):,}" if len(data) < self.num_bytes else f"over {self.num_bytes:,}"
            raise ValueError(
                f"{what} has {there} bytes, the published weights have {self.num_bytes:,}; "
                f"fetch {self.url} again"
            )
        if (found := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise ValueError(
                f"{what} has SHA-256 {found[:12]}…, the published weights have "
                f"{self.sha256[:12]}…; fetch {self.url} again"
            )


PUBLISHED = Source(URL, SOURCE_BYTES, SOURCE_SHA256)


def convert(path: Path, out: Path, source: Source = PUBLISHED) -> None:
    """Write the weights in `path` to `out` as safetensors, whole or not at all.

    Raises ValueError if `path` is not `source`, CheckpointError if it does not hold the network's
    tensors, OSError if a file cannot be read or written.
    """
    with path.open("rb") as file:
        data = file.read(source.num_bytes + 1)
    source.check(data, str(path))
    tensors = load(_opened_elsewhere(data, source))
    write_atomic(out, pack(tensors, source.sha256))


def download(out: Path, source: Source = PUBLISHED) -> None:
    """Keep the file at `source.url` as `out` if it is the one meant; raises ValueError, OSError."""
    with urllib.request.urlopen(source.url, timeout=60) as answer:  # noqa: S310
        data = answer.read(source.num_bytes + 1)
    source.check(data, source.url)
    write_atomic(out, data)


def _opened_elsewhere(pickled: bytes, source: Source) -> bytes:
    """The tensors of a torch pickle as safetensors bytes, by a child that ends with this call."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=_open_pickle, args=(theirs, source), daemon=True)
    child.start()
    theirs.close()
    try:
        ours.send_bytes(pickled)
        if not ours.poll(_TIMEOUT_SEC):
            raise ValueError(f"the weights were not read within {_TIMEOUT_SEC} s; try again")
        return ours.recv_bytes(_MAX_REPLY_BYTES)  # bytes, never objects: they would be unpickled
    except (EOFError, OSError) as error:
        raise ValueError("the process that reads the weights died; its error is above") from error
    finally:
        child.kill()
        child.join()


def _open_pickle(pipe: Connection, source: Source) -> None:
    data = pipe.recv_bytes(source.num_bytes)
    source.check(data, "the file handed over")
    _bound_this_process()
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    pipe.send_bytes(save(_wanted(tensors)))


def _bound_this_process() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_TIMEOUT_SEC, _TIMEOUT_SEC))


def _wanted(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Batch norm counts its training steps; nothing that is measured depends on it.
    kept = {n: t for n, t in tensors.items() if not n.endswith(".num_batches_tracked")}
    return {name: tensor.detach().contiguous() for name, tensor in kept.items()}


@cli.command(name="convert")
def convert_command(
    file: Annotated[Path, typer.Argument(help="The published file, a torch pickle.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
) -> None:
    """Turn the published weights into the file that `noisewell evaluate --inception` reads."""
    try:
        convert(file, out)
    except (ValueError, OSError, CheckpointError, SafetensorError) as error:
        fail(str(error))
    typer.echo(f"Wrote {out}.")


@cli.command(name="download")
def download_command(
    out: Annotated[Path, typer.Option(help="Where to keep the published file.")],
) -> None:
    """Fetch the published weights (96 MB, from GitHub); kept only with the pinned SHA-256."""
    typer.echo(f"Fetching {URL}")
    try:
        download(out)
    except ValueError as error:
        fail(str(error))
    except (OSError, HTTPException) as error:
        fail(f"{URL} was not fetched and kept as {out}: {error}")
    typer.echo(f"Wrote {out}; next: python tools/inception.py convert {out} --out FILE.safetensors")


if __name__ == "__main__":
    cli()
