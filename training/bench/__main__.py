"""Owns the `bench` command: figures about training that anyone can print again."""

import typer

from training.bench.seeds import seeds
from training.bench.speed import train
from training.bench.stacked_mnist import stacked_mnist
from training.bench.toys import toys

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
cli.command("train")(train)
cli.command("seeds")(seeds)
cli.command("toys")(toys)
cli.command("stacked-mnist")(stacked_mnist)

if __name__ == "__main__":
    cli(prog_name="noisewell bench")
