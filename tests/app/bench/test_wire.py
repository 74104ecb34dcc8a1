import pytest

from app.bench.wire import Answer, AnswerReader, Target


def read(*pieces: bytes) -> list[Answer]:
    reader = AnswerReader()
    return [answer for piece in pieces for answer in reader.feed(piece)]


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Seed: 7\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;note=1\r\n world\r\n0\r\ntrailer: 1\r\n\r\n"
)
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n"


def test_answers_come_whole_however_they_are_cut():
    stream = SIZED + CHUNKED + NOT_MODIFIED + REFUSED
    for size in (1, 2, 3, 7, 50, len(stream)):
        answers = read(*(stream[i : i + size] for i in range(0, len(stream), size)))
        assert [answer.status for answer in answers] == [200, 200, 304, 503]
        assert [answer.body for answer in answers] == [b"hello", b"hello world", b"", b""]


def test_headers_are_found_in_any_case():
    (answer,) = read(SIZED)
    assert (answer.header("x-seed"), answer.header("X-SEED")) == ("7", "7")
    assert answer.header("seed") is None
    assert answer.header("x-see") is None


def test_what_is_good_is_2xx_and_304():
    assert [answer.ok for answer in read(SIZED, NOT_MODIFIED, REFUSED)] == [True, True, False]


def test_milliseconds_to_come_back_in_win_over_seconds():
    head = (
        b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nRetry-After-Ms: 1250\r\ncontent-length: 0\r\n\r\n"
    )
    assert [answer.retry_after_sec for answer in read(SIZED, REFUSED, head)] == [None, 2, 1.25]


def test_an_interim_answer_is_passed_over():
    assert [a.status for a in read(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED)] == [200]


def test_a_connection_that_ends_is_known_before_it_does():
    ends = SIZED.replace(b"X-Seed: 7", b"Connection: close")
    assert [answer.closes for answer in read(SIZED, ends)] == [False, True]


def test_half_an_answer_is_known_as_one():
    reader = AnswerReader()
    assert not reader.midway
    for cut in (CHUNKED.index(b"5\r\n"), CHUNKED.index(b"6;"), len(CHUNKED) - 2):
        reader = AnswerReader()
        assert reader.feed(CHUNKED[:cut]) == []
        assert reader.midway
        assert len(reader.feed(CHUNKED[cut:])) == 1
        assert not reader.midway


@pytest.mark.parametrize(
    "odd",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the connection ends",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_wait(odd: bytes):
    with pytest.raises(ValueError, match=r"."):
        read(odd)


def test_requests_are_what_a_server_expects():
    target = Target.of("http://127.0.0.1:8000", key="k")
    head, _, body = target.post("/v1/images", {"n": 2}, {"x-a": "b"}).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/images HTTP/1.1"
    assert set(lines[1:]) == {
        "host: 127.0.0.1:8000",
        "content-type: application/json",
        "x-a: b",
        "authorization: Bearer k",
        "content-length: 8",
    }
    assert body == b'{"n": 2}'
    assert Target.of("http://[::1]:80").get("/").startswith(b"GET / HTTP/1.1\r\nhost: [::1]:80\r\n")


@pytest.mark.parametrize("url", ["https://127.0.0.1", "127.0.0.1:8000", "http://", "http://a/b"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ValueError, match="expected such as http://127"):
        Target.of(url)
