"""Owns the `evaluate` command: measure generators on images they were not trained on."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from training.comparison import comparison_table
from training.curve import curve_table, measure_curve
from training.data.dataset import Dataset, is_packed, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.history import read_history
from training.metrics.evaluation import DEFAULT_SAMPLES, measure, table
from training.metrics.features import load_or_train_evaluator
from training.metrics.inception import load_inception
from training.metrics.inception_scores import evaluate_inception
from training.model.checkpoint import CheckpointError, load_generator
from training.model.files import write_atomic
from training.model.networks.config import NetworkConfig
from training.model.registry import Registry, UnknownModelError, UnknownVersionError
from training.model.sampling import Sampler, pick_device
from training.model.threads import half_the_cores
from training.parent import fail
from training.pictures import png_bytes
from training.progress import Reporter
from training.promotion import should_promote

FID_SAMPLES = 50_000

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Asked:
    """What the command line said, but for whom to measure."""

    data: Path
    num_samples: int
    as_json: bool
    registry: Registry
    cache: Path
    device: torch.device
    report: Reporter
    scratch: Path


@cli.command(name="evaluate")
def main(
    data: Annotated[Path, typer.Option(help="A folder, a zip, a .npy/.npz or a packed dataset.")],
    model: Annotated[str | None, typer.Option(help="NAME, NAME@VERSION or a folder.")] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two of them, by the same judge and seeds.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder: its snapshots, over time.")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(min=4, help="How many fakes.")] = None,
    closest: Annotated[
        Path | None, typer.Option(help="PNG of the samples closest to a training image.")
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(help="Inception weights, by tools/inception.py: FID, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data for programs.")] = False,
    data_dir: Annotated[Path, typer.Option(help="Where the registry is.")] = Path("data"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: half the cores.")] = 0,
) -> None:
    """Print generators' numbers beside those of real images, one, two or a whole run."""
    torch.set_num_threads(threads or half_the_cores())
    try:
        if sum(choice is not None for choice in (model, compare, run)) != 1:
            raise ValueError("give one of --model NAME, --compare A B and --run FOLDER")
        if model is None and not closest is inception is None:
            raise ValueError("--closest and --inception go with --model")
        with tempfile.TemporaryDirectory() as scratch, Reporter(Path(scratch)) as report:
            asked = Asked(
                data=data,
                num_samples=num_samples or (FID_SAMPLES if inception else DEFAULT_SAMPLES),
                as_json=as_json,
                registry=Registry(data_dir / "models"),
                cache=data_dir / "evaluators",
                device=pick_device(device),
                report=report,
                scratch=Path(scratch),
            )
            if model is not None and inception is not None:
                told = _fid(asked, model, inception)
            elif model is not None:
                told = _one(asked, model, closest)
            elif compare is not None:
                told = _two(asked, *compare)
            else:
                assert run is not None
                told = _over_time(asked, run)
    except (UnknownModelError, UnknownVersionError, CheckpointError, ValueError) as error:
        fail(str(error))
    console = Console()
    for part in told:
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)


def _one(asked: Asked, model: str, closest: Path | None) -> list[Any]:
    sampler = _sampler(asked, model)
    dataset = _dataset(asked, sampler.config)
    judge = load_or_train_evaluator(dataset, asked.cache, asked.device, asked.report.advance)
    asked.report.phase("evaluating")
    found = measure(sampler, dataset, judge, asked.num_samples, progress=asked.report.advance)
    if closest is not None and found.closest is not None:
        write_atomic(closest, png_bytes(found.closest))
    return [_json(found.metrics)] if asked.as_json else [table(found.metrics)]


def _two(asked: Asked, a: str, b: str) -> list[Any]:
    samplers = [_sampler(asked, ref) for ref in (a, b)]
    dataset = _dataset(asked, samplers[0].config)
    judge = load_or_train_evaluator(dataset, asked.cache, asked.device, asked.report.advance)
    found: list[dict[str, Any]] = []
    for ref, sampler in zip((a, b), samplers, strict=True):
        asked.report.phase(f"evaluating {ref}")
        evaluation = measure(
            sampler, dataset, judge, asked.num_samples, progress=asked.report.advance
        )
        found.append(evaluation.metrics)
    decision = should_promote(found[1], found[0])
    if asked.as_json:
        return [_json({"a": found[0], "b": found[1], "decision": asdict(decision)})]
    verdict = "would replace" if decision.promote else "would not replace"
    table = comparison_table(found[0], found[1], (a, b))
    return [table, f"{b} {verdict} {a}: {decision.reason}"]


def _over_time(asked: Asked, run_dir: Path) -> list[Any]:
    network = read_history(run_dir).run.get("network")
    if network is None:
        raise ValueError(f"{run_dir} holds no run; give the --run-dir of a training")
    dataset = _dataset(asked, NetworkConfig.from_json(network))
    judge = load_or_train_evaluator(dataset, asked.cache, asked.device, asked.report.advance)
    asked.report.phase("evaluating")
    rows = measure_curve(
        run_dir, dataset, judge, asked.num_samples, asked.device, asked.report.advance
    )
    if asked.as_json:
        return [_json(rows)]
    return [curve_table(rows), f"curves in {run_dir / 'report.html'}"]


def _fid(asked: Asked, model: str, weights: Path) -> list[Any]:
    network = load_inception(weights, asked.device)
    sampler = _sampler(asked, model)
    dataset = _dataset(asked, sampler.config)
    asked.report.phase("measuring FID")
    found = evaluate_inception(
        sampler, dataset, network, asked.num_samples, progress=asked.report.advance
    )
    if asked.as_json:
        return [_json(found)]
    shown = Table("number", "", title=f"Inception {found['inception']}, dataset {dataset.name}")
    for name, value in found.items():
        shown.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    return [shown]


def _sampler(asked: Asked, ref: str) -> Sampler:
    """Of NAME, NAME@VERSION, or a folder that holds a generator and its manifest."""
    folder = Path(ref)
    if not (folder / "manifest.json").is_file():
        folder = asked.registry.path(*asked.registry.resolve(ref))
    generator, network = load_generator(folder)
    return Sampler(generator, network, asked.device)


def _dataset(asked: Asked, network: NetworkConfig) -> Dataset:
    """The images to measure by, packed as `network` makes its own."""
    packed = asked.data
    if not is_packed(packed):
        packed = asked.scratch / "dataset"
        asked.report.phase("importing")
        import_dataset(
            asked.data,
            packed,
            ImportOptions(
                "evaluated", resolution=network.img_resolution, channels=network.img_channels
            ),
            lambda at: asked.report.advance(at.done, at.total),
        )
    asked.report.phase("preparing the evaluator")
    return load_dataset(packed)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)


if __name__ == "__main__":
    cli(prog_name="noisewell evaluate")
