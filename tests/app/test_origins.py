import pytest
from starlette.datastructures import Headers

from app.errors import CrossSiteError, MisdirectedError
from app.origins import Origins

HOME = Origins(loopback=True, allowed_hosts=())


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "127.8.8.8:80"]
)
def test_a_name_of_loopback_is_answered(host: str) -> None:
    HOME.check("GET", Headers({"host": host}))


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost@evil", "a b", "::2"]
)
def test_another_name_is_refused_on_loopback(host: str) -> None:
    with pytest.raises(MisdirectedError, match="NOISEWELL_ALLOWED_HOSTS"):
        HOME.check("GET", Headers({"host": host}))


def test_an_allowed_host_is_answered_and_its_pages_may_post() -> None:
    origins = Origins(loopback=True, allowed_hosts=("Wells.example",))
    origins.check("GET", Headers({"host": "wells.example"}))
    origins.check("POST", Headers({"host": "localhost", "origin": "https://wells.example"}))


def test_beyond_loopback_any_host_is_answered_unless_some_are_named() -> None:
    Origins(loopback=False, allowed_hosts=()).check("GET", Headers({"host": "any.example"}))
    with pytest.raises(MisdirectedError):
        Origins(loopback=False, allowed_hosts=("a.example",)).check(
            "GET", Headers({"host": "b.example"})
        )


@pytest.mark.parametrize(
    "sent",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_a_page_of_another_site_reads_at_most(sent: dict[str, str]) -> None:
    headers = Headers({"host": "localhost:8000", **sent})
    HOME.check("GET", headers)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(CrossSiteError):
            HOME.check(method, headers)


@pytest.mark.parametrize(
    "sent",
    [{}, {"origin": "http://localhost:8000"}, {"sec-fetch-site": "same-origin"}],
    ids=str,
)
def test_the_studio_page_and_programs_may_post(sent: dict[str, str]) -> None:
    HOME.check("POST", Headers({"host": "localhost:8000", **sent}))


def test_the_service_refuses_both_and_answers_probes_by_any_name(toy) -> None:
    evil = {"host": "evil.example"}
    answer = toy.get("/v1/models", headers=evil)
    assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")
    assert toy.get("/health/live", headers=evil).status_code == 200
    answer = toy.post("/v1/images", json={}, headers={"origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
