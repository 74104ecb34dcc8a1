"""Images of several classes at once, by weight."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

HALVES = {"1": 1, "dog": 1}


def array(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def about(data: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(data)) as image:
        return json.loads(image.info["noisewell"])


@pytest.mark.parametrize("mix", [{"cat": 1}, {"cat": 0.001}, {"cat": 1e6, "dog": 5e-324}])
def test_a_mix_of_one_class_is_its_image(toy, mix: dict[str, float]) -> None:
    asked = {"seed": 7, "n": 64, "response": "npy"}
    whole = array(toy.images(**asked, **{"class": "cat"}))
    assert np.array_equal(array(toy.images(**asked, **{"class": mix})), whole)


def test_a_mix_is_between_its_classes(toy) -> None:
    def image(ref: Any) -> np.ndarray:
        answer = toy.images(seed=7, response="npy", **{"class": ref})
        return array(answer).astype(float)

    ends = [image("1"), image("dog")]
    apart = np.abs(ends[0] - ends[1]).mean()
    assert apart > 0
    for mix, share in ((HALVES, 0.5), ({"1": 3, "dog": 1}, 0.25)):
        mixed = image(mix)
        assert all(0 < np.abs(mixed - end).mean() < apart for end in ends)
        straight = (1 - share) * ends[0] + share * ends[1]
        assert np.abs(mixed - straight).mean() < apart / 2


@pytest.mark.parametrize("n", [1, 2, 64, 100])
def test_a_mix_gives_the_same_bytes_in_any_company(toy, n: int) -> None:
    alone = array(toy.images(seed=7, response="npy", **{"class": HALVES}))[0]
    first = array(toy.images(seed=7, n=n, response="npy", **{"class": HALVES}))[0]
    refs = [HALVES, *["cat", 2, {"dog": 1, "cat": 2}] * 33][:n]
    listed = array(toy.images(seed=7, n=n, response="npy", classes=refs))[0]
    assert np.array_equal(first, alone)
    assert np.array_equal(listed, alone)


def test_answers_and_files_name_the_share_of_each_class(toy) -> None:
    refs = [{"1": 1, "2": 3}, "cat", {"cat": 5}]
    data = toy.images(seed=7, classes=refs).json()["data"]
    names = [{"1": 0.25, "dog": 0.75}, "cat", "cat"]
    assert [one["class"] for one in data] == names
    assert [about(base64.b64decode(one["b64_json"]))["class"] for one in data] == names


def test_a_class_of_a_list_with_mixes_is_the_file_it_is_alone(toy) -> None:
    data = toy.images(seeds=[7, 8], classes=["dog", HALVES]).json()["data"]
    alone = toy.get("/v1/models/toy/images/7.png?class=dog").content
    assert base64.b64decode(data[0]["b64_json"]) == alone


def test_what_a_file_says_of_its_mix_gives_it_again(toy) -> None:
    mix = {"1": 0.1, "cat": 0.7, "dog": 1.9}
    file = toy.images(seed=7, response="image", **{"class": mix}).content
    again = toy.images(seed=7, response="image", **{"class": about(file)["class"]})
    assert again.content == file


@pytest.mark.parametrize("body", [{"class": {"mouse": 1}}, {"classes": [{"cat": 1, "3": 1}]}])
def test_a_mix_of_what_does_not_exist_is_refused(toy, body: dict[str, Any]) -> None:
    answer = toy.images(seed=7, **body)
    assert answer.status_code == 422
    assert "does not exist" in answer.json()["detail"]
