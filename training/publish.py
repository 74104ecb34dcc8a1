"""Owns the end of a run: measure the generator, compare it, and register it as a version."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.averages import chosen_average
from training.cards import make_card, to_markdown
from training.data.dataset import Dataset
from training.history import read_history
from training.metrics.evaluation import evaluate, measure
from training.metrics.features import Evaluator
from training.model.checkpoint import CheckpointError, load_generator, trained_generator
from training.model.files import sha256_bytes, write_atomic, write_json
from training.model.networks.build import num_parameters
from training.model.registry import Registry, UnknownVersionError
from training.model.rules import Rules
from training.model.sampling import Sampler
from training.pictures import png_bytes
from training.plan import Plan
from training.presets import PRESETS
from training.promotion import Policy, should_promote
from training.run import sample_grid
from training.snapshots import seconds_by_images

VERSION = "0.1.0"


@dataclass(frozen=True)
class Version:
    """The manifest of a version that is not registered yet, and its files but for the cards."""

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
    measured = measure(sampler, dataset, evaluator)
    manifest = {
        "network": plan.network.to_json(),
        "class_names": list(dataset.class_names),
        "digest": sha256_bytes(weights),
        "num_parameters": num_parameters(generator),
        "lineage": _lineage(plan, run_dir, dataset, job_id),
    }
    files = {
        "generator.safetensors": weights,
        "samples.png": png_bytes(sample_grid(sampler)),
        "metrics.json": _json_bytes(measured.metrics),
    }
    if measured.closest is not None:
        files["memorisation.png"] = png_bytes(measured.closest)
    return Version(files, manifest, measured.metrics)


def _lineage(plan: Plan, run_dir: Path, dataset: Dataset, job_id: str | None) -> dict[str, Any]:
    state = json.loads((run_dir / "state.json").read_text("utf-8"))
    chosen = chosen_average(run_dir)
    cur_nimg = chosen["cur_nimg"] if chosen else state["cur_nimg"]
    seconds = seconds_by_images(read_history(run_dir))
    config, preset = plan.config.to_json(), plan.asked["preset"]
    usual = PRESETS[preset].to_json()
    return {
        "dataset": dataset.name,
        "dataset_hash": dataset.hash,
        "num_images": dataset.num_images,
        "num_heldout": int(dataset.heldout.sum()),
        "class_counts": dataset.manifest.get("counts", {}),
        "licence": dataset.manifest.get("licence"),
        "job": job_id,
        "base": plan.base,
        "preset": preset,
        "changed_settings": {name: config[name] for name in config if config[name] != usual[name]},
        "seed": plan.seed,
        "config": config,
        "use_bf16": plan.use_bf16,
        "cur_nimg": cur_nimg,
        "train_sec": seconds.get(cur_nimg, state["elapsed_sec"]),
        "average": chosen,
        "code_version": VERSION,
    }


def write_snapshot(version: Version, run_dir: Path) -> None:
    """Leave the version in the run folder too, beside generator.safetensors."""
    for name, data in _with_cards(version, version.manifest).items():
        if name != "generator.safetensors":
            write_atomic(run_dir / name, data)
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
    rules: Rules = Rules(),
) -> dict[str, Any]:
    """Decide on the version's promotion and register it; returns what result.json holds.

    The decision is part of the version, and stands if the run was killed after it had registered.
    No alias moves here, but for the first version of a model, which becomes its champion.
    """
    known = registry.find_run(model, run_id)
    promotion = None if known is None else registry.manifest(model, known).get("promotion")
    if promotion is None:
        promotion = _decide(version, model, registry, dataset, evaluator, device, policy, rules)
    manifest = {**version.manifest, "promotion": promotion}
    files = _with_cards(version, manifest)
    number = registry.register(model, files, manifest, run_id)
    return {
        "model": model,
        "version": number,
        "digest": version.manifest["digest"],
        "metrics": version.metrics,
        **promotion,
    }


def _decide(
    version: Version,
    model: str,
    registry: Registry,
    dataset: Dataset,
    evaluator: Evaluator,
    device: torch.device,
    policy: Policy,
    rules: Rules,
) -> dict[str, Any]:
    """The decision, and whom it compared the version with."""
    champion = registry.champion(model)
    metrics, misfit = None, None
    if champion is not None:
        metrics, misfit = _measure(registry, model, champion, dataset, evaluator, device)
    decision = should_promote(version.metrics, metrics, policy, misfit, rules)
    return {"decision": asdict(decision), "champion": champion, "champion_metrics": metrics}


def _measure(
    registry: Registry,
    model: str,
    champion: int,
    dataset: Dataset,
    evaluator: Evaluator,
    device: torch.device,
) -> tuple[dict[str, Any] | None, str | None]:
    """The champion's report on this dataset, or why there is none."""
    try:
        names = registry.manifest(model, champion).get("class_names")
        if names != list(dataset.class_names):
            return None, f"its classes are {names}, the dataset's {list(dataset.class_names)}"
        generator, network = load_generator(registry.path(model, champion))
        return evaluate(Sampler(generator, network, device), dataset, evaluator), None
    except (CheckpointError, UnknownVersionError, ValueError) as error:
        return None, str(error)


def _with_cards(version: Version, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    card = make_card(manifest, version.metrics, version.files)
    return {
        **version.files,
        "card.md": to_markdown(card).encode(),
        "card.json": _json_bytes(card),
    }


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
