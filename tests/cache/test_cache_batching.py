"""Calls of the same moment leave together, and stay apart for their callers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.batch import BatchLimits
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import Overloaded, PoolExhausted, ReplyTooLarge
from aioinfra.testing.proxy import FaultProxy
from aioinfra.testing.proxy_connection import Direction
from aioinfra.testing.toxics import Bandwidth
from tests.fair_time import fair_time


@pytest.fixture
async def server(own_server: Callable[..., Any]) -> AsyncIterator[RedisClient]:
    """A client of a server whose command counts are this test's alone."""
    async with RedisClient(own_server().url) as client:
        await client.execute("CONFIG", "RESETSTAT")
        yield client


async def calls(server: RedisClient) -> dict[str, int]:
    """How often each command ran."""
    lines = (await server.execute("INFO", "commandstats")).decode().split()
    return {
        name.removeprefix("cmdstat_"): int(rest.split(",")[0].removeprefix("calls="))
        for name, _, rest in (line.partition(":") for line in lines)
        if rest
    }


async def test_concurrent_gets_leave_as_few_mgets(server: RedisClient, prefix: str) -> None:
    async with CacheManager(client=server, namespace=prefix) as cache:
        await cache.mset({str(number): number for number in range(500)})
        await server.execute("CONFIG", "RESETSTAT")
        assert await asyncio.gather(*(cache.get(str(number)) for number in range(500))) == list(range(500))
        counted = await calls(server)
        assert counted.get("mget", 0) + counted.get("get", 0) <= 2


async def test_concurrent_sets_and_deletes_leave_as_one_pipeline(server: RedisClient, prefix: str) -> None:
    async with CacheManager(client=server, namespace=prefix) as cache:
        sets = (await calls(server)).get("set", 0)  # of the generation
        before = (await server.execute("INFO", "stats")).decode()
        await asyncio.gather(*(cache.set(str(number), number) for number in range(300)))
        assert sum(await asyncio.gather(*(cache.delete(str(number)) for number in range(300)))) == 300
        after = (await server.execute("INFO", "stats")).decode()
        assert (await calls(server))["set"] - sets == 300
        # All 600 commands came in a handful of reads from the socket.
        assert reads(after) - reads(before) <= 10


def reads(info: str) -> int:
    return int(next(line for line in info.split() if line.startswith("total_reads_processed")).split(":")[1])


async def test_a_hot_key_is_fetched_once_a_batch(server: RedisClient, prefix: str) -> None:
    async with CacheManager(client=server, namespace=prefix) as cache:
        await cache.set("hot", "x" * 900)
        before = await server.execute("INFO", "stats")
        assert await asyncio.gather(*(cache.get("hot") for _ in range(1000))) == ["x" * 900] * 1000
        sent = sent_bytes(await server.execute("INFO", "stats")) - sent_bytes(before)
        assert sent < 20_000


def sent_bytes(info: bytes) -> int:
    return int(
        next(line for line in info.split() if line.startswith(b"total_net_output_bytes")).split(b":")[1]
    )


async def test_large_values_come_in_several_reads(server: RedisClient, prefix: str) -> None:
    async with CacheManager(
        client=server, namespace=prefix, enable_compression=False, memory_cache_size=0
    ) as cache:
        large = {str(number): str(number) * 50_000 for number in range(100)}
        await cache.mset(large)
        await cache.get("1")
        for _ in range(2):
            values = await asyncio.gather(*(cache.get(key) for key in large))
            assert values == list(large.values())
        assert await cache.mget(large) == large
        assert (await calls(server))["mget"] >= 5


async def test_a_full_queue_refuses_instead_of_growing(valkey_url: str, prefix: str) -> None:
    options = CacheOptions(redis=RedisStoreOptions(limits=BatchLimits(max_waiting=10)))
    async with CacheManager(valkey_url, namespace=prefix, options=options, memory_cache_size=0) as cache:
        answers = await asyncio.gather(
            *(cache.get(str(number)) for number in range(50)), return_exceptions=True
        )
        assert sum(isinstance(answer, Overloaded) for answer in answers) == 40
        assert answers.count(None) == 10


# Size is no outage


async def test_a_hundred_thousand_keys_are_no_outage(valkey_url: str, prefix: str) -> None:
    values = {str(number): number for number in range(100_000)}
    options = CacheOptions(redis=RedisStoreOptions(budget=0.4))  # the calls take longer
    async with CacheManager(valkey_url, namespace=prefix, options=options) as cache:
        await cache.mset(values)
        assert await cache.mget(values) == values
        assert await cache.delete(*values) == len(values)
        assert cache.get_stats()["outages"] == 0


async def test_twenty_thousand_calls_at_once_are_no_outage(valkey_url: str, prefix: str) -> None:
    names = [str(number) for number in range(20_000)]
    options = CacheOptions(redis=RedisStoreOptions(budget=0.4))
    async with CacheManager(valkey_url, namespace=prefix, options=options) as cache:
        await asyncio.gather(*(cache.set(name, name) for name in names))
        assert await asyncio.gather(*(cache.get(name) for name in names)) == names
        # Gone again: among many keys that live long, the shared server would expire another test's late.
        assert await cache.delete(*names) == len(names)
        assert cache.get_stats()["outages"] == 0


async def test_large_values_on_a_slow_line_are_no_outage(own_server: Callable[..., Any], prefix: str) -> None:
    value = secrets.token_hex(5 << 20)
    async with FaultProxy(own_server().url) as proxy:
        proxy.toxic(Bandwidth(12 << 20), direction=Direction.BOTH)  # three budgets for the value
        async with CacheManager(proxy.url, namespace=prefix, enable_compression=False) as cache:
            started = time.monotonic()
            await cache.set("large", value)
            assert await cache.get("large") == value
            assert await cache.mget(["large"]) == {"large": value}
            assert time.monotonic() - started > 1.5
            assert cache.get_stats()["outages"] == 0


async def test_a_value_that_trickles_holds_nobody_for_long(
    own_server: Callable[..., Any], prefix: str
) -> None:
    """24 MiB at 5 MiB/s, faster than the slowest line that is waited for: the extra time has an end."""
    url = own_server().url
    async with CacheManager(url, namespace=prefix, enable_compression=False) as direct:
        await direct.set("large", "x" * (24 << 20))
    async with FaultProxy(url) as proxy, CacheManager(proxy.url, namespace=prefix) as cache:
        assert await cache.get("absent") is None
        async with asyncio.timeout(10):  # to connect may have taken a busy machine longer than the budget
            await cache.wait_healthy()
        proxy.toxic(Bandwidth(5 << 20), direction=Direction.BOTH)
        started, since = time.monotonic(), fair_time()
        assert await cache.get("large") is None
        assert time.monotonic() - started > 0.5
        assert fair_time() - since < 3.5


async def test_values_too_large_for_one_reply_are_read_in_several(valkey_url: str, prefix: str) -> None:
    large = {str(number): str(number % 10) * 50_000 for number in range(100)}
    async with RedisClient(valkey_url, PoolOptions(max_reply_bytes=1 << 20)) as client:
        async with CacheManager(client=client, namespace=prefix, enable_compression=False) as cache:
            await cache.mset(large)
            assert await cache.mget(large) == large
        async with CacheManager(client=client, namespace=prefix, enable_compression=False) as cache:
            assert await asyncio.gather(*(cache.get(key) for key in large)) == list(large.values())
            await client.execute("SET", prefix + "huge", b"x" * (2 << 20))
            with pytest.raises(ReplyTooLarge):
                await cache.get("huge")
            answers = await asyncio.gather(
                cache.mget(["0", "huge"]), cache.mget(["1"]), return_exceptions=True
            )
            assert isinstance(answers[0], ReplyTooLarge)
            assert answers[1] == {"1": large["1"]}
            assert cache.get_stats()["outages"] == 0


async def test_a_pool_that_others_keep_busy_is_back_pressure_and_no_outage(
    valkey_url: str, prefix: str
) -> None:
    options = PoolOptions(max_connections=2, acquire_timeout=0.1)
    async with (
        RedisClient(valkey_url, options) as client,
        CacheManager(client=client, namespace=prefix) as cache,
    ):
        await cache.set("a", 1)
        busy = [asyncio.create_task(client.execute("BLPOP", prefix + "none", 1.5)) for _ in range(2)]
        await asyncio.sleep(0)
        for call in (cache.get("a"), cache.set("a", 2), cache.mget(["a"]), cache.exists("a")):
            with pytest.raises(PoolExhausted):
                await call
        assert (await cache.health_check()).outage_seconds is None
        await asyncio.gather(*busy)
        assert await cache.get("a") == 1
        assert cache.get_stats()["outages"] == 0
