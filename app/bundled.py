"""Owns the generators in the box: registers them in a data directory that lacks them."""

import json
from importlib import resources
from importlib.resources.abc import Traversable

import structlog

from training.model.registry import DamagedError, Registry

log = structlog.get_logger(__name__)


def install_bundled(registry: Registry, box: Traversable | None = None) -> None:
    """Register every generator in the box under its folder's name, unless it was before.

    A newer one takes the next free version, and becomes champion only in place of a bundled one:
    what somebody trained or promoted stays.
    """
    box = box or resources.files("training.model").joinpath("bundled")
    for folder in box.iterdir():
        if folder.is_dir() and folder.joinpath("manifest.json").is_file():
            model = folder.name
            manifest = json.loads(folder.joinpath("manifest.json").read_bytes())
            others = (file for file in folder.iterdir() if file.name != "manifest.json")
            files = {file.name: file.read_bytes() for file in others}
            try:
                _install(registry, model, files, manifest)
            except DamagedError as error:  # other models can be served all the same
                log.error("cannot install the bundled generator", model=model, reason=str(error))


def _install(
    registry: Registry, model: str, files: dict[str, bytes], manifest: dict[str, object]
) -> None:
    run_id = f"bundled-{str(manifest['digest'])[:16]}"
    known = registry.find_run(model, run_id)
    champion = registry.champion(model)
    # Even if it is known: it may have been killed before its first version became champion.
    version = registry.register(model, files, {**manifest, "bundled": True}, run_id)
    if known is not None:
        return
    log.info("registered the bundled generator", model=model, version=version)
    if champion is not None and registry.manifest(model, champion).get("bundled"):
        registry.promote(model, version, "a newer bundled generator")
