from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings


def test_making_the_app_opens_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    create_app(Settings.model_validate({"data_dir": data_dir}))
    assert not data_dir.exists()


def test_a_second_service_on_the_same_data_is_refused(start) -> None:
    with start() as service:
        with pytest.raises(BlockingIOError), start():
            pass
        assert service.get("/health/live").status_code == 200
    with start() as service:
        assert service.get("/health/live").status_code == 200


def test_the_api_describes_itself_and_names_each_operation_once(toy) -> None:
    described = toy.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert described["info"]["title"] == "Noisewell"
    methods = [method for path in described["paths"].values() for method in path.values()]
    names = Counter(method["operationId"] for method in methods)
    assert max(names.values()) == 1
    assert "/v1/models/{model}/images/{seed}.png" in described["paths"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/images"), ("PUT", "/v1/images"), ("POST", "/v1/models/toy/images/7.png")],
)
def test_a_wrong_method_is_told_the_right_one(toy, method: str, path: str) -> None:
    answer = toy.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["Allow"] in ("GET", "POST")


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/imagess", "/%ff%fe", "/a%0ab", "/\u2028"])
def test_a_path_that_leads_nowhere_is_named(toy, path: str) -> None:
    answer = toy.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["detail"].startswith("nothing is at '/")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_over_the_limit_is_refused_by_the_name_of_its_setting(toy, streamed: bool) -> None:
    async def chunks() -> Any:
        for _ in range(11):
            yield b" " * 100_000

    content = chunks() if streamed else b" " * 1_100_000
    answer = toy.post("/v1/images", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "over the 1000000 bytes allowed here; max_body_bytes" in answer.json()["detail"]
    assert toy.images(n=1).status_code == 200


def test_a_crash_of_a_route_is_a_problem_that_tells_no_secrets(
    registry, make_version, edit, start
) -> None:
    make_version(registry)
    with start() as service:
        edit(registry.path("toy", 1), "lineage")
        answer = service.get("/v1/models/toy/versions/1")
        assert service.get("/v1/models/toy/images/7.png").status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert "lineage" not in answer.text
