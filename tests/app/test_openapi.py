from collections.abc import Iterator
from typing import Any

import pytest

from app.main import create_app
from app.problems import MEDIA_TYPE
from app.schemas import Problem


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_refusal_that_is_declared_is_a_problem_document(document) -> None:
    for door, operation in operations(document):
        refusals = {s: told for s, told in operation["responses"].items() if s >= "4"}
        assert {"4XX", "503"} <= refusals.keys(), door
        for told in refusals.values():
            schema = told["content"][MEDIA_TYPE]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, door
    assert "HTTPValidationError" not in str(document)


def test_what_a_route_reads_decides_how_it_may_refuse(document) -> None:
    told = {door: set(operation["responses"]) for door, operation in operations(document)}
    assert told["GET /health/live"] == {"200", "4XX", "503"}
    assert {"404", "422"} <= told["GET /v1/models/{model}/versions/{version}"]
    assert {"401", "403", "409", "413", "421", "422", "507"} <= told["POST /v1/training/jobs"]
    assert {"404", "413", "422", "429"} <= told["POST /v1/images"]
    assert not {"409", "507"} & told["POST /v1/images"]


def test_a_problem_is_as_the_document_says(toy) -> None:
    for answer in (toy.get("/v1/models/none"), toy.post("/v1/images", json={"n": 0})):
        assert answer.headers["content-type"] == MEDIA_TYPE
        body = answer.json()
        assert body.keys() <= Problem.model_fields.keys()
        assert Problem.model_validate(body).status == answer.status_code


def test_no_parameter_can_be_null(document) -> None:
    for door, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert "null" not in str(parameter["schema"]), door


def test_a_method_that_is_not_answered_is_told_all_that_are(toy) -> None:
    for path, methods in (("/v1/datasets", {"GET", "POST"}), ("/static/x", {"GET", "HEAD"})):
        answer = toy.request("PATCH", path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == methods


@pytest.mark.parametrize("host", ["[::1", "[", "a[b]c", "x:y", "\xff"])
def test_a_host_that_is_none_breaks_nothing(tmp_path, run_service, host: str) -> None:
    with run_service(tmp_path, host="0.0.0.0", api_key="k" * 16) as service:
        headers = {"host": host.encode("latin-1"), "x-api-key": "k" * 16}
        for path in ("/docs", "/nowhere", "/v1/models", "/static/x", "/"):
            answer = service.get(path, headers=headers)
            assert answer.status_code in (200, 404), path
