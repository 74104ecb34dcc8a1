"""The end of a run, measured for real: what is registered, what is decided, and what is kept."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from training.data.dataset import Dataset, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.metrics.evaluation import Evaluation, evaluate, measure
from training.metrics.features import Evaluator, load_or_train_evaluator
from training.model.checkpoint import serialize
from training.model.manifest import sealed
from training.model.networks.build import build_generator
from training.model.pixels import to_float
from training.model.registry import Registry
from training.model.rules import Rules
from training.plan import Length, Plan, asked_for
from training.presets import PRESETS
from training.publish import Version, make_version, publish, write_snapshot

CPU = torch.device("cpu")
SAMPLES = 60


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    """Ten thousand would take a minute."""
    monkeypatch.setattr("training.publish.measure", partial(measure, num_samples=SAMPLES))
    monkeypatch.setattr("training.publish.evaluate", partial(evaluate, num_samples=SAMPLES))


@dataclass(frozen=True)
class House:
    """A small dataset with its evaluator, and two generators for it: trained, and not."""

    dataset: Dataset
    evaluator: Evaluator
    good: Path
    bad: Path

    def version(self, run_dir: Path) -> Version:
        return make_version(plan(self.dataset), run_dir, self.dataset, self.evaluator, CPU, "job_1")

    def publish(self, registry: Registry, run_dir: Path, run_id: str, policy="if_better", **rules):
        version, gate = self.version(run_dir), Rules(**rules)
        return publish(
            version, run_id, "blobs", registry, self.dataset, self.evaluator, CPU, policy, gate
        )


def plan(dataset: Dataset) -> Plan:
    config = PRESETS["tiny"]
    network = config.network(dataset.resolution, dataset.channels, dataset.num_classes)
    asked = asked_for(config, "tiny", Length(kimg=1), 0, dataset.hash)
    return Plan(config, network, False, 0, 1000, None, asked)


def generator_dir(dataset: Dataset, run_dir: Path, steps: int) -> Path:
    """What a run leaves of a generator that learned the mean image of each class in `steps`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = build_generator(plan(dataset).network)
        images, labels = dataset.split(heldout=False)
        x, c = to_float(torch.from_numpy(images)).permute(0, 3, 1, 2), torch.from_numpy(labels)
        optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
        for _ in range(steps):
            loss = mse_loss(generator(torch.randn(len(c), 16), c), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    run_dir.mkdir()
    (run_dir / "generator.safetensors").write_bytes(serialize(generator.state_dict()))
    (run_dir / "state.json").write_text('{"cur_nimg": 0, "elapsed_sec": 0.0}')
    return run_dir


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> House:
    folder = tmp_path_factory.mktemp("house")
    images = np.random.default_rng(0).integers(0, 60, (300, 8, 8), np.uint8)
    labels = np.arange(300) % 2
    images[labels == 0, :4] += 150
    images[labels == 1, 4:] += 150
    np.savez(folder / "blobs.npz", images=images, labels=labels)
    import_dataset(folder / "blobs.npz", folder / "packed", ImportOptions("blobs", resolution=8))
    dataset = load_dataset(folder / "packed")
    evaluator = load_or_train_evaluator(dataset, folder / "evaluators", CPU)
    good = generator_dir(dataset, folder / "good", steps=40)
    bad = generator_dir(dataset, folder / "bad", steps=0)
    return House(dataset, evaluator, good, bad)


def test_a_better_candidate_is_to_be_promoted_and_a_worse_one_is_kept(house, registry):
    first = house.publish(registry, house.bad, "run1")
    assert (first["version"], first["champion"], first["champion_metrics"]) == (1, None, None)
    assert first["decision"]["promote"]
    better = house.publish(registry, house.good, "run2")
    assert (better["version"], better["champion"]) == (2, 1)
    assert better["decision"]["promote"], better["decision"]["reason"]
    assert better["champion_metrics"] == first["metrics"]
    registry.promote("blobs", 2, better["decision"]["reason"])
    worse = house.publish(registry, house.bad, "run3")
    assert (worse["version"], worse["champion"]) == (3, 2)
    assert not worse["decision"]["promote"]
    assert "is not lower than the champion's" in worse["decision"]["reason"]
    assert registry.versions("blobs") == [1, 2, 3]
    assert registry.champion("blobs") == 2


def test_a_version_carries_its_decision_with_the_rules_and_every_check(house, registry):
    house.publish(registry, house.bad, "run1")
    result = house.publish(registry, house.good, "run2", fd_errors=2)
    manifest = registry.manifest("blobs", 2)
    assert manifest["promotion"]["champion"] == 1
    told = manifest["promotion"]["decision"]
    assert told == json.loads(json.dumps(result["decision"]))
    assert told["rules"] == asdict(Rules(fd_errors=2))
    assert [c["name"] for c in told["checks"]][:2] == ["finite", "evaluator"]
    card = (registry.path("blobs", 2) / "card.md").read_text("utf-8")
    assert "Decision: promote it; better: fd_cnn" in card
    assert "fd_errors=2" in card
    about = json.loads((registry.path("blobs", 2) / "card.json").read_text("utf-8"))
    assert about["lineage"]["promotion"] == manifest["promotion"]
    assert "card.json" in manifest["files"]


def test_a_run_killed_after_it_registered_keeps_its_decision(house, registry):
    house.publish(registry, house.bad, "run1")
    once = house.publish(registry, house.good, "run2")
    registry.promote("blobs", 2, "as decided, and then came the kill")
    again = house.publish(registry, house.good, "run2")
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(once))
    assert registry.versions("blobs") == [1, 2]


@pytest.mark.parametrize(("policy", "promoted"), [("never", False), ("always", True)])
def test_policies_are_told_with_what_the_rules_would_have_done(house, registry, policy, promoted):
    house.publish(registry, house.good, "run1", policy)
    result = house.publish(registry, house.bad, "run2", policy)
    assert result["decision"]["promote"] is promoted
    assert result["decision"]["reason"].startswith(f"promote is '{policy}'")
    assert any(check["passed"] is False for check in result["decision"]["checks"])
    assert registry.champion("blobs") == 1


def other_classes(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), "class_names": ["a", "b"]}
    path.write_text(json.dumps(sealed(manifest)))


def other_weights(folder: Path) -> None:
    path = folder / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (other_classes, "its classes are ['a', 'b'], the dataset's ['0', '1']"),
        (other_weights, "generator.safetensors has SHA-256"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    ],
    ids=["other classes", "damaged weights", "damaged manifest"],
)
def test_a_champion_that_cannot_be_measured_stays(house, registry, spoil, told):
    house.publish(registry, house.bad, "run1")
    spoil(registry.path("blobs", 1))
    result = house.publish(registry, house.good, "run2")
    assert not result["decision"]["promote"]
    assert result["decision"]["reason"].startswith("the champion cannot be compared: ")
    assert told in result["decision"]["reason"]
    assert registry.champion("blobs") == 1


def test_a_snapshot_holds_the_cards_and_the_picture_of_the_closest_pairs(
    house, tmp_path, monkeypatch
):
    picture = np.zeros((8, 16, 1), np.uint8)
    measured = Evaluation({"fd_cnn": 1.0, "num_samples": 60, "evaluator": "e"}, picture)
    monkeypatch.setattr("training.publish.measure", lambda *_: measured)
    write_snapshot(house.version(house.good), tmp_path)
    assert (tmp_path / "memorisation.png").read_bytes().startswith(b"\x89PNG")
    assert "(memorisation.png)" in (tmp_path / "card.md").read_text("utf-8")
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert card["pictures"] == ["memorisation.png", "samples.png"]
    assert card["data"]["class_counts"] == {"0": 150, "1": 150}
    assert card["recipe"]["changed_settings"] == {}
    assert not (tmp_path / "generator.safetensors").exists()
