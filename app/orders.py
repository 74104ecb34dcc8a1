"""Owns what a training job may ask for: a dataset, a preset, settings and a base that fit."""

from typing import Any

from app.context import Context
from app.errors import BadRequestError, NotFoundError
from app.schemas import NewTrainingJob
from app.store.datasets import StoredDataset
from app.store.jobs import NewJob, Scalar
from app.store.store import Store
from training.model.presets import PRESETS, fitting
from training.model.registry import Registry, UnknownModelError, UnknownVersionError
from training.model.settings import NETWORK, SETTINGS, ConfigError, parse_settings


def order(body: NewTrainingJob, ctx: Context) -> NewJob:
    """The job that is asked for, with all that was left open. Raises BadRequestError."""
    _check_minutes(body.minutes, ctx.settings.max_job_minutes)
    dataset = _ready_dataset(ctx.store, body.dataset)
    base = _base(body.base, dataset, ctx.registry)
    preset = body.preset or base.get("preset")
    return NewJob(
        model=body.model,
        dataset_id=dataset.id,
        dataset_name=dataset.name,
        preset=_fitting_preset(preset, dataset),
        minutes=body.minutes,
        kimg=body.kimg,
        until=body.until.model_dump() if body.until else None,
        overrides=_with_network(_taken(body.overrides), base),
        promote=body.promote,
        seed=body.seed,
        base=base.get("ref"),
    )


def _check_minutes(minutes: float | None, limit: float) -> None:
    if minutes is not None and minutes > limit:
        raise BadRequestError(
            f"minutes is {minutes:g}; max_job_minutes allows up to {limit:g}.", field="minutes"
        )


def _ready_dataset(store: Store, id_or_name: str) -> StoredDataset:
    try:
        dataset = store.get_dataset(id_or_name)
    except NotFoundError as error:
        raise BadRequestError(error.detail, field="dataset") from None
    if dataset.status != "ready":
        raise BadRequestError(
            f"Dataset {id_or_name!r} is {dataset.status}; a job needs one that is ready"
            f" (GET /v1/datasets/{dataset.id} tells).",
            field="dataset",
        )
    return dataset


def _fitting_preset(asked: str | None, dataset: StoredDataset) -> str:
    assert dataset.summary is not None
    resolution, channels = dataset.summary["resolution"], dataset.summary["channels"]
    if asked is not None and asked not in PRESETS:
        raise BadRequestError(
            f"Preset {asked!r} does not exist; there is {', '.join(PRESETS)}.", field="preset"
        )
    able = fitting(resolution, channels)
    if not able:
        raise BadRequestError(
            f"No preset makes images of {resolution} pixels and {channels} channels; import"
            " the dataset at another resolution.",
            field="dataset",
        )
    if asked is not None and asked not in able:
        misfit = PRESETS[asked].misfit(resolution, channels)
        raise BadRequestError(
            f"Preset {asked!r} {misfit} as dataset {dataset.name!r} has; use {able[0]!r}.",
            field="preset",
        )
    return asked or able[0]


def _taken(overrides: dict[str, Scalar]) -> dict[str, Scalar]:
    """Overrides that training takes, one by one; what contradicts what is the trainer's to say."""
    for name, value in overrides.items():
        try:
            parse_settings({name: value})
        except ConfigError as error:
            raise BadRequestError(f"override {error}", field=f"overrides.{name}") from None
    return overrides


# What a training starts from


def _base(asked: str | None, dataset: StoredDataset, registry: Registry) -> dict[str, Any]:
    """`ref`, `network` and, where it is known, `preset` of a version; {} if none is asked for."""
    if asked is None:
        return {}
    try:
        model, version = registry.resolve(asked)
        manifest = registry.manifest(model, version)
    except (UnknownModelError, UnknownVersionError) as error:
        raise BadRequestError(str(error), field="base") from None
    ref = f"{model}@{version}"
    _check_same_images(ref, manifest, dataset)
    preset = manifest.get("lineage", {}).get("preset")
    network = {name: manifest["network"][name] for name in NETWORK if name in manifest["network"]}
    return {"ref": ref, "network": network, "preset": preset if preset in PRESETS else None}


def _check_same_images(ref: str, manifest: dict[str, Any], dataset: StoredDataset) -> None:
    assert dataset.summary is not None
    network = manifest["network"]
    made = (network["img_resolution"], network["img_channels"], manifest["class_names"])
    had = tuple(dataset.summary.get(name) for name in ("resolution", "channels", "class_names"))
    for what, of_base, of_dataset in zip(
        ("resolution", "channels", "classes"), made, had, strict=True
    ):
        if of_base != of_dataset:
            raise BadRequestError(
                f"base {ref!r} has {what} {of_base}, dataset {dataset.name!r} {of_dataset}; bring a"
                " dataset of the same images and classes, or train without a base.",
                field="base",
            )


def _with_network(overrides: dict[str, Scalar], base: dict[str, Any]) -> dict[str, Scalar]:
    """The networks are the base's: its settings join the overrides, which may not differ."""
    for name, value in parse_settings(base.get("network", {})).items():
        asked = overrides.get(name)
        if asked is not None and SETTINGS[name].parse(asked) != value:
            raise BadRequestError(
                f"override {name} is {asked!r}, but base {base['ref']!r} has {value!r}; leave it"
                " out, since a training that goes on from a version has its networks.",
                field=f"overrides.{name}",
            )
        overrides = {**overrides, name: _scalar(value)}
    return overrides


def _scalar(value: Any) -> Scalar:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
