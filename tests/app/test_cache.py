from app.cache import ByteCache


def test_what_was_put_in_comes_out() -> None:
    cache = ByteCache(10_000)
    cache.put("a", b"1")
    assert (cache.get("a"), cache.get("b")) == (b"1", None)


def test_its_bytes_are_bounded_and_the_least_recently_used_goes() -> None:
    cache = ByteCache(3 * 2000)
    for name in "abc":
        cache.put(name, bytes(1000))
    cache.get("a")
    cache.put("d", bytes(3500))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "d"]
    assert cache.num_bytes <= 3 * 2000


def test_many_small_files_count_more_than_their_bytes() -> None:
    cache = ByteCache(10_000)
    for i in range(1000):
        cache.put(str(i), b"")
    assert sum(cache.get(str(i)) is not None for i in range(1000)) < 50


def test_a_file_larger_than_all_of_it_is_not_kept() -> None:
    cache = ByteCache(1000)
    cache.put("a", bytes(2000))
    assert cache.get("a") is None
    assert cache.num_bytes == 0


def test_a_file_put_in_twice_counts_once() -> None:
    cache = ByteCache(10_000)
    for _ in range(100):
        cache.put("a", bytes(1000))
    assert cache.num_bytes < 2000
