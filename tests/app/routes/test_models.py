import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from training.model.registry import Registry

PATIENCE_SEC = 30.0
TOY = "/v1/models/toy"
CHAMPION = f"{TOY}/aliases/champion"


@pytest.fixture
def service(registry: Registry, make_version: Callable[..., int], start) -> Iterator[Any]:
    """A service with toy 1 (champion), 2 and 3, for tests that move aliases."""
    for weights in range(3):
        make_version(registry, weights=weights)
    with start() as service:
        yield service


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def served(service) -> str:
    return service.get(f"{TOY}/images/7.png").headers["X-Model-Version"]


# What there is


def test_models_are_listed_with_their_versions_and_what_serves(toy) -> None:
    plain, model = toy.get("/v1/models").json()["data"]
    assert (plain["model"], plain["class_names"]) == ("plain", [])
    assert model == toy.get(TOY).json()
    assert (model["model"], model["versions"], model["aliases"]) == (
        "toy",
        [1, 2, 3],
        {"champion": 1},
    )
    assert (model["serving"], model["class_names"]) == (1, ["1", "cat", "dog"])
    assert model["network"]["img_resolution"] == 8


def test_a_model_names_the_certificate_its_files_name(toy) -> None:
    certificate = toy.get(TOY).json()["certificate"]
    assert certificate["device"] == "cpu"
    assert certificate["buckets"][-1] == 64
    image = toy.get(f"{TOY}/images/7.png").content
    assert f'"certificate":"{certificate["id"]}"'.encode() in image


def test_a_version_tells_what_it_is_and_what_it_was_made_from(toy) -> None:
    version = toy.get(f"{TOY}/versions/2").json()
    manifest = toy.context.registry.manifest("toy", 2)
    assert (version["model"], version["version"]) == ("toy", 2)
    assert version["digest"] == manifest["digest"]
    assert version["lineage"] == {"dataset": "toys"}
    assert version["metrics"] == {"fd_cnn": 1.5}
    assert version["num_parameters"] == manifest["num_parameters"]
    versions = toy.get(f"{TOY}/versions").json()["data"]
    assert versions[1] == version
    assert [one["version"] for one in versions] == [1, 2, 3]


def test_the_digest_is_the_one_of_the_answers(toy) -> None:
    answer = toy.get(f"{TOY}@3/images/7.png")
    assert answer.headers["X-Model-Digest"] == toy.get(f"{TOY}/versions/3").json()["digest"]


@pytest.mark.parametrize(
    ("file", "content", "media_type"),
    [
        ("card", b"# A toy\n", "text/markdown; charset=utf-8"),
        ("samples.png", b"\x89PNG toy", "image/png"),
    ],
)
def test_the_files_of_a_version_can_be_had(toy, file: str, content: bytes, media_type: str) -> None:
    answer = toy.get(f"{TOY}/versions/1/{file}")
    assert (answer.content, answer.headers["content-type"]) == (content, media_type)


@pytest.mark.parametrize("file", ["card.json", "memorisation.png"])
def test_a_file_that_some_versions_lack_is_not_found_there(service, file: str) -> None:
    assert service.get(f"{TOY}/versions/1/{file}").json()["detail"] == f"toy@1 has no {file}."
    (service.context.registry.path("toy", 1) / file).write_bytes(b"{}")
    assert service.get(f"{TOY}/versions/1/{file}").content == b"{}"


def test_a_file_that_is_gone_is_not_found(service) -> None:
    (service.context.registry.path("toy", 2) / "card.md").unlink()
    answer = service.get(f"{TOY}/versions/2/card")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("rest", ["", "/card", "/samples.png"])
@pytest.mark.parametrize(
    ("place", "status", "told"),
    [
        ("cat/versions/1", 404, "Model 'cat' is not registered; registered: plain, toy."),
        ("toy/versions/9", 404, "Model version 9 of 'toy' is not registered; registered: 1, 2, 3."),
        ("toy/versions/0", 404, "version 0 of 'toy'"),
        ("toy/versions/-1", 404, "version -1 of 'toy'"),
        ("toy/versions/x", 422, "version: Input should be a valid integer"),
        ("%2e%2e/versions/1", 404, "is not registered"),
        ("..%5ctoy/versions/1", 404, "is not registered"),
        ("toy%00/versions/1", 404, "is not registered"),
    ],
)
def test_a_version_that_does_not_exist_has_no_page(
    toy, place: str, rest: str, status: int, told: str
) -> None:
    answer = toy.get(f"/v1/models/{place}{rest}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert told in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/models/cat", "/v1/models/cat/versions", "/v1/models/%2e%2e"])
def test_a_model_that_does_not_exist_is_not_found(toy, path: str) -> None:
    answer = toy.get(path)
    assert (answer.status_code, answer.json()["field"]) == (404, "model")


@pytest.mark.parametrize("file", ["manifest.json", "metrics.json"])
def test_a_damaged_file_is_named(service, file: str) -> None:
    (service.context.registry.path("toy", 2) / file).write_bytes(b"{")
    for path in (f"{TOY}/versions/2", f"{TOY}/versions"):
        answer = service.get(path)
        assert answer.status_code == 503
        assert f"toy/2/{file} cannot be read" in answer.json()["detail"]
    assert service.get(f"{TOY}/versions/3").status_code == 200
    assert served(service) == "1"


# Promotion and rollback


def test_a_promotion_is_served_from_the_answer_on(service) -> None:
    answer = service.request("PUT", CHAMPION, json={"version": 3})
    assert answer.status_code == 200
    assert answer.json()["aliases"] == {"champion": 3, "previous": 1}
    assert answer.json()["serving"] == 3
    assert served(service) == "3"


def test_a_rollback_is_served_from_the_answer_on(service) -> None:
    service.request("PUT", CHAMPION, json={"version": 3})
    assert service.post(f"{TOY}/rollback").json()["aliases"] == {"champion": 1, "previous": 3}
    assert served(service) == "1"
    assert service.post(f"{TOY}/rollback").json()["serving"] == 3


def test_there_is_no_rollback_before_a_promotion(service) -> None:
    answer = service.post(f"{TOY}/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "no previous version" in answer.json()["detail"]


def test_a_broken_version_is_not_promoted(service) -> None:
    flip(service.context.registry.path("toy", 2) / "generator.safetensors")
    answer = service.request("PUT", CHAMPION, json={"version": 2})
    assert answer.status_code == 503
    assert "SHA-256" in answer.json()["detail"]
    assert service.get(TOY).json()["aliases"] == {"champion": 1}
    assert served(service) == "1"


def test_a_rollback_to_a_broken_version_is_refused(registry, make_version, start) -> None:
    for weights in range(2):
        make_version(registry, weights=weights)
    registry.promote("toy", 2, "")
    flip(registry.path("toy", 1) / "generator.safetensors")
    with start() as service:
        answer = service.post(f"{TOY}/rollback")
        assert answer.status_code == 503
        assert "toy@1 cannot be served" in answer.json()["detail"]
        assert service.get(TOY).json()["aliases"] == {"champion": 2, "previous": 1}


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"version": 9}, 404, "Model version 9 of 'toy' is not registered; registered: 1, 2, 3."),
        ({"version": 0}, 422, "version: Input should be greater than or equal to 1, got 0"),
        ({"version": "2"}, 422, "version: Input should be a valid integer, got '2'"),
        ({"version": 2.0}, 422, "version"),
        ({"version": True}, 422, "version"),
        ({}, 422, "version: Field required, got nothing"),
        ({"version": 2, "force": True}, 422, "force: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_promoted_is_refused_by_name(
    toy, body: dict, status: int, told: str
) -> None:
    answer = toy.request("PUT", CHAMPION, json=body)
    assert answer.status_code == status
    assert told in answer.json()["detail"]
    assert toy.get(TOY).json()["serving"] == 1


@pytest.mark.parametrize("model", ["cat", "%2e%2e", "toy@1"])
def test_aliases_of_an_unknown_model_do_not_move(toy, model: str) -> None:
    promoted = toy.request("PUT", f"/v1/models/{model}/aliases/champion", json={"version": 1})
    rolled_back = toy.post(f"/v1/models/{model}/rollback")
    assert promoted.status_code == rolled_back.status_code == 404


# Deletion


def test_a_deleted_version_is_gone_and_its_number_stays_unused(service, make_version) -> None:
    pinned = f"{TOY}@3/images/7.png"
    assert service.get(pinned).status_code == 200
    assert service.request("DELETE", f"{TOY}/versions/3").status_code == 204
    assert service.get(pinned).status_code == 404
    assert service.get(TOY).json()["versions"] == [1, 2]
    assert service.request("DELETE", f"{TOY}/versions/3").status_code == 404
    assert make_version(service.context.registry, weights=9) == 4


def test_what_serves_or_is_next_in_line_is_not_deleted(service) -> None:
    service.request("PUT", CHAMPION, json={"version": 3})
    for version, told in ((3, "toy@3 serves now"), (1, "is its previous and stays")):
        answer = service.request("DELETE", f"{TOY}/versions/{version}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert told in answer.json()["detail"]
    assert service.get(TOY).json()["versions"] == [1, 2, 3]


def test_what_serves_for_a_broken_champion_is_not_deleted(registry, make_version, start) -> None:
    for weights in range(3):
        make_version(registry, weights=weights)
    for version in (2, 3):
        registry.promote("toy", version, "")
        flip(registry.path("toy", version) / "generator.safetensors")
    with start() as service:
        assert served(service) == "1"
        assert service.request("DELETE", f"{TOY}/versions/1").status_code == 409


@pytest.mark.parametrize("place", ["cat/versions/1", "toy/versions/9", "%2e%2e/versions/1"])
def test_what_does_not_exist_cannot_be_deleted(toy, place: str) -> None:
    assert toy.request("DELETE", f"/v1/models/{place}").status_code == 404


# While clients sample


def test_swaps_under_load_lose_no_request_and_mix_no_versions(service) -> None:
    pinned = {
        answer.headers["X-Model-Digest"]: answer.headers["X-Model-Version"]
        for answer in (service.get(f"{TOY}@{v}/images/0.png") for v in (1, 2))
    }
    alone = {
        (digest, seed): service.get(f"{TOY}@{version}/images/{seed}.png").content
        for digest, version in pinned.items()
        for seed in range(8)
    }
    done = threading.Event()
    moves: list[Any] = []

    def swap() -> None:
        for i in range(12):
            moves.append(service.request("PUT", CHAMPION, json={"version": 2 - i % 2}))
        done.set()

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: set[str] = set()
    while not done.is_set():
        asked = [("GET", f"{TOY}/images/{seed}.png", {}) for seed in range(8)]
        for seed, answer in enumerate(service.together(asked)):
            assert answer.status_code == 200
            digest = answer.headers["X-Model-Digest"]
            assert answer.headers["X-Model-Version"] == pinned[digest]
            assert answer.content == alone[digest, seed]
            seen.add(digest)
    swapping.join()
    assert seen == set(pinned)
    assert {answer.status_code for answer in moves} == {200}


def test_one_answer_of_many_images_is_of_one_version(service) -> None:
    with_many = {"seed": 0, "n": 300, "response": "json"}
    alone = {
        version: service.images(**{**with_many, "model": f"toy@{version}"}).json()["data"]
        for version in (1, 2)
    }
    done = threading.Event()

    def swap() -> None:
        for i in range(6):
            service.request("PUT", CHAMPION, json={"version": 2 - i % 2})
        done.set()

    swapping = threading.Thread(target=swap)
    swapping.start()
    while not done.is_set():
        answer = service.images(**with_many)
        body = answer.json()
        assert str(body["version"]) == answer.headers["X-Model-Version"]
        assert body["data"] == alone[body["version"]]
    swapping.join()


def test_an_alias_moved_by_another_process_is_followed(registry, make_version, start) -> None:
    for weights in range(2):
        make_version(registry, weights=weights)
    end = time.monotonic() + PATIENCE_SEC
    with start(poll_sec=0.01) as service:
        Registry(registry.root).promote("toy", 2, "by somebody else")
        while served(service) != "2":
            assert time.monotonic() < end
