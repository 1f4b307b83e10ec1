"""Calls of the same moment leave together, and stay apart for their callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.batch import BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import Overloaded


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
        before = (await server.execute("INFO", "stats")).decode()
        await asyncio.gather(*(cache.set(str(number), number) for number in range(300)))
        assert sum(await asyncio.gather(*(cache.delete(str(number)) for number in range(300)))) == 300
        after = (await server.execute("INFO", "stats")).decode()
        assert (await calls(server))["set"] == 300
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
    async with CacheManager(client=server, namespace=prefix, enable_compression=False) as cache:
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
    async with CacheManager(valkey_url, namespace=prefix, options=options) as cache:
        answers = await asyncio.gather(
            *(cache.get(str(number)) for number in range(50)), return_exceptions=True
        )
        assert sum(isinstance(answer, Overloaded) for answer in answers) == 40
        assert answers.count(None) == 10
