"""The server takes no commands for a while, by its own CLIENT PAUSE: as a hang, but it answers afterwards."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from aioinfra import task
from aioinfra.cache.manager import CacheManager
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import EnqueueUncertain, StoreUnavailable
from aioinfra.jobs.client import JobClient
from aioinfra.testing import RedisServer
from tests.jobs.kit import until, working

SLACK = 0.35  # seconds of a busy machine


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
                before = time.monotonic()
                await cache.set("k", draw.random())
                await cache.get("k")
                longest["cache"] = max(longest["cache"], (time.monotonic() - before) / 2)
                await asyncio.sleep(draw.uniform(0, 0.1))

        async def enqueue(number: int) -> None:
            before = time.monotonic()
            try:
                await note.delay(number)
            except EnqueueUncertain:
                unknown.add(number)
            except StoreUnavailable:
                refused.add(number)
            longest["enqueue"] = max(longest["enqueue"], time.monotonic() - before)

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
