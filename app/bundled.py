"""Owns the generators in the box: registers them in a data directory that lacks them."""

import json
from importlib import resources

import structlog

from training.model.registry import FILES, Registry

log = structlog.get_logger(__name__)


def install_bundled(registry: Registry) -> None:
    """Register every bundled generator under its name, unless it was before.

    A newer one takes the next free version, and becomes champion only in place of a bundled one:
    what somebody trained or promoted stays.
    """
    for folder in resources.files("training.model").joinpath("bundled").iterdir():
        if folder.is_dir() and folder.joinpath("manifest.json").is_file():
            model = folder.name
            manifest = json.loads(folder.joinpath("manifest.json").read_bytes())
            files = {name: folder.joinpath(name).read_bytes() for name in FILES}
            _install(registry, model, files, manifest)


def _install(
    registry: Registry, model: str, files: dict[str, bytes], manifest: dict[str, object]
) -> None:
    run_id = f"bundled-{str(manifest['digest'])[:16]}"
    if registry.find_run(model, run_id) is not None:
        return
    champion = registry.champion(model) if model in registry.list_models() else None
    version = registry.register(model, files, {**manifest, "bundled": True}, run_id)
    log.info("registered the bundled generator", model=model, version=version)
    if champion is not None and registry.manifest(model, champion).get("bundled"):
        registry.promote(model, version, "a newer bundled generator")
