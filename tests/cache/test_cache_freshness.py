"""How long values are fresh, and what happens then: on a virtual clock, in memory."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aioinfra import CacheManager, Freshness, cached
from aioinfra.cache.freshness import Verdict
from aioinfra.errors import InvalidArgument, LoadTimeout
from aioinfra.testing import VirtualClock


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    async with VirtualClock() as clock:
        yield clock


@pytest.fixture
async def cache(clock: VirtualClock) -> AsyncIterator[CacheManager]:
    async with CacheManager(clock=clock) as cache:
        yield cache


class Origin:
    """Where values come from: slow, and down when it is told to be."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[float] = []
        self.down = False

    async def load(self) -> int:
        self.calls.append(asyncio.get_running_loop().time())
        number = len(self.calls)
        await asyncio.sleep(self.seconds)
        if self.down:
            raise ConnectionError("the origin is down")
        return number


async def ask(load: Callable[[], Awaitable[Any]], waits: list[float]) -> Any:
    loop = asyncio.get_running_loop()
    started = loop.time()
    value = await load()
    waits.append(loop.time() - started)
    return value


@pytest.mark.parametrize(
    "policy", [{"stale_while_revalidate": 5.0}, {"refresh_ahead": 1.0}], ids=["stale", "ahead"]
)
async def test_nobody_waits_when_a_hot_value_expires(
    policy: dict[str, float], clock: VirtualClock, cache: CacheManager
) -> None:
    """1,000 requests a second, a loader of 200 ms, through three lives of the value."""
    origin, waits = Origin(0.2), list[float]()
    load = cached(cache=cache, ttl=10.0, **policy)(origin.load)  # type: ignore[call-overload]  # by name
    first = asyncio.create_task(load())
    await clock.advance(0.3)
    assert await first == 1
    requests: list[asyncio.Task[Any]] = []
    for _ in range(30_000):
        requests.append(asyncio.create_task(ask(load, waits)))
        await clock.advance(0.001)
    await asyncio.gather(*requests)
    assert len(waits) == 30_000
    assert max(waits) == 0.0
    assert 3 <= len(origin.calls) <= 6


async def test_a_stale_value_is_answered_at_once_and_made_anew_once_behind(
    clock: VirtualClock, cache: CacheManager
) -> None:
    origin = Origin(0.2)
    load = cached(cache=cache, ttl=10.0, stale_while_revalidate=5.0)(origin.load)
    first = asyncio.create_task(load())
    await clock.advance(0.3)
    assert await first == 1
    await clock.advance(11)
    assert await asyncio.gather(*(load() for _ in range(100))) == [1] * 100
    await clock.advance(0.3)
    assert await load() == 2
    assert len(origin.calls) == 2
    assert cache.get_stats()["stale"] == 100
    assert cache.get_stats()["refreshes"] == 1


async def test_after_the_stale_time_a_reader_waits(clock: VirtualClock, cache: CacheManager) -> None:
    origin = Origin()
    load = cached(cache=cache, ttl=10.0, stale_while_revalidate=5.0)(origin.load)
    assert await load() == 1
    await clock.advance(15.5)
    assert await load() == 2


async def test_a_plain_get_does_not_see_what_is_kept_beyond_its_life(
    clock: VirtualClock, cache: CacheManager
) -> None:
    policy = Freshness(ttl=10.0, stale_if_error=60.0)
    assert await cache.get_or_load("a", Origin().load, freshness=policy) == 1
    assert await cache.get("a") == 1
    await clock.advance(11)
    assert await cache.get("a") is None
    assert await cache.mget(["a"]) == {}
    assert not await cache.exists("a")


async def test_a_failing_loader_is_called_once_per_throttle_and_the_old_value_serves(
    clock: VirtualClock, cache: CacheManager
) -> None:
    origin = Origin()
    load = cached(cache=cache, ttl=10.0, stale_if_error=600.0, retry_after=5.0)(origin.load)
    assert await load() == 1
    await clock.advance(11)
    origin.down, origin.calls = True, origin.calls[:0]
    for _ in range(600):
        assert await load() == 1
        await clock.advance(0.1)
    assert len(origin.calls) == 12
    assert all(later - earlier >= 5.0 for earlier, later in zip(origin.calls, origin.calls[1:], strict=False))
    origin.down = False
    await clock.advance(5)
    assert await load() == len(origin.calls)


async def test_the_error_is_raised_when_there_is_no_older_value_or_it_is_too_old(
    clock: VirtualClock, cache: CacheManager
) -> None:
    origin = Origin()
    load = cached(cache=cache, ttl=10.0, stale_if_error=20.0)(origin.load)
    origin.down = True
    with pytest.raises(ConnectionError):
        await load()
    origin.down = False
    assert await load() == 2
    await clock.advance(31)
    origin.down = True
    with pytest.raises(ConnectionError):
        await load()


async def test_a_late_loader_gives_way_to_the_old_value_and_its_value_is_kept(
    clock: VirtualClock, cache: CacheManager
) -> None:
    origin = Origin()
    load = cached(cache=cache, ttl=10.0, stale_if_error=600.0, soft_timeout=0.1)(origin.load)
    assert await load() == 1
    await clock.advance(11)
    origin.seconds = 2.0
    reader = asyncio.create_task(load())
    await clock.advance(0.15)
    assert reader.done()
    assert await reader == 1
    await clock.advance(2.0)
    assert await load() == 2


async def test_a_loader_is_cancelled_at_its_hard_timeout(clock: VirtualClock, cache: CacheManager) -> None:
    ended: list[str] = []

    @cached(cache=cache, hard_timeout=1.0)
    async def load() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    readers = [asyncio.create_task(load()) for _ in range(3)]
    await clock.advance(1.1)
    assert [type(result) for result in await asyncio.gather(*readers, return_exceptions=True)] == [
        LoadTimeout
    ] * 3
    assert ended == ["cancelled"]


async def test_a_loaders_own_timeout_is_not_taken_for_the_hard_one(cache: CacheManager) -> None:
    async def load() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await cache.get_or_load("a", load, freshness=Freshness(hard_timeout=1.0, soft_timeout=0.5))


@pytest.mark.parametrize("left", [0.05, 0.2, 0.5, 1.0])
def test_refreshes_ahead_follow_xfetch(left: float) -> None:
    policy, chance = Freshness(ttl=10.0, refresh_ahead=1.5), random.Random(7)
    delta, trials = 0.2, 40_000
    ahead = sum(policy.judge(left, delta, 0.0, chance.random) is Verdict.AHEAD for _ in range(trials))
    expected = math.exp(-left / (1.5 * delta))
    error = math.sqrt(expected * (1 - expected) / trials)
    assert abs(ahead / trials - expected) < 4 * error


async def test_a_sliding_value_lives_as_long_as_it_is_read(clock: VirtualClock, cache: CacheManager) -> None:
    origin = Origin()
    load = cached(cache=cache, ttl=10.0, sliding=True)(origin.load)
    for _ in range(20):
        assert await load() == 1
        await clock.advance(4)
    await clock.advance(11)
    assert await load() == 2


async def test_jitter_spreads_the_ends_of_values_made_together(
    clock: VirtualClock, cache: CacheManager
) -> None:
    calls: list[int] = []

    @cached(cache=cache, ttl=100.0, jitter=0.2)
    async def load(number: int) -> int:
        calls.append(number)
        return number

    for number in range(200):
        await load(number)
    assert len(calls) == 200
    await clock.advance(79)
    for number in range(200):
        await load(number)
    assert len(calls) == 200  # none lives for less than 80 s
    await clock.advance(11)
    for number in range(200):
        await load(number)
    assert 240 < len(calls) < 360  # about half of them have ended at 90 s


async def test_none_is_loaded_once_in_its_own_life(clock: VirtualClock, cache: CacheManager) -> None:
    calls = 0

    @cached(cache=cache, ttl=100.0, none_ttl=10.0)
    async def load() -> None:
        nonlocal calls
        calls += 1

    for _ in range(5):
        await load()
        assert await cache.mget([load.key_for()]) == {load.key_for(): None}
        await clock.advance(1)
    assert calls == 1
    await clock.advance(6)
    await load()
    assert calls == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", True),
        ("stale_while_revalidate", -1),
        ("stale_if_error", math.nan),
        ("retry_after", "5"),
        ("soft_timeout", 0),
        ("hard_timeout", math.inf),
        ("refresh_ahead", -1),
        ("sliding", 1),
        ("ttl", 0),
    ],
)
def test_a_senseless_policy_is_refused_where_it_is_written(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Freshness(**{name: value})
    assert refused.value.argument == name
    with pytest.raises(InvalidArgument):
        cached(**{name: value})
