"""Owns the choice of how a generator is called: the ways there are, timed alone and beside a loop.

Each way is timed at three batch sizes in turns, alone and beside an event loop that is as busy as a
service's, and certified as at load. A way that needs a compiler says so if there is none.
"""

import asyncio
import threading
import time
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from training.model.checkpoint import load_generator
from training.model.graphs import Graph, build_graph
from training.model.networks.build import place
from training.model.networks.config import NetworkConfig
from training.model.pixels import to_uint8
from training.model.sampling import agreeing, class_weights, classes_of, latents_of

BATCHES, BUCKETS = (1, 16, 64), [1, 2, 4, 8, 16, 32, 64]
CPU = torch.device("cpu")


class Pictures(nn.Module):
    """What a graph gives: floats and pixels."""

    def __init__(self, generator: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.generator, self.dtype = generator, dtype

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        images = self.generator(z.to(self.dtype), c.to(self.dtype)).float()
        return images, to_uint8(images).permute(0, 2, 3, 1).contiguous()


def autocast(module: nn.Module) -> Graph:
    def call(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return module(z, c)

    return call


def frozen(module: nn.Module, example: tuple[Tensor, Tensor]) -> Graph:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))


def ways(folder: Path, config: NetworkConfig) -> dict[str, Callable[[], Graph]]:
    """By name, how to make each; every one from weights of its own."""

    def generator() -> nn.Module:
        return place(load_generator(folder)[0], CPU)

    def halved() -> Graph:
        return Pictures(generator().to(torch.bfloat16), torch.bfloat16).eval()

    example = inputs(config, 4)
    return {
        "module, fp32": lambda: Pictures(generator()).eval(),
        "module, bf16 autocast": lambda: autocast(Pictures(generator()).eval()),
        "module, bf16 weights": halved,
        "traced, fp32": lambda: build_graph(generator(), config, CPU, "fp32"),
        "traced, bf16 (served)": lambda: build_graph(generator(), config, CPU, "bf16"),
        "traced, frozen, bf16": lambda: frozen(Pictures(generator()).eval(), example),
        "torch.compile, bf16": lambda: autocast(torch.compile(Pictures(generator()).eval())),
    }


def inputs(config: NetworkConfig, n: int) -> tuple[Tensor, Tensor]:
    c = class_weights(classes_of(range(n), config.num_classes), config.num_classes)
    return torch.from_numpy(latents_of(range(n), config.z_dim)), torch.from_numpy(c)


class BusyLoop:
    """An event loop in a thread: works for 100 µs, gives the lock up for a moment, and again."""

    def __enter__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _work(self) -> None:
        while not self._over.is_set():
            end = time.perf_counter() + 1e-4
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)


@torch.inference_mode()
def ms(
    graphs: dict[str, Graph], config: NetworkConfig, batch: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds of a call, the ways in turns."""
    given = inputs(config, batch)
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(rounds + 3):
        for name, graph in graphs.items():
            began = time.perf_counter()
            graph(*given)
            if turn >= 3:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: median(taken) for name, taken in times.items()}


def main(
    folder: Annotated[Path | None, typer.Argument(help="version; default: bundled mnist")] = None,
    rounds: int = 40,
    threads: int = 1,
) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    box = resources.files("training.model").joinpath("bundled", "mnist")
    with resources.as_file(box) as bundled:
        path = folder or bundled
        _, config = load_generator(path)
        graphs: dict[str, Graph] = {}
        missing: dict[str, str] = {}
        for name, make in ways(path, config).items():
            try:
                graphs[name] = make()
                for batch in BATCHES:
                    with torch.inference_mode():
                        graphs[name](*inputs(config, batch))
            except Exception as error:  # noqa: BLE001 (the row says which)
                missing[name] = str(error).splitlines()[0][:60]
                graphs.pop(name, None)
    alone = {batch: ms(graphs, config, batch, rounds) for batch in BATCHES}
    with BusyLoop():
        beside = {batch: ms(graphs, config, batch, rounds) for batch in BATCHES}
    table = Table(
        "way", *(f"{b}, ms" for b in BATCHES), *(f"{b} beside a loop" for b in BATCHES), "agree"
    )
    for name, graph in graphs.items():
        cells = [f"{timed[b][name]:.2f}" for timed in (alone, beside) for b in BATCHES]
        table.add_row(name, *cells, ", ".join(map(str, agreeing(graph, config, BUCKETS))))
    for name, why in missing.items():
        table.add_row(name, why)
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
