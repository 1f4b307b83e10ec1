"""The manager's atomic verbs, locks and plain values, seen from two caches of one fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioinfra import NO_EXPIRY, CacheManager
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import (
    CounterOverflow,
    EncodeError,
    InvalidArgument,
    LifecycleError,
    LockTimeout,
    StoreUnavailable,
    WrongType,
)


@pytest.fixture
async def pair(redis_url: str, prefix: str) -> AsyncIterator[tuple[CacheManager, CacheManager]]:
    async with (
        CacheManager(redis_url, namespace=prefix) as one,
        CacheManager(redis_url, namespace=prefix) as two,
    ):
        yield one, two


async def test_a_counter_is_one_for_the_fleet_and_read_like_any_value(
    pair: tuple[CacheManager, CacheManager],
) -> None:
    one, two = pair
    await asyncio.gather(*(cache.incr("n", 2) for cache in pair for _ in range(100)))
    assert await one.get("n") == 400
    assert await one.get("n") == 400  # now from L1
    assert await two.decr("n", 100) == 300
    assert await one.barrier()
    assert await one.get("n") == 300
    assert await one.mget(["n"]) == {"n": 300}


async def test_a_counter_passes_no_bound_and_changes_no_other_value(
    pair: tuple[CacheManager, CacheManager],
) -> None:
    one, _ = pair
    await one.set("text", "seven")
    with pytest.raises(WrongType):
        await one.incr("text")
    with pytest.raises(CounterOverflow):
        await one.incr("n", 2**53, initial=1)
    assert await one.get("text") == "seven"
    assert await one.get("n") is None


async def test_a_counter_of_another_program_is_refused_and_stays(
    pair: tuple[CacheManager, CacheManager],
) -> None:
    one, two = pair
    for key, there in (("number", 5), ("text", "none"), ("list", [1])):
        await one.set_plain(key, there)
        for counting in (one.incr(key), two.decr(key), one.incr(key, initial=7)):
            with pytest.raises(WrongType):
                await counting
        assert await two.get_plain(key) == there
    await one.delete("number")
    assert await two.incr("number") == 1


async def test_in_memory_a_plain_number_is_no_counter_either() -> None:
    async with CacheManager() as cache:
        await cache.set_plain("n", 5)
        with pytest.raises(WrongType):
            await cache.incr("n")
        assert await cache.get_plain("n") == 5


async def test_a_counter_ends_with_its_namespace_and_with_a_tag(
    pair: tuple[CacheManager, CacheManager],
) -> None:
    one, two = pair
    await one.incr("n", 7)
    await two.set("tagged", 5, tags=["t"])
    assert await one.incr("tagged") == 6
    await two.invalidate_tag("t")
    assert await one.incr("tagged") == 1
    await two.invalidate_all()
    assert await two.get("n") is None
    assert await two.incr("n") == 1


async def test_one_of_many_adds_wins_and_all_get_its_value(pair: tuple[CacheManager, CacheManager]) -> None:
    one, two = pair
    calls = [cache.add("first", index) for index, cache in enumerate([one, two] * 50)]
    won = await asyncio.gather(*calls)
    assert won.count(True) == 1
    values = await asyncio.gather(
        *(cache.get_or_set("set", object_of) for cache in pair for object_of in range(50))
    )
    assert len(set(values)) == 1
    assert await two.get("first") == won.index(True)


async def test_a_time_to_live_is_what_the_server_says(
    pair: tuple[CacheManager, CacheManager], redis_url: str, prefix: str
) -> None:
    one, two = pair
    await one.set("a", 1, ttl=100)
    assert await two.get("a") == 1
    assert await one.expire("a", 0.2)
    assert await two.barrier()
    assert await two.get("a") == 1
    await asyncio.sleep(0.25)  # the server's clock
    assert await two.get("a") is None
    await one.set("b", 1, ttl=NO_EXPIRY)
    assert await two.ttl("b") is NO_EXPIRY
    assert await two.touch("b", "absent", ttl=50) == 1
    async with RedisClient(redis_url) as client:
        left = await client.execute("PTTL", prefix + "b")
    assert 49_000 < left <= 50_000
    assert abs((await one.ttl("b") or 0) - left / 1000) < 1


async def test_a_lock_is_held_by_one_and_its_fence_rises(pair: tuple[CacheManager, CacheManager]) -> None:
    inside, fences = 0, []

    async def turn(cache: CacheManager) -> None:
        nonlocal inside
        async with cache.lock("report", lease=5, wait=20) as lock:
            inside += 1
            assert inside == 1
            fences.append(lock.fence)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(turn(cache) for cache in pair for _ in range(20)))
    assert fences == sorted(set(fences))
    async with pair[0].lock("report"):
        with pytest.raises(LockTimeout):
            async with pair[1].lock("report", wait=0):
                pass


async def test_no_verb_counts_in_memory_while_the_server_is_gone(own_server: Any, prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.incr("n")
        server.kill()
        assert await cache.get("n") is None
        with pytest.raises(StoreUnavailable):
            await cache.incr("n")
        with pytest.raises(StoreUnavailable):
            await cache.add("a", 1)


async def test_verbs_of_a_cache_that_is_not_open_say_so() -> None:
    cache = CacheManager()
    with pytest.raises(LifecycleError):
        await cache.incr("n")
    with pytest.raises(LifecycleError):
        cache.lock("l")
    async with cache:
        assert await cache.incr("n") == 1


async def test_a_plain_value_is_what_other_languages_see(
    pair: tuple[CacheManager, CacheManager], redis_url: str, prefix: str
) -> None:
    one, two = pair
    await one.set_plain("shared", {"name": "Ada", "tags": [1, 2]}, ttl=50)
    async with RedisClient(redis_url) as client:
        assert json.loads(await client.execute("GET", prefix + "shared")) == {"name": "Ada", "tags": [1, 2]}
        assert 0 < await client.execute("PTTL", prefix + "shared") <= 50_000
        await client.execute("SET", prefix + "shared", b'{"name":"Grace"}')
        assert await two.get_plain("shared") == {"name": "Grace"}
        await client.execute("SET", prefix + "shared", b"\xff\xfe junk")
        assert await two.get_plain("shared", "default") == "default"
        await client.execute("DEL", prefix + "shared")
        await client.execute("LPUSH", prefix + "shared", "x")
        assert await two.get_plain("shared", "default") == "default"
    await one.set("sealed", 1)
    assert await one.get_plain("sealed") is None
    assert await one.get("shared") is None
    with pytest.raises(EncodeError):
        await one.set_plain("bad", float("nan"))
    with pytest.raises(InvalidArgument):
        await one.set_plain("", 1)
