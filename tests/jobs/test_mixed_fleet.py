"""Plain arq workers and ours on one queue, fed by plain arq producers and ours: every job runs, and runs once.

`make chaos` runs 5,000 jobs, `make test` a tenth of them.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings, create_pool

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.arq import ArqCodec
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.testing.servers import RedisServer
from tests.faults.arq_workload import QUEUE, Told, our_worker, plain_worker, retried, to_json
from tests.faults.full_count import full_count
from tests.jobs.kit import until

Enqueue = Callable[[int, float | None], Awaitable[object]]


@asynccontextmanager
async def producers(url: str, codec: str) -> AsyncIterator[tuple[Enqueue, Enqueue]]:
    """arq's own client, and ours, both writing this format."""
    formats: dict[str, Any] = {}
    if codec == "json":
        formats = {"job_serializer": to_json, "job_deserializer": json.loads}
    plain = await create_pool(RedisSettings.from_dsn(url), **formats)
    async with RedisClient(url) as redis:
        ours = JobClient(redis, codec=ArqCodec() if codec == "pickle" else None)

        async def by_arq(number: int, delay: float | None) -> object:
            return await plain.enqueue_job("work", number, _defer_by=delay)

        async def by_us(number: int, delay: float | None) -> object:
            return await ours.enqueue(JobRequest[int]("work", (number,), queue=QUEUE, delay=delay))

        yield by_arq, by_us
        await ours.aclose()
    await plain.aclose(close_connection_pool=True)


async def _results(redis: RedisClient, codec: str) -> list[dict[str, Any]]:
    loads: Callable[[bytes], Any] = json.loads if codec == "json" else pickle.loads
    keys = await redis.execute("KEYS", "arq:result:*")  # the test's own server
    return [loads(value) for value in await redis.execute("MGET", *keys)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("codec", ["json", "pickle"])
async def test_every_job_of_a_mixed_fleet_runs_once(
    codec: str, tmp_path: Path, seed: int, pytestconfig: pytest.Config
) -> None:
    count = 5_000 if full_count(pytestconfig) else 500
    draw, told = random.Random(seed), Told(tmp_path / "told")
    settings = {"json": "JsonSettings", "pickle": "PickleSettings"}[codec]
    second = "service" if codec == "json" else settings  # a Service reads JSON
    names = {"plain 1", "plain 2", "ours 1", "ours 2"}
    async with RedisServer() as server, AsyncExitStack() as stack, RedisClient(server.url) as redis:
        url = server.url
        for name in ("plain 1", "plain 2"):
            stack.enter_context(plain_worker(url, told, name, settings))
        ours = [our_worker(url, told, "ours 1", settings), our_worker(url, told, "ours 2", second)]
        for worker in ours:
            await stack.enter_async_context(worker)
        await asyncio.gather(*(worker.ready() for worker in ours))
        clients = await stack.enter_async_context(producers(url, codec))

        async def produce(first: int) -> None:
            for number in range(first, count, 8):
                delay = draw.uniform(0, 1) if number % 7 == 0 else None
                assert await clients[number % 2](number, delay) is not None

        await asyncio.gather(*(produce(first) for first in range(8)))

        async def drained() -> bool:
            return bool(await redis.execute("ZCARD", QUEUE) == 0)

        await until(drained, timeout=240, every=0.1)
        results = await _results(redis, codec)
    assert sorted(result["r"] for result in results) == list(range(count))
    assert all(result["s"] for result in results)
    wanted = {
        (number, attempt) for number in range(count) for attempt in ((1, 2) if retried(number) else (1,))
    }
    starts = told.starts
    assert Counter((start.number, start.attempt) for start in starts) == Counter(wanted)
    assert {start.worker for start in starts} == names, "each took its part"


@pytest.mark.timeout(180)
async def test_a_fresh_job_starts_at_once_while_plain_workers_hold_all_that_is_before_it(
    tmp_path: Path, seed: int, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> None:
    """tests/jobs/test_arq_dropin.py has the same with the keys that they would hold."""
    count = 1_000 if full_count(pytestconfig) else 100
    draw, held, told = random.Random(seed), Told(tmp_path / "held"), Told(tmp_path / "told")
    async with RedisServer() as server, AsyncExitStack() as stack:
        plain = await create_pool(RedisSettings.from_dsn(server.url))
        await asyncio.gather(*(plain.enqueue_job("hold", number) for number in range(count)))
        for name in ("plain 1", "plain 2"):
            stack.enter_context(plain_worker(server.url, held, name, "PickleSettings", count // 2))
        await until(lambda: len(held.starts) == count, timeout=120, every=0.1)
        ours = await stack.enter_async_context(our_worker(server.url, told, "ours", "PickleSettings"))
        await ours.ready()
        delays = []
        for number in range(1, 30):
            await asyncio.sleep(draw.uniform(0, 0.1))
            before = time.time()
            await plain.enqueue_job("work", number)
            [start, *_] = await until(
                lambda number=number: [start for start in told.starts if start.number == number]
            )
            delays.append(start.at - before)
        assert await plain.zcard(QUEUE) >= count
        await plain.aclose(close_connection_pool=True)
    median, longest = sorted(delays)[len(delays) // 2], max(delays)
    request.node.user_properties.append(("median start beside held jobs, s", round(median, 4)))
    request.node.user_properties.append(("longest, s", round(longest, 4)))
    # Behind the held jobs it would wait for minutes. Room for a machine that is busy with much else.
    assert median < 0.25
    assert longest < 2
