import itertools

import pytest

from app import quotas
from app.errors import BadRequestError, RateLimitError
from app.quotas import Quotas


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_limit_nothing_is_counted_and_nothing_said() -> None:
    assert Quotas(0, 0).take("k", "1.2.3.4", 10**9) == {}


def test_a_minute_brings_back_what_was_used(clock: Clock) -> None:
    free = Quotas(60, 0, clock)
    free.take("k", "", 60)
    with pytest.raises(RateLimitError) as refused:
        free.take("k", "", 30)
    assert refused.value.retry_after_sec == pytest.approx(30)
    clock.now += 29.9
    with pytest.raises(RateLimitError):
        free.take("k", "", 30)
    clock.now += 0.1
    free.take("k", "", 30)
    clock.now += 3600
    free.take("k", "", 60)
    with pytest.raises(RateLimitError):
        free.take("k", "", 1)


def test_waiting_as_long_as_was_said_is_enough(clock: Clock) -> None:
    free = Quotas(7, 0, clock)
    for n in itertools.islice(itertools.cycle((7, 1, 3, 5, 2)), 200):
        try:
            free.take("k", "", n)
        except RateLimitError as refused:
            clock.now += refused.retry_after_sec + 1e-6
            free.take("k", "", n)


def test_over_any_time_no_more_is_given_than_its_rate_and_one_full_bucket(clock: Clock) -> None:
    free, given = Quotas(100, 0, clock), 0
    for _ in range(6000):
        clock.now += 0.1
        try:
            free.take("k", "", 7)
            given += 7
        except RateLimitError:
            continue
    assert 0.99 * 1000 <= given <= 1000 + 100


def test_one_uses_up_nothing_of_another(clock: Clock) -> None:
    free = Quotas(10, 0, clock)
    free.take("a", "", 10)
    free.take("b", "", 10)
    with pytest.raises(RateLimitError):
        free.take("a", "", 1)


def test_a_refusal_by_one_quota_uses_up_nothing_of_the_other(clock: Clock) -> None:
    both = Quotas(100, 10, clock)
    both.take("k", "1.1.1.1", 10)
    for _ in range(5):
        with pytest.raises(RateLimitError, match="address_images_per_minute allows each address"):
            both.take("k", "1.1.1.1", 10)
    assert both.take("k", "2.2.2.2", 10)["RateLimit"].startswith('"key";r=80;')


def test_more_than_a_minute_ever_holds_is_said_to_be_too_much() -> None:
    with pytest.raises(BadRequestError, match=r"11 images .* key_images_per_minute .* 10 a minute"):
        Quotas(10, 0).take("k", "", 11)


def test_addresses_of_one_ipv6_network_are_one(clock: Clock) -> None:
    free = Quotas(0, 10, clock)
    free.take(None, "2001:db8::1", 10)
    with pytest.raises(RateLimitError):
        free.take(None, "2001:db8::ffff:2%eth0", 1)
    free.take(None, "2001:db8:0:1::1", 10)
    free.take(None, "192.0.2.1", 10)
    free.take(None, "192.0.2.2", 10)
    free.take(None, "no:address", 1)


def test_no_more_is_remembered_than_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_BUCKETS", 100)
    free = Quotas(0, 10, lambda: 0.0)
    for i in range(1000):
        free.take(None, f"10.0.{i // 250}.{i % 250}", 10)
    assert len(free._address._buckets) == 100
    with pytest.raises(RateLimitError):
        free.take(None, "10.0.3.249", 1)


# Over HTTP


def test_each_way_to_ask_for_images_is_counted_in_images(start, registry, make_version) -> None:
    make_version(registry)
    with start(key_images_per_minute=100, api_key="k") as service:
        key = {"X-API-Key": "k"}
        one = service.get("/v1/models/toy/images/7.png", headers=key)
        assert one.headers["RateLimit-Policy"] == '"key";q=100;qu="images";w=60'
        assert one.headers["RateLimit"].startswith('"key";r=99;t=')
        etag = {**key, "If-None-Match": one.headers["ETag"]}
        assert service.get("/v1/models/toy/images/7.png", headers=etag).status_code == 304
        many = {"model": "toy", "n": 40, "response": "npy"}
        left = service.post("/v1/images", json=many, headers=key).headers["RateLimit"]
        assert left.startswith('"key";r=59;')
        walk = {"model": "toy", "seeds": [1, 2], "frames": 50, "format": "gif"}
        left = service.post("/v1/interpolations", json=walk, headers=key).headers["RateLimit"]
        assert left.startswith('"key";r=9;')
        refused = service.post("/v1/images", json=many, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 15 <= int(refused.headers["Retry-After"]) <= 25
        assert refused.headers["RateLimit"].startswith('"key";r=9;')
        assert "of which 9 are left" in refused.json()["detail"]
        png = {"file": ("a.png", one.content)}
        assert service.post("/v1/images/verify", files=png, headers=key).status_code == 200
        for _ in range(8):
            assert service.get("/v1/models/toy/images/7.png", headers=key).status_code == 200
        assert service.get("/v1/models/toy/images/7.png", headers=key).status_code == 429
        assert service.get("/v1/models", headers=key).status_code == 200
        too_many = service.post("/v1/images", json={**many, "n": 101}, headers=key)
        assert (too_many.status_code, too_many.json()["code"]) == (422, "invalid")


def test_by_default_there_are_no_quotas(toy) -> None:
    answer = toy.images(n=64, response="npy")
    assert answer.status_code == 200
    assert "RateLimit" not in answer.headers
