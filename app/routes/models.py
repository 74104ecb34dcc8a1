"""Owns the routes of models: what there is, how good it is, and which version serves."""

from typing import Any

from fastapi import APIRouter, Response

from app.context import Context, Ctx
from app.errors import ConflictError, NotFoundError
from app.schemas import Model, Models, Promotion, Refused, Version
from training.model.registry import (
    AliasedError,
    DamagedError,
    UnknownModelError,
    UnknownVersionError,
)

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(ctx: Ctx) -> Models:
    """Every model with its versions and aliases."""
    return Models(data=[_model(ctx, name) for name in ctx.registry.list_models()])


@router.get("/{model}")
def get_model(model: str, ctx: Ctx) -> Model:
    """One model, with the certificate under which its bytes are the same."""
    return _model(ctx, model)


@router.get("/{model}/versions")
def list_versions(model: str, ctx: Ctx) -> dict[str, list[Version]]:
    """Every version, oldest first."""
    return {"data": [_version(ctx, model, v) for v in _versions(ctx, model)]}


@router.get("/{model}/versions/{version}")
def get_version(model: str, version: int, ctx: Ctx) -> Version:
    """Config, digest, metrics with their floors, and lineage of a version."""
    return _version(ctx, model, version)


@router.get(
    "/{model}/versions/{version}/card",
    response_class=Response,
    responses={200: {"content": {"text/markdown": {}}}},
)
def get_version_card(model: str, version: int, ctx: Ctx) -> Response:
    """The model card, in Markdown."""
    return _extra(ctx, model, version, "card.md", "text/markdown")


@router.get(
    "/{model}/versions/{version}/card.json",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}},
)
def get_version_card_data(model: str, version: int, ctx: Ctx) -> Response:
    """What the model card tells, for programs."""
    return _extra(ctx, model, version, "card.json", "application/json")


@router.get(
    "/{model}/versions/{version}/memorisation.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def get_version_memorisation(model: str, version: int, ctx: Ctx) -> Response:
    """The samples that are closest to training images, each beside the one it is closest to."""
    return _extra(ctx, model, version, "memorisation.png", "image/png")


@router.get(
    "/{model}/versions/{version}/samples.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def get_version_samples(model: str, version: int, ctx: Ctx) -> Response:
    """The grid of fixed seeds made when the version was registered."""
    return _extra(ctx, model, version, "samples.png", "image/png")


@router.put("/{model}/aliases/champion")
def promote(model: str, body: Promotion, ctx: Ctx) -> Model:
    """Serve this version by default from now on. It is loaded first; a broken one is refused."""
    _version(ctx, model, body.version)
    ctx.engine.get(model, body.version)
    ctx.registry.promote(model, body.version, "promoted over HTTP")
    ctx.engine.refresh()
    return _model(ctx, model)


@router.post("/{model}/rollback")
def rollback(model: str, ctx: Ctx) -> Model:
    """Serve the version that was champion before. It is loaded first; a broken one is refused."""
    _versions(ctx, model)
    try:
        previous = ctx.registry.aliases(model).get("previous")
        if previous is not None:
            ctx.engine.get(model, previous)
        ctx.registry.rollback(model)
    except UnknownVersionError as error:
        raise ConflictError(str(error)) from error
    ctx.engine.refresh()
    return _model(ctx, model)


@router.delete("/{model}/versions/{version}", status_code=204)
def delete_version(model: str, version: int, ctx: Ctx) -> None:
    """Remove a version for good, unless it serves or an alias names it."""
    _file(ctx, model, version, "")
    if ctx.engine.serving().get(model) == version:
        raise ConflictError(f"{model}@{version} serves now; promote another version first.")
    try:
        ctx.registry.delete(model, version)
    except AliasedError as error:
        raise ConflictError(str(error)) from error
    except UnknownVersionError as error:  # somebody else was faster
        raise NotFoundError(str(error), field="version") from error
    ctx.engine.refresh()


def _versions(ctx: Context, model: str) -> list[int]:
    try:
        return ctx.registry.versions(model)
    except UnknownModelError as error:
        raise NotFoundError(str(error), field="model") from error


def _model(ctx: Context, name: str) -> Model:
    serving, refused = ctx.engine.serving().get(name), ctx.engine.refused().get(name)
    manifest = _served_manifest(ctx, name, serving)
    return Model(
        model=name,
        versions=_versions(ctx, name),
        aliases=_aliases(ctx, name),
        serving=serving,
        refused=Refused(**vars(refused)) if refused else None,
        class_names=manifest.get("class_names", []),
        network=manifest.get("network", {}),
        certificate=_certificate(ctx, name, serving),
    )


def _aliases(ctx: Context, model: str) -> dict[str, int]:
    """None where aliases.json is damaged: `refused` says so, and other models are shown too."""
    try:
        return ctx.registry.aliases(model)
    except DamagedError:
        return {}


def _served_manifest(ctx: Context, model: str, serving: int | None) -> dict[str, Any]:
    """From memory where it is there: the file may have been damaged since."""
    loaded = None if serving is None else ctx.engine.in_memory(model, serving)
    if loaded is not None or serving not in _versions(ctx, model):
        return loaded.manifest if loaded else {}
    return ctx.registry.manifest(model, serving)


def _certificate(ctx: Context, model: str, version: int | None) -> dict[str, Any] | None:
    for loaded in ctx.engine.loaded():
        if (loaded.model, loaded.version) == (model, version):
            return {"id": loaded.certificate_id, **vars(loaded.certificate)}
    return None


def _version(ctx: Context, model: str, version: int) -> Version:
    _file(ctx, model, version, "manifest.json")
    manifest = ctx.registry.manifest(model, version)
    return Version(
        model=model,
        version=version,
        digest=manifest["digest"],
        created_at=manifest["created_at"],
        class_names=manifest["class_names"],
        network=manifest["network"],
        num_parameters=manifest["num_parameters"],
        lineage=manifest["lineage"],
        metrics=ctx.registry.metrics(model, version),
    )


def _extra(ctx: Context, model: str, version: int, name: str, media_type: str) -> Response:
    """A file beside the weights, which some versions lack."""
    try:
        data = _file(ctx, model, version, name).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"{model}@{version} has no {name}.", field="version") from None
    return Response(data, media_type=media_type)


def _file(ctx: Context, model: str, version: int, name: str) -> Any:
    _versions(ctx, model)
    try:
        return ctx.registry.path(model, version) / name
    except UnknownVersionError as error:
        raise NotFoundError(str(error), field="version") from error
