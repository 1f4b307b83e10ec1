"""The server takes no commands for a while, by its own CLIENT PAUSE: as a hang, but it answers afterwards."""

from __future__ import annotations

import asyncio
import random

import pytest

from aioinfra import task
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import EnqueueUncertain, StoreUnavailable
from aioinfra.jobs.client import JobClient
from aioinfra.testing import RedisServer
from tests.fair_time import fair_time
from tests.jobs.kit import until, working

SLACK = 0.35  # seconds of a busy machine
PATIENT = CacheOptions(redis=RedisStoreOptions(budget=5.0))  # waits for the end of the pause


@pytest.mark.parametrize("mode", ["WRITE", "ALL"])
async def test_no_call_outlasts_its_budget_and_no_job_is_lost(seed: int, mode: str) -> None:
    draw = random.Random(seed)
    ran: list[int] = []

    @task(queue="paused")
    async def note(number: int) -> None:
        ran.append(number)

    async with RedisServer() as server, RedisClient(server.url) as redis, CacheManager(server.url) as cache:
        client = note.client = JobClient(redis)
        longest = {"cache": 0.0, "enqueue": 0.0}
        unknown: set[int] = set()

        async def use_cache() -> None:
            for _ in range(10):
                before = fair_time()
                await cache.set("k", draw.random())
                await cache.get("k")
                longest["cache"] = max(longest["cache"], (fair_time() - before) / 2)
                await asyncio.sleep(draw.uniform(0, 0.1))

        async def enqueue(number: int) -> None:
            before = fair_time()
            try:
                await note.delay(number)
            except EnqueueUncertain:
                unknown.add(number)
            except StoreUnavailable:
                refused.add(number)
            longest["enqueue"] = max(longest["enqueue"], fair_time() - before)

        refused: set[int] = set()
        async with working(server.url, note):
            await enqueue(-1)
            await server.admin("CLIENT", "PAUSE", int(draw.uniform(500, 2_500)), mode)
            async with asyncio.timeout(20):
                await asyncio.gather(use_cache(), *[enqueue(number) for number in range(20)])
            await until(lambda: set(range(-1, 20)) - unknown - refused <= set(ran), timeout=15)
        assert longest["cache"] <= 0.25 + SLACK
        assert longest["enqueue"] <= 2.0 + SLACK
        assert len(ran) == len(set(ran))
        assert not refused & set(ran)
        await client.aclose()


@pytest.mark.parametrize("mode", ["WRITE", "ALL"])
async def test_a_cache_is_within_its_budget_and_nothing_old_is_read_after_it(
    seed: int, mode: str, prefix: str
) -> None:
    """One cache is in an outage meanwhile, another waits: what each of them wrote last is what both read."""
    draw = random.Random(seed)
    keys = [f"k{number}" for number in range(10)]
    async with (
        RedisServer() as server,
        CacheManager(server.url, namespace=prefix) as cache,
        RedisClient(server.url, PoolOptions(socket_timeout=10.0)) as patient,
        CacheManager(client=patient, namespace=prefix, options=PATIENT) as other,
    ):
        old = dict.fromkeys(keys, "old")
        await cache.mset(old, ttl=600)
        assert await cache.mget(keys) == await other.mget(keys) == old
        await server.admin("CLIENT", "PAUSE", int(draw.uniform(500, 2_500)), mode)
        theirs = [key for key in keys if draw.random() < 0.5]
        writes = [asyncio.create_task(other.set(key, "theirs", ttl=600)) for key in theirs]
        longest = 0.0
        for key in keys:
            if key not in theirs:
                before = fair_time()
                await cache.set(key, "ours", ttl=600)
                longest = max(longest, fair_time() - before)
                assert await cache.get(key) == "ours"
        assert longest <= 0.25 + SLACK
        async with asyncio.timeout(20):
            await asyncio.gather(*writes)
            await cache.wait_healthy()
            assert await cache.barrier(10.0)
            assert await other.barrier(10.0)
        # What was written in the outage is forgotten when the server is back: absent, never older.
        for key in keys:
            right = {"theirs"} if key in theirs else {"ours", None}
            found = {await reader.get(key) for reader in (cache, other)}
            assert found <= right
            assert len(found) == 1
