import base64
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from training.model.sampling import classes_of, latents_of

PATIENCE_SEC = 30.0
LAST = 2**53 - 1


def url(seed: int | str = 7, model: str = "toy", **query: Any) -> str:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return f"/v1/models/{model}/images/{seed}.png" + (f"?{asked}" if asked else "")


def pixels(data: bytes) -> np.ndarray:
    """(H, W, C) of an image file."""
    with Image.open(io.BytesIO(data)) as image:
        shown = np.asarray(image)
    return shown if shown.ndim == 3 else shown[:, :, None]


def about(data: bytes) -> dict[str, Any]:
    """What a PNG says of itself."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return json.loads(image.info["noisewell"])


def metric(service, name: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def wait_until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SEC
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.001)  # the queue of another thread tells nobody of what it holds


# The same seed, the same bytes


def test_a_seed_gives_the_same_bytes_twice(toy) -> None:
    first, second = toy.get(url(7)), toy.get(url(7))
    assert first.status_code == 200
    assert first.headers["content-type"] == "image/png"
    assert first.content == second.content


def test_a_seed_gives_the_same_bytes_after_a_restart(registry, make_version, start) -> None:
    make_version(registry)
    answers = []
    for _ in range(2):
        with start() as service:
            answers.append(service.get(url(7), headers={"X-Request-ID": "the-same"}))
    assert answers[0].content == answers[1].content
    assert answers[0].headers == answers[1].headers


def test_a_seed_gives_the_same_bytes_alone_and_in_a_batch_of_64_others(
    registry, make_version, start
) -> None:
    make_version(registry)
    answers: list[Any] = []
    with start(image_cache_bytes=0) as service:
        alone = service.get(url(7)).content
        before = metric(service, "noisewell_inference_count_total")
        with service.held():
            urls = [("GET", url(seed), {}) for seed in (*range(100, 120), 7, *range(120, 164))]
            asking = threading.Thread(target=lambda: answers.extend(service.together(urls)))
            asking.start()
            wait_until(lambda: service.context.batcher.queued_images == 65)
        asking.join()
        assert metric(service, "noisewell_inference_count_total") == before + 66
    assert answers[20].content == alone
    assert len({answer.content for answer in answers}) == 65


def test_a_seed_asked_for_again_is_not_drawn_again(toy) -> None:
    first = toy.get(url(4711))
    before = metric(toy, "noisewell_inference_count_total")
    again = toy.get(url(4711))
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    assert metric(toy, "noisewell_inference_count_total") == before


def test_64_clients_at_once_get_what_each_gets_alone(toy) -> None:
    alone = {seed: toy.get(url(seed)).content for seed in range(64)}
    for answer in toy.together([("GET", url(seed), {}) for seed in range(64)]):
        assert answer.content == alone[int(answer.headers["X-Seed"])]


def test_every_way_to_ask_for_an_image_gives_the_same_file(toy) -> None:
    file = toy.get(url(7, "toy@1")).content
    assert toy.get(url(7)).content == file
    assert toy.get(url(7, "toy@champion")).content == file
    assert toy.get(url("0007")).content == file
    assert toy.images(seed=7, response="image").content == file
    assert toy.images(seeds=[7], response="image").content == file
    listed = toy.images(seed=0, n=100).json()["data"]
    assert base64.b64decode(listed[7]["b64_json"]) == file


@pytest.mark.parametrize("pair", [(7, 7 + 2**32), (0, LAST), (2**31, 2**32)])
def test_all_seeds_count_to_their_last_bit(toy, pair: tuple[int, int]) -> None:
    first, second = (toy.get(url(seed)).content for seed in pair)
    assert not np.array_equal(pixels(first), pixels(second))


def test_what_is_drawn_is_the_latent_of_the_seed_times_psi(toy) -> None:
    sampler = toy.context.engine.get("toy", None).sampler
    z, c = latents_of([7], 8), classes_of([7], 3)
    expected = sampler(z * np.float32(0.5), c)[0]
    assert np.array_equal(pixels(toy.get(url(7, truncation=0.5)).content), expected)
    given = toy.images(latents=z.tolist(), truncation=0.5, response="npy", **{"class": int(c[0])})
    assert np.array_equal(np.load(io.BytesIO(given.content))[0], expected)


def test_versions_and_classes_and_seeds_give_other_images(toy) -> None:
    asked = [url(7), url(8), url(7, "toy@2"), url(7, truncation=0.5)]
    asked += [url(7, **{"class": c}) for c in ("1", "cat", "dog")]
    images = {toy.get(one).content for one in asked}
    assert len(images) == len(asked) - 1  # one of the classes is the seed's own
    assert len({pixels(data).tobytes() for data in images}) == len(images)


def test_a_file_says_how_to_make_it_again(toy) -> None:
    answer = toy.get(url(7, "toy@2", truncation=0.25, **{"class": "cat"}))
    loaded = toy.context.engine.get("toy", 2)
    assert about(answer.content) == {
        "model": "toy",
        "version": 2,
        "digest": loaded.digest,
        "seed": 7,
        "class": "cat",
        "truncation": 0.25,
        "certificate": loaded.certificate_id,
    }
    named = {name: answer.headers[name] for name in ("X-Model", "X-Model-Version", "X-Seed")}
    assert named == {"X-Model": "toy", "X-Model-Version": "2", "X-Seed": "7"}
    assert answer.headers["X-Model-Digest"] == loaded.digest


# Classes


def test_in_a_url_a_class_name_wins_over_an_index(toy) -> None:
    asked = {text: about(toy.get(url(7, **{"class": text})).content) for text in ("1", "2", "0")}
    assert {text: said["class"] for text, said in asked.items()} == {
        "1": "1",  # the name of class 0
        "2": "dog",
        "0": "1",
    }


@pytest.mark.parametrize(("asked", "name"), [(0, "1"), (1, "cat"), ("1", "1"), ("dog", "dog")])
def test_in_json_an_integer_is_an_index_and_a_string_a_name(
    toy, asked: int | str, name: str
) -> None:
    for body in ({"class": asked}, {"classes": [asked]}):
        assert toy.images(seed=7, **body).json()["data"][0]["class"] == name


def test_a_class_that_is_not_asked_for_is_drawn_from_the_seed(toy) -> None:
    data = toy.images(seed=100, n=50).json()["data"]
    names = np.array(["1", "cat", "dog"])
    assert [one["class"] for one in data] == names[classes_of(range(100, 150), 3)].tolist()
    assert {one["class"] for one in data} == {"1", "cat", "dog"}


def test_a_model_without_classes_makes_images_and_refuses_a_class(toy) -> None:
    assert about(toy.get(url(7, "plain")).content)["class"] is None
    for answer in (
        toy.get(url(7, "plain", **{"class": 0})),
        toy.images(model="plain", classes=[0]),
    ):
        assert answer.status_code == 422
        assert "plain@1 has no classes" in answer.json()["detail"]


def test_classes_may_have_any_name(registry, make_version, start) -> None:
    names = ("a b&c=d", "ünder/..%2f", "数 \U0001f408")
    make_version(registry, classes=names)
    with start() as service:
        for i, name in enumerate(names):
            answer = service.get(url(7, **{"class": i}))
            assert about(answer.content)["class"] == name
            asked = service.get("/v1/models/toy/images/7.png", params={"class": name})
            assert asked.content == answer.content
            assert service.get(asked.headers["Content-Location"]).content == answer.content


# Caches


def test_a_pinned_url_never_changes_what_it_answers(toy) -> None:
    answer = toy.get(url(7, "toy@2"))
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["ETag"].startswith('"')


def test_a_champions_url_is_asked_again_and_names_the_pinned_one(toy) -> None:
    for query in ({}, {"class": "cat"}, {"truncation": 0.3}, {"class": "1", "truncation": 0.3}):
        answer = toy.get(url(7, **query))
        assert answer.headers["Cache-Control"] == "no-cache"
        place = answer.headers["Content-Location"]
        assert urlsplit(place).path == "/v1/models/toy@1/images/7.png"
        pinned = toy.get(place)
        assert (pinned.content, pinned.headers["ETag"]) == (answer.content, answer.headers["ETag"])


def test_with_a_key_no_shared_cache_keeps_an_image(registry, make_version, start) -> None:
    make_version(registry)
    with start(api_key="secret") as service:
        answer = service.get(url(7, "toy@1"), headers={"X-API-Key": "secret"})
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize("model", ["toy", "toy@2"])
def test_who_has_the_image_gets_304_without_the_generator_working(toy, model: str) -> None:
    tag = toy.get(url(7, model)).headers["ETag"]
    before = metric(toy, "noisewell_inference_count_total")
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = toy.get(url(7, model), headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == tag
        assert answer.headers["X-Model"] == "toy"
    assert metric(toy, "noisewell_inference_count_total") == before
    assert toy.get(url(7, model), headers={"If-None-Match": '"other"'}).status_code == 200


def test_every_image_has_a_tag_of_its_own(toy) -> None:
    asked = [url(7), url(8), url(7, "toy@2"), url(7, "plain"), url(7, truncation=0.5)]
    asked += [url(7, **{"class": c}) for c in ("1", "cat", "dog")]
    assert len({toy.get(one).headers["ETag"] for one in asked}) == len(asked)
    assert toy.get(url(7, **{"class": 2})).headers["ETag"] == toy.get(asked[-1]).headers["ETag"]


# Many at once


def array(answer) -> np.ndarray:
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


@pytest.mark.parametrize(("model", "channels"), [("toy", 1), ("plain", 3)])
@pytest.mark.parametrize("n", [1, 5, 100])
def test_all_kinds_of_answer_hold_the_same_pixels(toy, model: str, channels: int, n: int) -> None:
    asked = {"model": model, "seed": 7, "n": n, "truncation": 0.9}
    images = array(toy.images(**asked, response="npy"))
    assert (images.shape, images.dtype) == ((n, 8, 8, channels), np.uint8)

    listed = toy.images(**asked, response="json").json()["data"]
    assert [one["seed"] for one in listed] == list(range(7, 7 + n))
    assert np.array_equal([pixels(base64.b64decode(one["b64_json"])) for one in listed], images)

    lines = toy.images(**asked, response="ndjson").content.splitlines()
    assert [json.loads(line) for line in lines] == listed

    with zipfile.ZipFile(io.BytesIO(toy.images(**asked, response="zip").content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{i:06d}-seed-{7 + i}.png" for i in range(n)]
        assert np.array_equal([pixels(archive.read(name)) for name in archive.namelist()], images)

    grid = pixels(toy.images(**asked, response="grid").content)
    columns = int(np.ceil(np.sqrt(n)))
    for i in range(n):
        y, x = 8 * (i // columns), 8 * (i % columns)
        assert np.array_equal(grid[y : y + 8, x : x + 8], images[i])

    single = toy.images(**{**asked, "n": 1}, response="image").content
    assert np.array_equal(pixels(single), images[0])
    assert np.array_equal(pixels(toy.get(url(7, model, truncation=0.9)).content), images[0])


@pytest.mark.parametrize("response", ["image", "grid", "zip", "json", "ndjson", "npy"])
def test_the_same_request_gives_the_same_bytes(toy, response: str) -> None:
    n = 1 if response == "image" else 3
    first, second = (toy.images(seed=7, n=n, response=response) for _ in range(2))
    assert first.content == second.content
    assert first.headers["X-Seed"] == "7"
    assert first.headers["X-Model-Digest"] == toy.context.engine.get("toy", None).digest


@pytest.mark.parametrize(
    ("response", "media_type"),
    [
        ("image", None),
        ("grid", None),
        ("zip", "application/zip"),
        ("json", "application/json"),
        ("ndjson", "application/x-ndjson"),
        ("npy", "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_every_answer_comes_in_every_format(
    toy, response: str, format: str, media_type: str | None
) -> None:
    answer = toy.images(seed=7, response=response, format=format)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == (media_type or f"image/{format}")
    data = {
        "image": lambda: answer.content,
        "grid": lambda: answer.content,
        "zip": lambda: unzipped(answer.content, f"000000-seed-7.{format}"),
        "json": lambda: base64.b64decode(answer.json()["data"][0]["b64_json"]),
        "ndjson": lambda: base64.b64decode(answer.json()["b64_json"]),
        "npy": lambda: b"",
    }[response]()
    if data:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == (format.upper(), (8, 8))


def unzipped(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)


def test_seeds_and_classes_are_taken_one_by_one(toy) -> None:
    seeds, classes = [5, LAST, 5, 0], ["dog", 0, 1, "dog"]
    data = toy.images(seeds=seeds, classes=classes).json()["data"]
    assert [one["seed"] for one in data] == seeds
    assert [one["class"] for one in data] == ["dog", "1", "cat", "dog"]
    for one in data:
        alone = toy.get(url(one["seed"], **{"class": one["class"]})).content
        assert base64.b64decode(one["b64_json"]) == alone


def test_without_a_seed_images_are_new_and_can_be_had_again(toy) -> None:
    first, second = toy.images(n=3), toy.images(n=3)
    assert first.headers["X-Seed"] != second.headers["X-Seed"]
    again = toy.images(n=3, seed=int(first.headers["X-Seed"]))
    assert again.json() == first.json()


def test_latents_have_no_seed(toy) -> None:
    answer = toy.images(latents=[[0.0] * 8, [1] * 8])
    assert "X-Seed" not in answer.headers
    assert [one["seed"] for one in answer.json()["data"]] == [None, None]
    assert about(base64.b64decode(answer.json()["data"][0]["b64_json"]))["seed"] is None


def test_a_grid_says_which_seeds_it_shows(toy) -> None:
    said = about(toy.images(seed=7, n=3, response="grid").content)
    assert (said["model"], said["version"], said["seeds"]) == ("toy", 1, [7, 8, 9])


def test_the_largest_request_is_answered_whole(toy) -> None:
    images = array(toy.images(seed=LAST - 1023, n=1024, response="npy"))
    assert images.shape == (1024, 8, 8, 1)
    assert np.array_equal(images[-1], pixels(toy.get(url(LAST)).content))


# Bad input


def refused(answer, status: int = 422) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, f"/docs#error-{body['code']}")
    assert "X-Model" not in answer.headers
    return body


@pytest.mark.parametrize(
    ("text", "field", "told"),
    [
        ('"n": 0', "n", "greater than or equal to 1, got 0"),
        ('"n": -1', "n", "greater than or equal to 1, got -1"),
        ('"n": 1000000000', "n", "less than or equal to 1000000, got 1000000000"),
        ('"n": 1e9', "n", "valid integer, got 1000000000.0"),
        ('"n": NaN', "n", "valid integer, got nan"),
        ('"n": "3"', "n", "valid integer, got '3'"),
        ('"n": 1.5', "n", "valid integer, got 1.5"),
        ('"n": true', "n", "valid integer, got True"),
        ('"seed": -1', "seed", "greater than or equal to 0"),
        ('"seed": 9007199254740992', "seed", "less than or equal to 9007199254740991"),
        ('"seed": "7"', "seed", "valid integer, got '7'"),
        ('"seeds": []', "seeds", "at least 1"),
        ('"seeds": [1, null]', "seeds.1", "valid integer, got None"),
        ('"seeds": 7', "seeds", "valid list, got 7"),
        ('"truncation": 0', "truncation", "greater than 0, got 0"),
        ('"truncation": 1.01', "truncation", "less than or equal to 1, got 1.01"),
        ('"truncation": NaN', "truncation", "finite number, got nan"),
        ('"truncation": 1e400', "truncation", "finite number, got inf"),
        ('"truncation": "1"', "truncation", "valid number, got '1'"),
        ('"format": "bmp"', "format", "'png', 'webp' or 'jpeg', got 'bmp'"),
        ('"response": "tar"', "response", "'zip', 'json', 'ndjson' or 'npy', got 'tar'"),
        ('"latents": [[NaN, 0, 0, 0, 0, 0, 0, 0]]', "latents.0.0", "finite number, got nan"),
        ('"latents": [["1", 0, 0, 0, 0, 0, 0, 0]]', "latents.0.0", "valid number, got '1'"),
        ('"surprise": 1', "surprise", "not permitted, got 1"),
        ('"Seed": 1', "Seed", "not permitted, got 1"),
        ('"\\ud800": 1', "body", "got '\\ud800'"),
        ('"model": "\\ud800"', "model", "got '\\ud800'"),
        ('"model": 7', "model", "valid string, got 7"),
        ('"model": null', "model", "valid string, got None"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(
    toy, text: str, field: str, told: str
) -> None:
    asked = "{" + ("" if '"model"' in text else '"model": "toy", ') + text + "}"
    answer = toy.post("/v1/images", content=asked, headers={"Content-Type": "application/json"})
    body = refused(answer)
    assert body["errors"][0]["field"] == field
    assert body["detail"].startswith(f"{field}: ")
    assert told in body["detail"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"n": 3, "seeds": [1]}, "n is 3, but seeds lists 1"),
        ({"n": 3, "classes": [1]}, "n is 3, but classes lists 1"),
        ({"seeds": [1, 2], "classes": [1]}, "n is 2, but classes lists 1"),
        ({"seed": 1, "seeds": [1]}, "one of seed, seeds and latents"),
        ({"seed": 1, "latents": [[0] * 8]}, "one of seed, seeds and latents"),
        ({"class": 1, "classes": [1]}, "either class or classes"),
        ({"seed": LAST, "n": 2}, "above 9007199254740991"),
        ({"n": 2, "response": "image"}, "'image' is one image, n is 2"),
    ],
)
def test_values_that_contradict_each_other_are_refused(toy, body: dict, told: str) -> None:
    assert told in refused(toy.images(**body))["detail"]


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"class": 3}, "class", "class 3 of toy@1 does not exist; expected an index from 0 to 2"),
        ({"class": "2"}, "class", "class '2' of toy@1 does not exist; expected an index"),
        ({"class": ""}, "class", "one of '1', 'cat', 'dog'"),
        ({"class": 10**30}, "class", "does not exist"),
        ({"classes": ["cat", "bird"], "n": 2}, "classes", "class 'bird'"),
        ({"model": "toy@x"}, "model", "version 'x' of 'toy'; expected a number or 'champion'"),
        ({"model": "toy@"}, "model", "version '' of 'toy'"),
        ({"model": "toy@-1"}, "model", "version '-1'"),
        ({"model": "toy@²"}, "model", "version '²'"),
        ({"model": "toy@1@1"}, "model", "version '1@1'"),
        ({"latents": [[0] * 7]}, "latents", "latents[0] has 7 numbers; toy@1 takes 8"),
        ({"latents": [[0] * 8, []]}, "latents", "latents[1] has 0 numbers"),
        ({"latents": [[1e7] * 8]}, "latents", "beyond ±1e6"),
    ],
)
def test_what_a_version_cannot_make_is_refused_by_name(
    toy, body: dict, field: str, told: str
) -> None:
    problem = refused(toy.images(**body))
    assert problem["field"] == field
    assert told in problem["detail"]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("cat", "Model 'cat' is not registered; registered: plain, toy."),
        ("toy@9", "Model version 9 of 'toy' is not registered; registered: 1, 2, 3."),
        ("toy@0", "version 0 of 'toy' is not registered"),
        ("toy@999999999", "registered: 1, 2, 3"),
        ("", "Model '' is not registered"),
        ("../toy", "Model '../toy' is not registered"),
        ("TOY", "Model 'TOY' is not registered"),
    ],
)
def test_what_is_not_registered_is_not_found(toy, model: str, told: str) -> None:
    problem = refused(toy.images(model=model), 404)
    assert problem["field"] == "model"
    assert told in problem["detail"]


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        (url(2**53), 422, "seed is 9007199254740992; expected 0 to 9007199254740991"),
        (url("1" * 17), 422, "seed"),
        (url("-1"), 422, "seed"),
        (url("seven"), 422, "seed"),
        (url("7%0a"), 422, "seed"),
        (url("%D9%A3"), 422, "seed"),  # an Arabic three is a digit to some
        (url(7, truncation="0"), 422, "truncation: Input should be greater than 0, got '0'"),
        (url(7, truncation="nan"), 422, "truncation"),
        (url(7, truncation="inf"), 422, "truncation"),
        (url(7, truncation="1e-400"), 422, "truncation"),
        (url(7, truncation="x"), 422, "truncation: Input should be a valid number"),
        (url(7, **{"class": "bird"}), 422, "class 'bird' of toy@1"),
        (url(7, **{"class": "3"}), 422, "class 3 of toy@1"),
        (url(7, **{"class": "9" * 30}), 422, "does not exist"),
        (url(7, **{"class": "x" * 300}), 422, "class"),
        (url(7, **{"class": "%FF%00"}), 422, "class"),
        (url(7, **{"class": "%ED%A0%80"}), 422, "class"),  # a lone surrogate
        (url(7, "cat"), 404, "Model 'cat' is not registered"),
        (url(7, "toy@9"), 404, "version 9 of 'toy'"),
        (url(7, "toy@x"), 422, "version 'x'"),
        (url(7, "x" * 97), 422, "model"),
        (url(7, "..%2f..%2fetc"), 404, "nothing is at"),
        (url(7, "%00"), 404, "is not registered"),
    ],
)
def test_a_url_of_no_image_says_why(toy, path: str, status: int, told: str) -> None:
    assert told in refused(toy.get(path), status)["detail"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 10**5])
def test_a_body_that_is_no_json_object_is_refused(toy, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = toy.post("/v1/images", content=content, headers=headers)
    refused(answer, answer.status_code)
    assert answer.status_code in (400, 422)


def test_a_refused_request_leaves_nothing_in_the_queue(toy) -> None:
    before = metric(toy, "noisewell_inference_count_total")
    for body in ({"n": 0}, {"class": "bird"}, {"latents": [[0] * 7]}, {"model": "cat"}):
        assert toy.images(**body).status_code in (404, 422)
    assert metric(toy, "noisewell_inference_count_total") == before
    assert toy.context.batcher.queued_images == 0


# Limits


@pytest.mark.parametrize(
    ("setting", "limit", "told"),
    [
        ("max_images_per_request", 4, "n is 5; max_images_per_request allows 4"),
        ("max_pixels_per_request", 4 * 64, "5 images of 8×8 are 320 pixels; max_pixels"),
        ("max_queue_size", 4, "n is 5; max_queue_size allows 4"),
    ],
)
def test_more_than_a_limit_allows_is_refused_by_the_name_of_its_setting(
    registry, make_version, start, setting: str, limit: int, told: str
) -> None:
    make_version(registry)
    with start(**{setting: limit}) as service:
        problem = refused(service.images(n=5))
        assert (problem["field"], told in problem["detail"]) == ("n", True)
        assert service.images(n=4).status_code == 200


def test_a_full_queue_answers_503_at_once_and_says_when_to_come_back(
    registry, make_version, start
) -> None:
    make_version(registry)
    with start(max_queue_size=4) as service:
        with service.held():
            asking = threading.Thread(target=lambda: service.images(n=4))
            asking.start()
            wait_until(lambda: service.context.batcher.queued_images == 4)
            answer = service.get(url(7))
            assert refused(answer, 503)["code"] == "queue_full"
            assert int(answer.headers["Retry-After"]) >= 1
            assert service.get("/health/live").status_code == 200
            asking_again = refused(service.images(n=4), 503)
            assert "max_queue_size is 4" in asking_again["detail"]
        asking.join()
        assert service.get(url(7)).status_code == 200


def test_who_waited_too_long_gets_503(registry, make_version, start, monkeypatch) -> None:
    make_version(registry)
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr("app.batcher.time", clock)
    with start(max_queue_wait_ms=2000) as service:
        answers: list[Any] = []
        with service.held():
            asking = threading.Thread(target=lambda: answers.append(service.get(url(7))))
            asking.start()
            wait_until(lambda: service.context.batcher.queued_images == 1)
            clock.monotonic = lambda: 2.5
        asking.join()
        assert "max_queue_wait_ms" in refused(answers[0], 503)["detail"]
        assert "Retry-After" in answers[0].headers


def test_a_client_that_hangs_up_frees_its_place(registry, make_version, start) -> None:
    make_version(registry)
    with start(max_queue_size=8) as service:
        before = metric(service, "noisewell_inference_count_total")
        with service.held():
            status = service.portal.call(ask_and_hang_up, service.app)
            assert status == 499
            wait_until(lambda: service.context.batcher.queued_images == 0)
        assert len(array(service.images(n=8, response="npy"))) == 8
        assert metric(service, "noisewell_inference_count_total") == before + 9
        assert service.context.batcher.queued_images == 0


async def ask_and_hang_up(app) -> int:
    """The status that a POST for 8 images ends with, whose client left once it was sent."""
    body = json.dumps({"model": "toy", "n": 8}).encode()
    arriving = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return arriving.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images",
        "raw_path": b"/v1/images",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("localhost", 80),
    }
    await app(scope, receive, send)
    return sent[0]["status"]


# Latents out and in


@pytest.mark.parametrize("truncation", [1.0, 0.5])
def test_latents_that_were_given_out_make_the_same_pixels_again(toy, truncation: float) -> None:
    asked = {"model": "toy", "n": 3, "seed": 5, "class": "cat", "truncation": truncation}
    first = toy.post("/v1/images", json={**asked, "include_latents": True}).json()["data"]
    again = {"model": "toy", "class": "cat", "truncation": truncation, "response": "npy"}
    again["latents"] = [image["latent"] for image in first]
    pixels = toy.post("/v1/images", json={**asked, "response": "npy"}).content
    assert toy.post("/v1/images", json=again).content == pixels


def test_latents_are_not_told_unless_asked_for(toy) -> None:
    answer = toy.post("/v1/images", json={"model": "toy", "seed": 5}).json()
    assert set(answer["data"][0]) == {"seed", "class", "b64_json"}


def test_latents_do_not_fit_into_a_picture(toy) -> None:
    body = {"model": "toy", "seed": 5, "response": "zip", "include_latents": True}
    told = refused(toy.post("/v1/images", json=body), 422)["detail"]
    assert "'json' or 'ndjson', not 'zip'" in told
