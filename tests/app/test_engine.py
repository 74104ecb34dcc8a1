import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.engine import Engine, Loaded
from app.errors import NotFoundError, UnavailableError
from training.model.checkpoint import parse, serialize
from training.model.files import sha256_bytes
from training.model.manifest import sealed
from training.model.registry import Registry

Make = Callable[..., int]


def make_engine(registry: Registry, max_loaded_bytes: int = 10**9, **more: Any) -> Engine:
    return Engine(registry, torch.device("cpu"), 8, max_loaded_bytes, **more)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def forge(folder: Path, factor: float) -> None:
    """Multiply the weights, and let the manifest vouch for them."""
    path = folder / "generator.safetensors"
    data = path.read_bytes()
    tensors = parse(data, sha256_bytes(data), "")
    forged = serialize({name: t * factor for name, t in tensors.items()})
    path.write_bytes(forged)
    edit(folder, digest=sha256_bytes(forged))


def replace(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


def edit(folder: Path, **changes: Any) -> None:
    """Change the manifest as somebody would who can also seal it."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **changes})))


def refused(engine: Engine) -> dict[str, int | None]:
    return {model: refusal.version for model, refusal in engine.refused().items()}


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda v: flip(v / "generator.safetensors"),
    "no weights": lambda v: (v / "generator.safetensors").unlink(),
    "empty weights": lambda v: (v / "generator.safetensors").write_bytes(b""),
    "NaN weights": lambda v: forge(v, float("nan")),
    "weights that give NaN": lambda v: forge(v, 1e37),
    "no manifest": lambda v: (v / "manifest.json").unlink(),
    "a torn manifest": lambda v: (v / "manifest.json").write_bytes(b'{"digest": "'),
    "a manifest of another kind": lambda v: (v / "manifest.json").write_bytes(b"[]"),
    "another network": lambda v: edit(v, network={"architecture": "strided"}),
    "too few class names": lambda v: edit(v, class_names=["1"]),
    "class names that are no list": lambda v: edit(v, class_names="abc"),
    "no class names": lambda v: edit(v, class_names=None),
    "other class names": lambda v: replace(v / "manifest.json", b"cat", b"dog"),
    "the manifest of another version": lambda v: edit(v, version=9),
}
breakages = pytest.mark.parametrize("breakage", BREAKAGES)


@pytest.fixture
def two(registry: Registry, make_version: Make) -> Registry:
    """A registry with toy 1, the champion, and toy 2."""
    make_version(registry, weights=1)
    make_version(registry, weights=2)
    return registry


def serving(engine: Engine) -> dict[str, int]:
    return engine.serving()


# Following the champion


def test_every_model_is_served_by_its_champion(two: Registry, make_version: Make) -> None:
    make_version(two, "other")
    two.promote("toy", 2, "")
    engine = make_engine(two)
    engine.refresh()
    assert serving(engine) == {"toy": 2, "other": 1}


def test_a_service_starts_with_its_small_models_and_takes_the_others_next(
    two: Registry, make_version: Make
) -> None:
    make_version(two, "large", resolution=32)
    make_version(two, "small")
    engine = make_engine(two)
    small = (two.path("small", 1) / "generator.safetensors").stat().st_size
    engine.refresh(max_bytes=2 * small)
    assert serving(engine) == {"small": 1, "toy": 1}
    engine.refresh()
    assert serving(engine) == {"small": 1, "toy": 1, "large": 1}


def test_a_large_model_on_its_own_is_there_from_the_start(two: Registry) -> None:
    engine = make_engine(two)
    engine.refresh(max_bytes=0)
    assert serving(engine) == {"toy": 1}


def test_a_loaded_version_knows_itself(two: Registry) -> None:
    loaded = make_engine(two).get("toy", 2)
    manifest = two.manifest("toy", 2)
    assert (loaded.ref, loaded.digest) == ("toy@2", manifest["digest"])
    assert loaded.class_names == ("1", "cat", "dog")
    assert loaded.certificate_id == make_engine(two).get("toy", 1).certificate_id


def test_a_promotion_is_followed_and_told(two: Registry) -> None:
    swaps: list[tuple[str, int]] = []
    engine = make_engine(two, on_swap=lambda model, version: swaps.append((model, version)))
    engine.refresh()
    two.promote("toy", 2, "")
    engine.refresh()
    engine.refresh()
    two.rollback("toy")
    engine.refresh()
    assert swaps == [("toy", 1), ("toy", 2), ("toy", 1)]


def test_a_version_already_in_memory_is_not_loaded_again(two: Registry) -> None:
    engine = make_engine(two)
    engine.refresh()
    pinned = engine.get("toy", 2)
    two.promote("toy", 2, "")
    engine.refresh()
    assert engine.get("toy", None) is pinned
    assert engine.get("toy", 2) is pinned


def test_a_new_model_and_a_deleted_one_are_noticed(two: Registry, make_version: Make) -> None:
    engine = make_engine(two)
    engine.refresh()
    make_version(two, "other")
    (two.root / "toy").rename(two.root / ".gone")
    engine.refresh()
    assert serving(engine) == {"other": 1}


@breakages
def test_a_broken_version_keeps_the_old_one_serving(two: Registry, breakage: str) -> None:
    engine = make_engine(two)
    engine.refresh()
    old = engine.get("toy", None)
    BREAKAGES[breakage](two.path("toy", 2))
    two.promote("toy", 2, "")
    for _ in range(2):
        engine.refresh()
        assert engine.get("toy", None) is old
        assert refused(engine) == {"toy": 2}
    with pytest.raises(UnavailableError, match="toy@2 cannot be served"):
        engine.get("toy", 2)
    two.rollback("toy")
    engine.refresh()
    assert refused(engine) == {}


@breakages
def test_start_up_falls_back_to_the_last_good_version(two: Registry, breakage: str) -> None:
    two.promote("toy", 2, "")
    BREAKAGES[breakage](two.path("toy", 2))
    engine = make_engine(two)
    engine.refresh()
    assert serving(engine) == {"toy": 1}
    assert refused(engine) == {"toy": 2}


def test_start_up_prefers_the_previous_champion_to_the_newest(
    two: Registry, make_version: Make
) -> None:
    make_version(two, weights=3)
    two.promote("toy", 2, "")
    flip(two.path("toy", 2) / "generator.safetensors")
    engine = make_engine(two)
    engine.refresh()
    assert serving(engine) == {"toy": 1}


def test_a_champion_that_was_deleted_falls_back(two: Registry) -> None:
    two.promote("toy", 2, "")
    two.path("toy", 2).rename(two.root / ".gone")
    engine = make_engine(two)
    engine.refresh()
    assert serving(engine) == {"toy": 1}


def test_a_model_of_broken_versions_does_not_keep_others_from_serving(
    two: Registry, make_version: Make
) -> None:
    make_version(two, "other")
    for version in (1, 2):
        flip(two.path("toy", version) / "generator.safetensors")
    engine = make_engine(two)
    engine.refresh()
    assert serving(engine) == {"other": 1}
    with pytest.raises(UnavailableError, match="no version of model 'toy' can be loaded"):
        engine.get("toy", None)


def test_damaged_aliases_keep_what_serves_and_stop_no_other_model(
    two: Registry, make_version: Make
) -> None:
    make_version(two, "other")
    two.promote("toy", 2, "")
    engine = make_engine(two)
    engine.refresh()
    (two.root / "toy" / "aliases.json").write_bytes(b"{")
    make_version(two, "zebra")
    engine.refresh()
    assert serving(engine) == {"toy": 2, "other": 1, "zebra": 1}
    assert refused(engine) == {"toy": None}
    assert "aliases.json cannot be read" in engine.refused()["toy"].reason


@pytest.mark.parametrize("lost", [True, False])
def test_without_its_aliases_a_model_starts_with_what_its_versions_say(
    registry: Registry, make_files: Callable[..., Any], lost: bool
) -> None:
    for weights, better in enumerate((True, True, False)):
        files, manifest = make_files(weights)
        promotion = {"decision": {"promote": better}}
        registry.register("toy", files, {**manifest, "promotion": promotion}, f"run-{weights}")
    path = registry.root / "toy" / "aliases.json"
    path.unlink() if lost else replace(path, b'champion": 1', b'champion": 3')
    engine = make_engine(registry)
    engine.refresh()
    assert serving(engine) == {"toy": 2}


def test_a_repaired_version_is_served_once_it_was_asked_for(two: Registry) -> None:
    engine = make_engine(two)
    engine.refresh()
    path = two.path("toy", 2) / "generator.safetensors"
    flip(path)
    two.promote("toy", 2, "")
    engine.refresh()
    flip(path)
    engine.get("toy", 2)
    engine.refresh()
    assert serving(engine) == {"toy": 2}
    assert refused(engine) == {}


def test_a_deleted_version_leaves_the_memory(two: Registry) -> None:
    engine = make_engine(two)
    engine.refresh()
    engine.get("toy", 2)
    two.delete("toy", 2)
    engine.refresh()
    assert in_memory(engine) == [("toy", 1)]
    with pytest.raises(NotFoundError, match="version 2 of 'toy' is not registered"):
        engine.get("toy", 2)


# Versions by number


def in_memory(engine: Engine) -> list[tuple[str, int]]:
    return sorted((loaded.model, loaded.version) for loaded in engine.loaded())


def test_memory_is_bounded_and_the_least_recently_used_version_goes(
    registry: Registry, make_version: Make
) -> None:
    for weights in range(4):
        make_version(registry, weights=weights)
    size = make_engine(registry).get("toy", 1).sampler.num_bytes
    engine = make_engine(registry, max_loaded_bytes=3 * size)
    engine.refresh()
    for version in (2, 3, 1, 2, 4):
        engine.get("toy", version)
    assert in_memory(engine) == [("toy", 1), ("toy", 2), ("toy", 4)]


def test_a_champion_that_had_to_go_is_loaded_again_when_asked_for(
    two: Registry, make_version: Make
) -> None:
    make_version(two, "other")
    engine = make_engine(two, max_loaded_bytes=1)  # room for one at a time
    engine.refresh()
    assert serving(engine) == {"toy": 1, "other": 1}
    for model in ("toy", "other", "toy"):
        assert engine.get(model, None).ref == f"{model}@1"
        assert in_memory(engine) == [(model, 1)]
        engine.refresh()
    assert refused(engine) == {}


def test_a_rollback_finds_the_version_before_in_memory(two: Registry) -> None:
    engine = make_engine(two)
    engine.refresh()
    first = engine.get("toy", None)
    two.promote("toy", 2, "")
    engine.refresh()
    two.rollback("toy")
    engine.refresh()
    assert engine.get("toy", None) is first


def test_what_is_not_in_memory_is_not_loaded_by_looking(two: Registry) -> None:
    engine = make_engine(two)
    assert engine.in_memory("toy", None) is None
    assert engine.in_memory("toy", 2) is None
    assert engine.serving() == {}


@pytest.mark.parametrize(
    ("model", "version", "told"),
    [("cat", None, "registered: toy"), ("cat", 1, "registered: toy"), ("toy", 9, "1, 2")],
)
def test_what_is_not_registered_is_not_found(
    two: Registry, model: str, version: int | None, told: str
) -> None:
    with pytest.raises(NotFoundError, match=told) as error:
        make_engine(two).get(model, version)
    assert error.value.field == "model"


# Under load


def test_callers_that_ask_at_once_get_one_and_the_same(two: Registry) -> None:
    engine = make_engine(two)
    found: list[Loaded] = []
    threads = [threading.Thread(target=lambda: found.append(engine.get("toy", 2))) for _ in "12345"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5
    assert len({id(loaded) for loaded in found}) == 1


def test_swaps_under_sampling_give_every_image_of_one_version(two: Registry) -> None:
    engine = make_engine(two)
    engine.refresh()
    images = {v: engine.get("toy", v).sampler.from_seeds([7]).tobytes() for v in (1, 2)}
    seen: set[int] = set()
    wrong: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            loaded = engine.get("toy", None)
            pixels: np.ndarray = loaded.sampler.from_seeds([7])
            seen.add(loaded.version)
            if pixels.tobytes() != images[loaded.version]:
                wrong.append(loaded.version)

    sampling = threading.Thread(target=sample)
    sampling.start()
    for i in range(20):
        two.promote("toy", 2 - i % 2, "")
        engine.refresh()
    done.set()
    sampling.join()
    assert seen == {1, 2}
    assert wrong == []
