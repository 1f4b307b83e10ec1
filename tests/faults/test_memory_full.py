"""The server is out of memory and may not evict: the cache degrades, enqueues say so, workers live and drain."""

from __future__ import annotations

import asyncio
import random

import pytest

from aioinfra import task
from aioinfra.cache.manager import CacheManager
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import StoreFull
from aioinfra.jobs.client import JobClient
from aioinfra.testing import RedisServer
from tests.jobs.kit import until, working


async def test_jobs_that_were_stored_run_while_new_ones_are_refused_by_name(seed: int) -> None:
    draw = random.Random(seed)
    ran: list[int] = []

    @task(queue="full")
    async def note(number: int) -> None:
        await asyncio.sleep(draw.uniform(0, 0.02))
        ran.append(number)

    async with RedisServer() as server, RedisClient(server.url) as redis, CacheManager(server.url) as cache:
        client = note.client = JobClient(redis)
        stored = [await note.delay(number) for number in range(200)]
        await cache.set("before", "kept")
        async with working(server.url, note):
            await until(lambda: len(ran) >= draw.randint(1, 100))
            await server.admin("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(StoreFull):
                await note.delay(1_000)
            await cache.set("during", "in memory")
            assert await cache.get("during") == "in memory"
            assert await cache.get("before") == "kept"
            for job in stored:
                await job.result(timeout=15)
            assert sorted(ran) == list(range(200))
            await server.admin("CONFIG", "SET", "maxmemory", "0")
            await (await note.delay(1_001)).result(timeout=5)
            assert ran[-1] == 1_001
        await client.aclose()
