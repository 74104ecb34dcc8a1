"""Walks between latents, as files."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from app.bundled import install_bundled
from training.model.sampling import classes_of, latents_of


def walk(service, model: str = "toy", **body: Any):
    return service.post("/v1/interpolations", json={"model": model, **body})


def frames(data: bytes) -> np.ndarray:
    """(n, H, W, C) of a moving image that keeps every pixel, C = 3 where it is WebP."""
    with Image.open(io.BytesIO(data)) as image:
        shown = [np.asarray(frame) for frame in ImageSequence.Iterator(image)]
    return np.stack(shown).reshape(len(shown), *shown[0].shape[:2], -1)


def cells(data: bytes, n: int, side: int) -> np.ndarray:
    """The first n cells of a grid, (n, side, side)."""
    with Image.open(io.BytesIO(data)) as image:
        picture = np.asarray(image)
    columns = picture.shape[1] // side
    places = [divmod(i, columns) for i in range(n)]
    return np.stack(
        [picture[y * side : (y + 1) * side, x * side : (x + 1) * side] for y, x in places]
    )


def images(service, **body: Any) -> np.ndarray:
    answer = service.images(response="npy", **body)
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


# What is shown


@pytest.mark.parametrize("space", ["slerp", "lerp"])
@pytest.mark.parametrize(("loop", "places"), [(False, [0, 5, 10]), (True, [0, 3, 7])])
@pytest.mark.parametrize(("model", "asked"), [("toy", {}), ("toy@2", {"truncation": 0.5})])
def test_a_frame_that_is_a_key_is_the_image_of_its_seed(
    toy, space: str, loop: bool, places: list[int], model: str, asked: dict[str, Any]
) -> None:
    body = {"seeds": [7, 2**53 - 1, 9], "format": "apng", **asked}
    answer = walk(toy, model, frames=11, space=space, loop=loop, **body)
    assert answer.status_code == 200, answer.text
    own = images(toy, model=model, seeds=body["seeds"], **asked)
    assert np.array_equal(frames(answer.content)[places], own)


def test_a_walk_of_the_bundled_digits_passes_through_its_seeds(registry, start) -> None:
    install_bundled(registry)
    with start() as service:
        answer = walk(service, "mnist", seeds=[3, 8], frames=60, format="grid")
        own = images(service, model="mnist", seeds=[3, 8])[..., 0]
    shown = cells(answer.content, 60, 28).astype(float)
    assert np.array_equal(shown[[0, 59]], own)
    steps = np.abs(np.diff(shown, axis=0)).mean(axis=(1, 2))
    # No frame jumps: the largest step is a small part of the way from the first to the last.
    assert steps.max() < 0.2 * np.abs(shown[0] - shown[-1]).mean() + 5


def test_frames_are_what_the_same_latents_and_classes_give(toy) -> None:
    z = latents_of([100, 101], 8).astype(np.float64)
    assert classes_of([100, 101], 3).tolist() == [0, 1]
    asked = {"latents": [z.mean(axis=0).tolist()], "class": {"1": 1, "cat": 1}}
    shown = frames(walk(toy, seeds=[100, 101], frames=3, space="lerp", format="apng").content)
    assert np.array_equal(shown[1:2], images(toy, **asked))


def test_latents_and_classes_may_be_given(toy) -> None:
    z = latents_of([5, 6], 8).tolist()
    asked: dict[str, Any] = {"latents": z, "classes": ["cat", {"1": 1, "dog": 2}]}
    shown = frames(walk(toy, frames=6, format="apng", **asked).content)
    assert np.array_equal(shown[[0, -1]], images(toy, **asked))
    whole = frames(walk(toy, latents=z, frames=6, format="apng", **{"class": 1}).content)
    assert np.array_equal(whole[[0, -1]], images(toy, latents=z, **{"class": 1}))


def test_a_model_without_classes_walks_in_colour(toy) -> None:
    answer = walk(toy, "plain", seeds=[1, 2], frames=4, format="apng")
    assert np.array_equal(frames(answer.content)[[0, -1]], images(toy, model="plain", seeds=[1, 2]))


# Formats


@pytest.mark.parametrize(
    ("format", "media_type"),
    [
        ("webp", "image/webp"),
        ("apng", "image/apng"),
        ("gif", "image/gif"),
        ("grid", "image/png"),
    ],
)
def test_every_format_shows_all_frames_and_is_the_same_twice(
    toy, format: str, media_type: str
) -> None:
    first, second = (
        walk(toy, seeds=[1, 2], frames=7, frame_ms=100, format=format) for _ in range(2)
    )
    assert first.status_code == 200, first.text
    assert first.content == second.content
    assert first.headers["content-type"] == media_type
    about = {name: first.headers[name] for name in ("X-Model", "X-Model-Version", "X-Seed")}
    assert about == {"X-Model": "toy", "X-Model-Version": "1", "X-Seed": "1"}
    with Image.open(io.BytesIO(first.content)) as image:
        if format == "grid":
            assert image.size == (24, 24)
        else:
            assert (image.size, image.n_frames) == ((8, 8), 7)
            image.seek(1)
            image.load()
            assert image.info["duration"] == 100


def test_webp_is_the_default_and_keeps_every_pixel(toy) -> None:
    answer = walk(toy, seeds=[1, 2], frames=5)
    assert answer.headers["content-type"] == "image/webp"
    kept = frames(answer.content)[..., :1]
    assert np.array_equal(kept, frames(walk(toy, seeds=[1, 2], frames=5, format="apng").content))


@pytest.mark.parametrize("format", ["apng", "grid"])
def test_a_file_says_how_to_make_it_again(toy, format: str) -> None:
    asked = {"seeds": [7, 100], "frames": 5, "loop": True, "truncation": 0.5, "format": format}
    answer = walk(toy, "toy@2", **asked, classes=["cat", {"1": 1, "dog": 3}])
    with Image.open(io.BytesIO(answer.content)) as image:
        said = json.loads(image.info["noisewell"])
    loaded = toy.context.engine.get("toy", 2)
    assert said == {
        "model": "toy",
        "version": 2,
        "digest": loaded.digest,
        "seeds": [7, 100],
        "classes": ["cat", {"1": 0.25, "dog": 0.75}],
        "frames": 5,
        "space": "slerp",
        "loop": True,
        "truncation": 0.5,
        "certificate": loaded.certificate_id,
    }
    names = {name: said[name] for name in ("seeds", "classes", "frames", "loop", "truncation")}
    assert walk(toy, "toy@2", **names, format=format).content == answer.content


def test_a_file_names_the_classes_that_its_seeds_stand_for(toy) -> None:
    seeds = [100, 101, 102, 103]
    answer = walk(toy, seeds=seeds, frames=9, format="grid", loop=True)
    with Image.open(io.BytesIO(answer.content)) as image:
        said = json.loads(image.info["noisewell"])
    assert said["classes"] == [("1", "cat", "dog")[c] for c in classes_of(seeds, 3)]


def test_a_walk_of_its_keys_alone_is_their_images(toy) -> None:
    shown = frames(walk(toy, seeds=[7, 8, 9], frames=3, format="apng").content)
    assert np.array_equal(shown, images(toy, seeds=[7, 8, 9]))


def test_latents_have_no_seed_to_name(toy) -> None:
    answer = walk(toy, latents=[[0.0] * 8, [1] * 8], frames=3)
    assert answer.status_code == 200
    assert "X-Seed" not in answer.headers


# Refused


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "give either seeds or latents"),
        ({"seeds": [1, 2], "latents": [[0.0] * 8] * 2}, "give either seeds or latents"),
        ({"seeds": [1]}, "seeds"),
        ({"seeds": [1, -1]}, "seeds.1"),
        ({"seeds": [1, "2"]}, "seeds.1"),
        ({"seeds": [1, 2**53]}, "seeds.1"),
        ({"latents": [[0.0] * 8, [0.0] * 7]}, "latents[1] has 7 numbers; toy@1 takes 8"),
        ({"latents": [[0.0] * 8, [1e7] * 8]}, "latents[1] holds a number beyond"),
        ({"seeds": [1, 2], "frames": 1}, "frames"),
        ({"seeds": [1, 2], "frames": 1025}, "frames"),
        ({"seeds": [1, 2, 3], "frames": 2}, "frames is 2, fewer than the 3 keys"),
        ({"seeds": [1, 2], "truncation": 0}, "truncation"),
        ({"seeds": [1, 2], "truncation": 1.01}, "truncation"),
        ({"seeds": [1, 2], "space": "cubic"}, "space"),
        ({"seeds": [1, 2], "format": "mp4"}, "format"),
        ({"seeds": [1, 2], "frame_ms": 19}, "frame_ms"),
        ({"seeds": [1, 2], "frame_ms": 10_001}, "frame_ms"),
        ({"seeds": [1, 2], "loop": 1}, "loop"),
        ({"seeds": [1, 2], "n": 2}, "n: Extra inputs are not permitted"),
        ({"seeds": [1, 2], "class": 0, "classes": [0, 1]}, "give either class or classes"),
        ({"seeds": [1, 2], "classes": [0, 1, 2]}, "there are 2 keys, but 3 classes"),
        ({"seeds": [1, 2], "class": "mouse"}, "class 'mouse' of toy@1 does not exist"),
        ({"seeds": [1, 2], "class": {"mouse": 1}}, "class 'mouse' of toy@1 does not exist"),
        ({"seeds": [1, 2], "class": {}}, "class"),
        ({"seeds": [1, 2], "class": {"cat": 0}}, "class"),
        ({"seeds": [1, 2], "class": {"cat": -1}}, "class"),
        ({"seeds": [1, 2], "class": {"cat": 1e7}}, "class"),
        ({"seeds": [1, 2], "class": {str(i): 1 for i in range(33)}}, "class"),
        ({"seeds": [1, 2], "model": "plain", "class": {"0": 1}}, "plain@1 has no classes"),
    ],
)
def test_what_cannot_be_walked_is_named(toy, body: dict[str, Any], told: str) -> None:
    answer = walk(toy, **body)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_latents_are_numbers(toy, number: str) -> None:
    row = ", ".join([number] * 8)
    body = f'{{"model": "toy", "latents": [[{row}], [{row}]]}}'
    headers = {"Content-Type": "application/json"}
    answer = toy.post("/v1/interpolations", content=body, headers=headers)
    assert answer.status_code == 422
    assert "latents.0.0" in answer.json()["detail"]


def test_a_model_that_is_not_there_is_named(toy) -> None:
    answer = walk(toy, "toys", seeds=[1, 2])
    assert answer.status_code == 404
    assert "'toys' is not registered" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("max_pixels_per_request", 11 * 64),
        ("max_images_per_request", 11),
        ("max_queue_size", 11),
    ],
)
def test_a_limit_that_frames_are_over_is_named_by_its_setting(
    registry, make_version, start, setting: str, limit: int
) -> None:
    make_version(registry)
    with start(**{setting: limit}) as service:
        assert walk(service, seeds=[1, 2], frames=11).status_code == 200
        answer = walk(service, seeds=[1, 2], frames=12)
    assert answer.status_code == 422
    assert answer.json()["field"] == "frames"
    assert f"{setting} allows {limit}" in answer.json()["detail"]
    assert "frames is 12, of 8×8 pixels: 768 in all" in answer.json()["detail"]
