import json

import pytest

from app import errors, problems


def read(error: errors.NoisewellError) -> dict:
    return json.loads(bytes(problems.of(error).body))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.BadRequestError("d"), 422, "invalid"),
        (errors.NotFoundError("d"), 404, "not_found"),
        (errors.ConflictError("d"), 409, "conflict"),
        (errors.TooLargeError("d"), 413, "too_large"),
        (errors.UnsupportedTypeError("d"), 415, "unsupported_type"),
        (errors.UnauthorizedError("d"), 401, "unauthorized"),
        (errors.ClientGoneError("d"), 499, "client_gone"),
        (errors.UnavailableError("d"), 503, "unavailable"),
        (errors.QueueFullError("d"), 503, "queue_full"),
        (errors.NoisewellError("d"), 500, "internal"),
    ],
)
def test_every_error_has_its_status(error: errors.NoisewellError, status: int, code: str) -> None:
    answer = problems.of(error)
    assert (answer.status_code, answer.media_type) == (status, "application/problem+json")
    body = read(error)
    assert (body["status"], body["code"], body["detail"]) == (status, code, "d")
    assert body["title"]


@pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (1.1, "2"), (30, "30")])
def test_503_says_when_to_come_back_in_whole_seconds(seconds: float, header: str) -> None:
    answer = problems.of(errors.UnavailableError("", retry_after_sec=seconds))
    assert answer.headers["Retry-After"] == header


def test_only_the_field_that_is_wrong_is_named() -> None:
    assert read(errors.BadRequestError("d", field="n"))["field"] == "n"
    assert "field" not in read(errors.BadRequestError("d"))


def test_whatever_was_asked_can_be_told() -> None:
    detail = "\ud800 \0 \U0001f408 \n"
    assert read(errors.BadRequestError(detail))["detail"] == detail


def test_a_body_of_a_hundred_thousand_mistakes_gets_a_short_answer(toy) -> None:
    latents = ["x"] * 100_000
    answer = toy.images(latents=[latents])
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 10
    assert answer.json()["detail"].endswith("; and 99990 more")
    assert len(answer.content) < 5000


def test_a_long_value_is_cut(toy) -> None:
    answer = toy.images(n="9" * 10_000)
    assert answer.status_code == 422
    assert len(answer.content) < 1000
    assert answer.json()["errors"][0]["value"].endswith("…")
