import pytest

from app.routes.seeds import Wanted
from app.shortway import plain

HEAD = "/v1/models/"


@pytest.mark.parametrize(
    ("path", "query", "wanted"),
    [
        ("mnist/images/7.png", b"", Wanted("mnist", 7)),
        ("mnist@2/images/007.png", b"", Wanted("mnist@2", 7)),
        ("mnist@champion/images/0.png", b"class=3", Wanted("mnist@champion", 0, "3")),
        ("a-b.c_d/images/7.png", b"truncation=0.5", Wanted("a-b.c_d", 7, None, 0.5)),
        ("m/images/7.png", b"class=a%20cat&truncation=.25", Wanted("m", 7, "a cat", 0.25)),
        ("m/images/7.png", b"class=", Wanted("m", 7, "")),
        ("m/images/7.png", b"truncation=1.0", Wanted("m", 7)),
    ],
)
def test_a_plain_url_says_what_it_wants(path: str, query: bytes, wanted: Wanted) -> None:
    assert plain(HEAD + path, query) == wanted


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("mnist", b""),
        ("mnist/images/7.jpg", b""),
        ("mnist/images/7.png/", b""),
        ("mnist/images/-7.png", b""),
        ("mnist/images/seven.png", b""),
        ("mnist/images/٧.png", b""),
        ("mnist/images/12345678901234567.png", b""),
        ("MNIST/images/7.png", b""),
        ("a/b/images/7.png", b""),
        ("m/images/7.png", b"truncation=0"),
        ("m/images/7.png", b"truncation=2"),
        ("m/images/7.png", b"truncation=nan"),
        ("m/images/7.png", b"truncation=1e-3"),
        ("m/images/7.png", b"other=1"),
        ("m/images/7.png", b"class=" + b"x" * 64),
    ],
)
def test_what_is_not_plain_goes_the_whole_way(path: str, query: bytes) -> None:
    assert plain(HEAD + path, query) is None


@pytest.mark.parametrize(
    "url",
    [
        "toy/images/7.png",
        "toy@2/images/7.png?class=cat",
        "toy/images/7.png?truncation=0.5&class=1",
        "toy/images/7.png?class=bird",
        "toy@9/images/7.png",
        "toy@x/images/7.png",
        "none/images/7.png",
        "plain/images/7.png?class=1",
        "toy/images/9007199254740992.png",
    ],
)
def test_both_ways_answer_the_same(toy, monkeypatch, url: str) -> None:
    same = {"X-Request-ID": "one"}
    short = toy.get(HEAD + url, headers=same)
    monkeypatch.setattr("app.shortway.plain", lambda path, query: None)
    whole = toy.get(HEAD + url, headers=same)
    assert (short.status_code, short.content) == (whole.status_code, whole.content)
    for answer in (short, whole):
        assert answer.headers.pop("X-Request-ID")
    assert short.headers == whole.headers


def test_both_ways_are_counted_under_the_route(toy) -> None:
    line = 'noisewell_requests_total{route="/v1/models/{model}/images/{seed}.png",status="200"}'

    def count() -> float:
        lines = toy.get("/metrics").text.splitlines()
        return next((float(x.split()[-1]) for x in lines if x.startswith(line)), 0.0)

    before = count()
    toy.get(HEAD + "toy/images/7.png")
    assert count() == before + 1
