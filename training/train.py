"""Owns the `train` command: config → run folder → loop → evaluate → register → maybe promote."""

import errno
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.distributed import is_torchelastic_launched

from training.averages import choose_average
from training.base import Base, base_ref, check_base, load_base
from training.board import open_board
from training.checks import check_fit
from training.config import ConfigError, override
from training.crew import Crew, join_crew
from training.data.dataset import DataError, Dataset, is_packed, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.health import DivergedError
from training.loop import never_waits
from training.memory import keep_freed_memory
from training.metrics.evaluation import distance, told
from training.metrics.features import Evaluator, load_or_train_evaluator
from training.model.checkpoint import CheckpointError
from training.model.files import locked, write_json
from training.model.pressure import GiveWay
from training.model.registry import Registry, check_name, now_iso
from training.model.rules import Rules, parse_rules
from training.model.sampling import Sampler, pick_device
from training.model.settings import parse_overrides
from training.model.threads import half_the_cores
from training.parent import Interrupt, exit_code_in, exit_with_stdin, fail
from training.pins import read_pointer
from training.plan import (
    DEFAULT_MINUTES,
    Length,
    Plan,
    asked_for,
    fix_length,
    store_plan,
    stored_plan,
    wants_bf16,
)
from training.presets import PRESETS, preset_for
from training.progress import Reporter
from training.promotion import Policy
from training.publish import Version, make_version, publish, write_snapshot
from training.report import write_report
from training.run import Run, measure_speed, train

OTHER_ERROR, LOCKED, DISK_FAILED, STOPPED = 1, 73, 74, 75
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@dataclass(frozen=True)
class Destination:
    """Where a finished version goes, and by which rule it may become champion."""

    model: str
    registry: Registry
    policy: Policy
    rules: Rules
    job: str | None


@dataclass(frozen=True)
class Asked:
    """What the command said of the training itself; start: the version it goes on from."""

    preset: str | None
    overrides: dict[str, object]
    length: Length
    seed: int
    start: str | None


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(name="train")
def main(
    data: Annotated[Path, typer.Option(help="Images as data import takes them, or packed.")],
    run_dir: Annotated[Path, typer.Option(help="Where the run lives; give it again to resume.")],
    preset: Annotated[str | None, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help=f"About so long; {DEFAULT_MINUTES:g} if no --kimg.")
    ] = None,
    kimg: Annotated[float | None, typer.Option(help="Train on so many thousand images.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop early at a level: fd=X.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1)] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, any setting of the preset.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Fine-tune a registered version: NAME@V in --data-dir.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Register the result under this name.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Where the registry is.")] = Path("data"),
    promote: Annotated[str, typer.Option(help="if_better, never or always.")] = "if_better",
    rules: Annotated[
        list[str] | None, typer.Option("--rule", help="name=value, for --promote if_better.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: half the cores.")] = 0,
    save_sec: Annotated[float, typer.Option(help="Seconds between saved states.")] = 30.0,
    keep_snapshots: Annotated[bool, typer.Option(help="Keep G at every snapshot.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Also write TensorBoard events.")] = False,
    job: Annotated[str | None, typer.Option(hidden=True)] = None,
    pressure: Annotated[Path | None, typer.Option("--give-way", hidden=True)] = None,
    follow_stdin: Annotated[bool, typer.Option("--exit-with-stdin", hidden=True)] = False,
) -> None:
    """Train a generator on a pile of images. The same command again resumes the run.

    `noisewell train SOURCE`, SOURCE first, imports a folder or a file of images into the data
    folder, trains there and registers the result under its name; SOURCE may be a dataset, too.

    Under torchrun, its processes share every batch and take the steps that one would.
    """
    with _told_exit(run_dir):
        interrupt = Interrupt(exit_code=STOPPED)
        if follow_stdin:
            exit_with_stdin()
        torch.set_num_threads(threads or half_the_cores())
        keep_freed_memory()
        try:
            crew = join_crew(pick_device(device))
            overrides, length = parse_overrides(settings or []), Length.asked(minutes, kimg)
            until_fd = _parse_until(until)
            policy, gate = _parse_policy(promote), parse_rules(rules or [])
            if model is not None:
                check_name(model)
            registry = Registry(data_dir / "models")
            start = None if base is None else base_ref(registry, base)
            asked = Asked(preset, overrides, length, seed, start)
            run_dir.mkdir(parents=True, exist_ok=True)
            board = open_board(run_dir) if tensorboard and crew.leads else None
            lock = locked(run_dir / "lock", wait=False) if crew.leads else nullcontext()
            with lock, Reporter(run_dir, crew.leads, board) as report:
                dataset = _open_dataset(data, run_dir, report, crew)
                origin = _origin(registry, start, run_dir)
                give_way = never_waits if pressure is None else GiveWay(pressure)
                plan = _plan(asked, origin, run_dir, dataset, crew, report)
                run = Run(plan, dataset, run_dir, crew, report, keep_snapshots, origin, give_way)
                destination = Destination(model, registry, policy, gate, job) if model else None
                cache = (data_dir if model else run_dir) / "evaluators"
                _run(run, interrupt, until_fd, cache, destination, save_sec)
            crew.leave()
        except BlockingIOError:
            fail(f"another process is training in {run_dir}; wait for it or stop it", LOCKED)
        except (ConfigError, DataError, DivergedError, CheckpointError, ValueError) as error:
            _leave_nothing(run_dir)
            fail(str(error))
        except OSError as error:
            fail(str(error), DISK_FAILED if error.errno in DISK_ERRORS else OTHER_ERROR)


def _told_exit(run_dir: Path) -> AbstractContextManager[None]:
    """Of several processes, whoever ends first leaves how in `run_dir`/exit_code."""
    if not is_torchelastic_launched():
        return nullcontext()
    return exit_code_in(run_dir / "exit_code")


def _run(
    run: Run,
    interrupt: Interrupt,
    until_fd: float | None,
    cache: Path,
    destination: Destination | None,
    save_sec: float,
) -> None:
    dataset, run_dir, report = run.dataset, run.run_dir, run.report

    def evaluator() -> Evaluator:
        report.phase("preparing the evaluator")
        return load_or_train_evaluator(dataset, cache, run.device, report.advance)

    judge = evaluator() if until_fd is not None and run.crew.leads else None

    def measured(sampler: Sampler) -> dict[str, Any] | None:
        return None if judge is None else distance(sampler, dataset, judge)

    if not (run_dir / "generator.safetensors").is_file():
        interrupt.can_wait = True
        if not train(run, interrupt.requested, measured, until_fd, save_sec):
            report.say(f"stopped; run the same command again to go on from {run_dir}")
            raise SystemExit(STOPPED)
        interrupt.can_wait = False
    if not run.crew.leads:
        return

    judge = judge or evaluator()
    report.phase("evaluating")
    choose_average(run, judge)
    job = destination.job if destination else None
    version = make_version(run.plan, run_dir, dataset, judge, run.device, job)
    write_snapshot(version, run_dir)
    report.say(told(version.metrics))
    if destination is not None:
        report.phase("registering")
        result = _register(version, destination, run, judge)
        verdict = "champion" if result["decision"]["promote"] else "not promoted"
        report.say(
            f"{destination.model}@{result['version']}: {verdict}, {result['decision']['reason']}"
        )
    report.phase("done")
    write_report(run_dir, final=True)


def _register(
    version: Version, destination: Destination, run: Run, judge: Evaluator
) -> dict[str, Any]:
    """Publish the version and write result.json; a job's worker moves the alias, not we."""
    registry, model, job = destination.registry, destination.model, destination.job
    run_id = run.run_dir.name if job else _run_id(run.run_dir)  # a job's retry goes on in it
    result = publish(
        version,
        run_id,
        model,
        registry,
        run.dataset,
        judge,
        run.device,
        destination.policy,
        destination.rules,
    )
    decision = result["decision"]
    if job is None and decision["promote"]:
        registry.promote(model, result["version"], decision["reason"])
    write_json(run.run_dir / "result.json", result)
    return result


def _plan(
    asked: Asked,
    origin: Base | None,
    run_dir: Path,
    dataset: Dataset,
    crew: Crew,
    report: Reporter,
) -> Plan:
    name = preset_for(asked.preset, dataset.resolution, dataset.channels, crew.device.type)
    config = override(PRESETS[name], asked.overrides)
    length, seed = asked.length, asked.seed
    same = asked_for(config, name, length, seed, dataset.hash, asked.start)
    plan = stored_plan(run_dir, config, same)
    if not crew.agree([plan is None])[0]:
        plan = plan or stored_plan(run_dir, config, same)
        assert plan is not None
        return plan
    shape = f"{dataset.resolution}×{dataset.resolution}×{dataset.channels}"
    report.say(
        f"preset {name} for {shape} on {crew.device}, {length}; --preset, --minutes or --kimg"
        " change that"
    )
    warnings = check_fit(config, dataset, crew.size)
    network = config.network(dataset.resolution, dataset.channels, dataset.num_classes)
    if origin is not None:
        check_base(origin, network, dataset)
    use_bf16 = wants_bf16(config.precision, crew.device)
    about_base = None if origin is None else origin.about()
    plan = Plan(config, network, use_bf16, seed, 0, None, same, about_base)
    if length.minutes is not None:
        report.phase("measuring speed")
    minutes = length.minutes or 1.0
    seconds = max(min(6.0, 6 * minutes), min(20.0, 0.6 * minutes))  # a hundredth of a longer run
    plan = fix_length(plan, length, lambda p: measure_speed(p, dataset, crew, seconds))
    if crew.leads:
        about = {
            "dataset": dataset.name,
            "device": str(crew.device),
            "created_at": now_iso(),
            "run_id": f"run-{now_iso()}-{seed}-{dataset.hash[:8]}",
            "class_counts": dataset.manifest.get("counts", {}),
        }
        store_plan(plan, run_dir, about)
        for warning in warnings:
            report.event("warning", warning, 0, 0.0)
    crew.wait()
    # What the leader measured and wrote is the plan of all.
    stored = stored_plan(run_dir, config, same)
    assert stored is not None
    return stored


def _origin(registry: Registry, ref: str | None, run_dir: Path) -> Base | None:
    """What the run starts from; None for a run that starts from noise or has a state of its own."""
    return None if ref is None or read_pointer(run_dir) else load_base(registry, ref)


def _open_dataset(data: Path, run_dir: Path, report: Reporter, crew: Crew) -> Dataset:
    packed = data if is_packed(data) else run_dir / "dataset"
    if crew.leads and not is_packed(packed):
        report.phase("importing")
        import_dataset(
            data, packed, ImportOptions(data.stem), lambda at: report.advance(at.done, at.total)
        )
    crew.wait()
    return load_dataset(packed)


def _leave_nothing(run_dir: Path) -> None:
    """Take back the folder of a run that was refused before it had a plan."""
    if run_dir.is_dir() and not (run_dir / "run.json").exists():
        for name in ("progress.json", "lock"):
            (run_dir / name).unlink(missing_ok=True)
        if not any(run_dir.iterdir()):
            run_dir.rmdir()


def _run_id(run_dir: Path) -> str:
    return json.loads((run_dir / "run.json").read_text("utf-8"))["run_id"]


def _parse_until(text: str | None) -> float | None:
    if text is None:
        return None
    name, _, value = text.partition("=")
    try:
        level = float(value)
    except ValueError:
        level = 0.0
    if name != "fd" or not 0 < level < float("inf"):
        raise ConfigError(f"--until {text!r}; expected fd=X with X above 0, such as fd=2.5")
    return level


def _parse_policy(text: str) -> Policy:
    if text not in ("if_better", "never", "always"):
        raise ConfigError(f"--promote {text!r}; expected if_better, never or always")
    return text


if __name__ == "__main__":
    cli(prog_name="noisewell train")
