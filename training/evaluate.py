"""Owns the `evaluate` command: measure a registered generator on images it was not trained on."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from training.data.dataset import is_packed, load_dataset
from training.data.importing import import_dataset
from training.metrics.evaluation import DEFAULT_SAMPLES, evaluate, told
from training.metrics.features import load_or_train_evaluator
from training.model.checkpoint import CheckpointError, load_generator
from training.model.registry import Registry, UnknownModelError, UnknownVersionError
from training.model.sampling import Sampler, pick_device
from training.model.threads import half_the_cores
from training.parent import fail
from training.progress import Reporter

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(name="evaluate")
def main(
    model: Annotated[str, typer.Option(help="NAME or NAME@VERSION; default the champion.")],
    data: Annotated[Path, typer.Option(help="A folder, a zip, a .npy/.npz or a packed dataset.")],
    num_samples: Annotated[int, typer.Option(min=2)] = DEFAULT_SAMPLES,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for programs.")] = False,
    data_dir: Annotated[Path, typer.Option(help="Where the registry is.")] = Path("data"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Print a generator's numbers beside their real-against-real floors."""
    torch.set_num_threads(half_the_cores())
    try:
        registry = Registry(data_dir / "models")
        version_dir = registry.path(*registry.resolve(model))
        where = pick_device(device)
        generator, network = load_generator(version_dir)
        with tempfile.TemporaryDirectory() as scratch, Reporter(Path(scratch)) as report:
            packed = data if is_packed(data) else Path(scratch) / "dataset"
            if packed is not data:
                report.phase("importing")
                size = {"resolution": network.img_resolution, "channels": network.img_channels}
                import_dataset(data, packed, name="evaluated", progress=report.advance, **size)
            dataset = load_dataset(packed)
            report.phase("preparing the evaluator")
            cache = data_dir / "evaluators"
            evaluator = load_or_train_evaluator(dataset, cache, where, report.advance)
            report.phase("evaluating")
            sampler = Sampler(generator, network, where)
            metrics = evaluate(sampler, dataset, evaluator, num_samples)
    except (UnknownModelError, UnknownVersionError, CheckpointError, ValueError) as error:
        fail(str(error))
    typer.echo(json.dumps(metrics, indent=2) if as_json else told(metrics))


if __name__ == "__main__":
    cli(prog_name="noisewell evaluate")
