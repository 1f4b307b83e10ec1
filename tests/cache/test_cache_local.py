"""The bounded map in memory."""

from __future__ import annotations

import asyncio
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from aioinfra.cache.local import ENTRY_BYTES, LocalCache


class ManualClock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)
        await asyncio.sleep(0.001)  # who waits in a loop must not keep the loop from everybody else


def test_the_least_recently_used_goes_first() -> None:
    cache = LocalCache[int](3, 1 << 20)
    for number in range(3):
        cache.put(str(number), number, 1, None)
    assert cache.get("0") == 0
    cache.put("1", 10, 1, None)
    cache.put("new", 9, 1, None)
    assert [cache.get(key) for key in ("0", "1", "2", "new")] == [0, 10, None, 9]
    assert cache.evictions == 1


def test_each_entry_lives_as_long_as_it_was_told() -> None:
    clock = ManualClock()
    cache = LocalCache[str](10, 1 << 20, clock)
    cache.put("a", "a", 1, 5)
    cache.put("b", "b", 1, 10)
    cache.put("c", "c", 1, None)
    assert (cache.ttl("a"), cache.ttl("c"), cache.ttl("absent")) == (5, math.inf, None)
    clock.now += 5
    assert cache.ttl("a") is None
    assert list(cache.keys()) == ["b", "c"]
    assert [cache.get(key) for key in "abc"] == [None, "b", "c"]
    assert len(cache) == 2  # the expired one was met and removed
    clock.now += 5
    assert cache.pop("b") is False  # it had expired
    assert cache.pop("c") is True


def test_bytes_are_bounded_too() -> None:
    cache = LocalCache[bytes](1000, 10 * (ENTRY_BYTES + 1 + 1000))
    for number in range(10):
        cache.put(str(number), b"x" * 1000, 1000, None)
    assert len(cache) == 10
    cache.put("a", b"x" * 3000, 3000, None)
    assert len(cache) < 10
    assert cache.get("0") is None
    assert cache.get("a") is not None
    cache.put("a", b"x" * 100_000, 100_000, None)  # larger than everything: not kept, and the old one is gone
    assert cache.get("a") is None


def test_looking_at_times_and_keys_is_no_use() -> None:
    cache = LocalCache[int](2, 1 << 20)
    cache.put("old", 1, 1, None)
    cache.put("new", 2, 1, None)
    assert cache.ttl("old") == math.inf
    assert set(cache.keys()) == {"old", "new"}
    cache.put("third", 3, 1, None)
    assert set(cache.keys()) == {"new", "third"}


def test_clearing_evicts_nothing() -> None:
    cache = LocalCache[int](2, 1 << 20)
    for number in range(3):
        cache.put(str(number), number, 1, None)
    cache.clear()
    assert (len(cache), cache.bytes, cache.evictions) == (0, 0, 1)
    cache.put("a", 1, 1, None)
    assert cache.get("a") == 1


def test_a_size_of_zero_keeps_nothing() -> None:
    cache = LocalCache[int](0, 1 << 20)
    cache.put("a", 1, 1, None)
    assert cache.get("a") is None
    assert cache.bytes == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "pop", "wait"]), st.sampled_from("abcdef"), st.integers(0, 400)
        )
    )
)
def test_the_bounds_and_the_sum_of_bytes_always_hold(steps: list[tuple[str, str, int]]) -> None:
    clock = ManualClock()
    cache = LocalCache[int](4, 3000, clock)
    for verb, key, number in steps:
        if verb == "put":
            cache.put(key, number, number, number / 10 + 0.1)
            assert cache.get(key) == number
        elif verb == "get":
            cache.get(key)
        elif verb == "pop":
            cache.pop(key)
            assert cache.get(key) is None
        else:
            clock.now += number / 20
        assert len(cache) <= 4
        assert cache.bytes <= 3000
        assert len(list(cache.keys())) <= len(cache)
    for key in "abcdef":
        cache.pop(key)
    assert cache.bytes == 0
