"""L1 on real servers: when it answers, when it must not, and what it keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aioinfra.cache.decorator import cached
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from tests.cache.test_cache_fleet_flight import commands
from tests.jobs.kit import until

# A busy machine answers late; these tests are not about outages.
OPTIONS = CacheOptions(redis=RedisStoreOptions(budget=3.0))


def hits(cache: CacheManager) -> int:
    """Answers of L1 so far."""
    return int(cache.get_stats()["l1_hits"])


async def up(cache: CacheManager) -> None:
    async def heard() -> bool:
        return (await cache.health_check()).l1 == "up"

    await until(heard)


async def test_a_second_read_asks_nobody(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server()
    async with (
        RedisClient(server.url) as raw,
        CacheManager(server.url, namespace=prefix, options=OPTIONS) as cache,
    ):
        await up(cache)
        await cache.mset({"a": 1, "b": [2]}, ttl=60)
        assert await cache.mget(["a", "b"]) == {"a": 1, "b": [2]}
        before = await commands(raw)
        for _ in range(100):
            assert await cache.get("a") == 1
            assert await cache.mget(["a", "b"]) == {"a": 1, "b": [2]}
        after = await commands(raw)
        assert after.get("mget", 0) == before.get("mget", 0)
        assert after.get("get", 0) == before.get("get", 0)
        assert hits(cache) == 300


async def test_a_strong_read_skips_l1_and_leaves_it_alone(redis_url: str, prefix: str) -> None:
    async with (
        RedisClient(redis_url) as raw,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache,
    ):
        await up(cache)
        await cache.set("k", "value", tags=["t"])
        assert await cache.get("k") == "value"
        before = hits(cache)

        async def load() -> str:
            return "loaded"

        for _ in range(10):
            assert await cache.get("k", consistency="strong") == "value"
            assert await cache.mget(["k"], consistency="strong") == {"k": "value"}
            assert await cache.get_or_load("k", load, consistency="strong") == "value"
        assert hits(cache) == before
        # A write that nobody could hear of in time: it and the read leave together.
        for number in range(50):
            assert await cache.get("k") is not None
            await raw.execute("DEL", prefix + "k")
            assert await cache.get("k", "gone", consistency="strong") == "gone"
            await cache.set("k", number)
            assert await cache.get("k") == number


async def test_a_stopped_server_ends_the_answers_of_l1_after_the_bound(
    own_server: Callable[..., Any], prefix: str
) -> None:
    server = own_server()
    for bound in (0.3, 1.0):
        options = CacheOptions(redis=RedisStoreOptions(budget=0.1), near=NearOptions(max_staleness=bound))
        async with CacheManager(server.url, namespace=prefix, options=options) as cache:
            await up(cache)
            await cache.set("k", "value")
            assert await cache.get("k") == "value"
            server.stop_process()
            try:
                stopped = last = time.monotonic()
                while time.monotonic() < stopped + 2 * bound:
                    before, asked = hits(cache), time.monotonic()
                    found = await cache.get("k", "unknown")
                    if hits(cache) > before:
                        assert found == "value"
                        last = asked
                    else:
                        assert found == "unknown"
                    await asyncio.sleep(0.005)
                # Pings are half a bound apart at most, so it still answered for the other half.
                assert last - stopped <= bound + 0.05
                assert (await cache.health_check()).status == "degraded"
            finally:
                server.continue_process()
            async with asyncio.timeout(5):
                await cache.wait_healthy()
            await up(cache)
            await cache.set("k", "after")
            assert await cache.get("k") == "after"


async def test_a_stopped_server_ends_the_answers_of_l1_to_decorated_calls_too(
    own_server: Callable[..., Any], prefix: str
) -> None:
    """They look into L1 by themselves."""
    server, runs = own_server(), 0
    options = CacheOptions(redis=RedisStoreOptions(budget=0.1), near=NearOptions(max_staleness=0.3))
    async with CacheManager(server.url, namespace=prefix, options=options) as cache:

        @cached(ttl=60, cache=cache)
        async def load(_: int) -> int:
            nonlocal runs
            runs += 1
            return runs

        async def answered_by_l1() -> bool:
            before = hits(cache)
            await load(1)
            return hits(cache) > before

        await until(answered_by_l1)
        before = runs
        server.stop_process()
        try:

            async def ran_again() -> bool:
                return await load(1) > before

            await until(ran_again)
        finally:
            server.continue_process()
        await cache.wait_healthy()


async def test_health_tells_that_l1_does_not_answer_before_the_connection_is_given_up(
    own_server: Callable[..., Any], prefix: str
) -> None:
    server = own_server()
    options = CacheOptions(redis=RedisStoreOptions(budget=0.1), near=NearOptions(max_staleness=0.3))
    async with CacheManager(server.url, namespace=prefix, options=options) as cache:
        await up(cache)
        await cache.set("k", "value")

        async def answered() -> bool:
            before = hits(cache)
            await cache.get("k")
            return hits(cache) > before

        async def silent() -> bool:
            return not await answered()

        await until(answered)
        server.stop_process()
        try:
            await until(silent)
            assert (await cache.health_check()).l1 != "up"
        finally:
            server.continue_process()
        await up(cache)
        await cache.wait_healthy()


async def test_a_server_that_refuses_tracking_leaves_l1_off_and_says_so(
    own_server: Callable[..., Any], prefix: str
) -> None:
    server = own_server(tcp=True)
    async with RedisClient(server.url) as admin:
        await admin.execute(
            "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"
        )
        url = server.url.replace("redis://", "redis://plain:secret@")
        async with (
            CacheManager(url, namespace=prefix, options=OPTIONS) as cache,
            CacheManager(server.url, namespace=prefix, options=OPTIONS) as other,
        ):
            await until(lambda: _l1(cache, "refused"))
            assert (await cache.health_check()).status == "healthy"
            for number in range(20):
                await cache.set("k", number)
                assert await cache.get("k") == number
                await other.set("k", -number)
                assert await cache.get("k") == -number  # asked each time
                assert await cache.barrier()
            assert hits(cache) == 0
            assert cache.get_stats()["l1_entries"] == 0
            await other.invalidate_all()
            assert await cache.barrier()
            assert await cache.get("k") is None

            # Its followers of a load look by themselves, since nothing is heard.
            started, go = asyncio.Event(), asyncio.Event()

            async def load() -> str:
                started.set()
                await go.wait()
                return "loaded"

            leading = asyncio.create_task(other.get_or_load("slow", load))
            await started.wait()
            following = asyncio.create_task(cache.get_or_load("slow", load))
            await asyncio.sleep(0.1)
            go.set()
            async with asyncio.timeout(2):
                assert await leading == await following == "loaded"


async def _l1(cache: CacheManager, state: str) -> bool:
    return (await cache.health_check()).l1 == state


async def test_l1_can_be_off(redis_url: str, prefix: str) -> None:
    off = replace(OPTIONS, near=NearOptions(enabled=False))
    for cache in (
        CacheManager(redis_url, namespace=prefix, options=off),
        CacheManager(redis_url, memory_cache_size=0, namespace=prefix, options=OPTIONS),
    ):
        async with cache:
            await cache.set("k", 1)
            assert [await cache.get("k") for _ in range(3)] == [1, 1, 1]
            assert (await cache.health_check()).l1 == "off"
            assert hits(cache) == 0
            assert await cache.barrier()


async def test_l1_keeps_within_its_bounds(redis_url: str, prefix: str) -> None:
    near = NearOptions(max_bytes=200_000)
    async with CacheManager(
        redis_url, memory_cache_size=50, namespace=prefix, options=replace(OPTIONS, near=near)
    ) as cache:
        await up(cache)
        values: dict[str, Any] = {f"small{number}": number for number in range(200)}
        values |= {f"large{number}": "x" * 20_000 for number in range(30)}
        await cache.mset(values)
        for _ in range(2):
            assert await cache.mget(values) == values
            stats = cache.get_stats()
            assert 0 < stats["l1_entries"] <= 50
            assert 0 < stats["l1_bytes"] <= 200_000
        assert stats["l1_evictions"] > 100


async def test_values_are_shared_unless_each_reader_wants_its_own(redis_url: str, prefix: str) -> None:
    for copies in (False, True):
        near = NearOptions(copy_on_read=copies)
        async with CacheManager(redis_url, namespace=prefix, options=replace(OPTIONS, near=near)) as cache:
            await up(cache)
            await cache.set("k", {"list": [1]})
            await cache.get("k")
            one, two = await cache.get("k"), await cache.get("k")
            assert (one is not two) == copies
            if copies:
                one["list"].append(2)
                assert await cache.get("k") == {"list": [1]}
            assert hits(cache) >= 2


async def test_memory_mode_reads_its_own_writes_from_l1(prefix: str) -> None:
    async with CacheManager() as cache:
        for number in range(100):
            await cache.set("k", number, tags=["t"])
            assert await cache.get("k") == number
            assert await cache.get("k") == number
        assert (await cache.health_check()).l1 == "on"
        assert hits(cache) >= 100
        await cache.invalidate_tag("t")
        assert await cache.get("k") is None
        await cache.set("k", 1)
        assert await cache.get("k") == 1
        await cache.invalidate_all()
        assert await cache.get("k") is None
