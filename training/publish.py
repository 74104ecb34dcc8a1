"""Owns the end of a run: measure the generator, compare it, and register it as a version."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.cards import model_card
from training.data.dataset import Dataset
from training.metrics.evaluation import evaluate
from training.metrics.features import Evaluator
from training.model.checkpoint import CheckpointError, load_generator, trained_generator
from training.model.files import sha256_bytes, write_atomic, write_json
from training.model.networks.build import num_parameters
from training.model.registry import Registry
from training.model.sampling import Sampler
from training.plan import Plan
from training.promotion import Decision, Policy, should_promote
from training.run import png_bytes, sample_grid

VERSION = "0.1.0"


@dataclass(frozen=True)
class Version:
    """The files and the manifest of a version that is not registered yet."""

    files: dict[str, bytes]
    manifest: dict[str, Any]
    metrics: dict[str, Any]


def make_version(
    plan: Plan,
    run_dir: Path,
    dataset: Dataset,
    evaluator: Evaluator,
    device: torch.device,
    job_id: str | None,
) -> Version:
    """Measure the run's generator.safetensors and put a version together around it."""
    weights = (run_dir / "generator.safetensors").read_bytes()
    generator = trained_generator(weights, plan.network, str(run_dir))
    sampler = Sampler(generator, plan.network, device)
    metrics = evaluate(sampler, dataset, evaluator)
    manifest = {
        "network": plan.network.to_json(),
        "class_names": list(dataset.class_names),
        "digest": sha256_bytes(weights),
        "num_parameters": num_parameters(generator),
        "lineage": _lineage(plan, run_dir, dataset, job_id),
    }
    files = {
        "generator.safetensors": weights,
        "card.md": model_card(manifest, metrics).encode(),
        "samples.png": png_bytes(sample_grid(sampler)),
        "metrics.json": json.dumps(metrics, indent=2).encode() + b"\n",
    }
    return Version(files, manifest, metrics)


def _lineage(plan: Plan, run_dir: Path, dataset: Dataset, job_id: str | None) -> dict[str, Any]:
    state = json.loads((run_dir / "state.json").read_text("utf-8"))
    return {
        "dataset": dataset.name,
        "dataset_hash": dataset.hash,
        "num_images": dataset.num_images,
        "job": job_id,
        "preset": plan.asked["preset"],
        "seed": plan.seed,
        "config": plan.config.to_json(),
        "use_bf16": plan.use_bf16,
        "cur_nimg": state["cur_nimg"],
        "train_sec": state["elapsed_sec"],
        "code_version": VERSION,
    }


def write_snapshot(version: Version, run_dir: Path) -> None:
    """Leave the version in the run folder too, beside generator.safetensors."""
    for name in ("card.md", "samples.png", "metrics.json"):
        write_atomic(run_dir / name, version.files[name])
    write_json(run_dir / "manifest.json", {"format": 1, **version.manifest})


def publish(
    version: Version,
    run_id: str,
    model: str,
    registry: Registry,
    dataset: Dataset,
    evaluator: Evaluator,
    device: torch.device,
    policy: Policy,
) -> dict[str, Any]:
    """Register the version and decide on its promotion; returns what result.json holds.

    No alias moves here, but for the first version of a model, which becomes its champion.
    """
    champion = _champion_before(registry, model, run_id)
    champion_metrics, misfit = None, None
    if champion is not None and policy == "if_better":
        champion_metrics, misfit = _measure(
            registry.path(model, champion), dataset, evaluator, device
        )
    decision = should_promote(version.metrics, champion_metrics, policy, misfit)
    if champion is None:
        decision = Decision(True, "the first version of the model")
    number = registry.register(model, version.files, version.manifest, run_id)
    return {
        "model": model,
        "version": number,
        "digest": version.manifest["digest"],
        "decision": asdict(decision),
        "champion": champion,
        "metrics": version.metrics,
        "champion_metrics": champion_metrics,
    }


def _champion_before(registry: Registry, model: str, run_id: str) -> int | None:
    """Whom to compare with: the champion, unless this very run made it, before it was killed."""
    if model not in registry.list_models():
        return None
    champion = registry.champion(model)
    return None if champion == registry.find_run(model, run_id) else champion


def _measure(
    version_dir: Path, dataset: Dataset, evaluator: Evaluator, device: torch.device
) -> tuple[dict[str, Any] | None, str | None]:
    """The champion's report on this dataset, or why there is none."""
    names = json.loads((version_dir / "manifest.json").read_text("utf-8"))["class_names"]
    if names != list(dataset.class_names):
        return None, f"its classes are {names}, the dataset's {list(dataset.class_names)}"
    try:
        generator, network = load_generator(version_dir)
        return evaluate(Sampler(generator, network, device), dataset, evaluator), None
    except (CheckpointError, ValueError) as error:
        return None, str(error)
