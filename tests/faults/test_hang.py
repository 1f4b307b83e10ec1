"""The server hangs (SIGSTOP): its sockets stay open and say nothing. No call takes longer than its budget."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.store import MISS
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import EnqueueUncertain, StoreUnavailable
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from tests.conftest import OwnServer, OwnServerFactory
from tests.fair_time import fair_time
from tests.jobs.kit import until

CACHE_BUDGET = 0.25
QUEUE_BUDGET = 2.0
SLACK = 0.35  # seconds that a busy machine may add
HANG = 2.5  # seconds; longer than every budget, and than the pool's socket timeout


@asynccontextmanager
async def stopped(server: OwnServer) -> AsyncIterator[None]:
    """The server is stopped for the time of the block."""
    server.stop_process()
    try:
        yield
    finally:
        server.continue_process()


async def timed(call: Awaitable[Any]) -> tuple[float, Any]:
    """Seconds that a call took, and its result or error."""
    before = fair_time()
    try:
        result: Any = await call
    except StoreUnavailable as error:
        result = error
    except EnqueueUncertain as error:
        result = error
    return fair_time() - before, result


async def test_no_cache_call_takes_longer_than_its_budget(
    own_server: OwnServerFactory, prefix: str, seed: int
) -> None:
    server = own_server(tcp=seed % 2 == 0)
    draw = random.Random(seed)
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.mset({str(n): f"before {n}" for n in range(20)})

        async def load() -> str:
            return "loaded"

        calls: list[Callable[[str], Awaitable[Any]]] = [
            lambda key: cache.get(key, MISS),
            lambda key: cache.mget([key, "0"]),
            lambda key: cache.set(key, "during"),
            cache.delete,
            cache.exists,
            lambda key: cache.get_or_load(key, load),
        ]
        taken: list[float] = []

        async def user(until: float) -> None:
            while time.monotonic() < until:
                seconds, _ = await timed(draw.choice(calls)(str(draw.randrange(20))))
                taken.append(seconds)
                await asyncio.sleep(0.002)

        async with stopped(server):
            async with asyncio.timeout(HANG + 5):
                await asyncio.gather(*[user(time.monotonic() + HANG) for _ in range(20)])
        assert max(taken) < CACHE_BUDGET + SLACK
        async with asyncio.timeout(10):
            await cache.wait_healthy()
        found = await cache.mget([str(n) for n in range(20)])
        assert all(found[key] in (f"before {key}", "loaded") for key in found), found
        await cache.set("after", 1)
        assert await cache.get("after") == 1


async def test_no_enqueue_takes_longer_than_its_budget_and_none_is_lost(
    own_server: OwnServerFactory, prefix: str
) -> None:
    server = own_server()
    queue = f"{prefix}queue"
    async with RedisClient(server.url) as redis:
        client = JobClient(redis)
        handles = [await client.enqueue(JobRequest[Any]("none", queue=queue))]
        async with stopped(server):
            began = time.monotonic()
            calls = [client.enqueue(JobRequest[Any]("none", queue=queue)) for _ in range(30)]
            ended = await asyncio.gather(*[timed(call) for call in calls])
            await asyncio.sleep(max(0.0, began + HANG - time.monotonic()))
        assert max(seconds for seconds, _ in ended) < QUEUE_BUDGET + SLACK
        uncertain = {result.job_id for _, result in ended if isinstance(result, EnqueueUncertain)}
        refused = [result for _, result in ended if isinstance(result, StoreUnavailable)]
        assert len(uncertain) + len(refused) == 30
        assert not any(error.sent for error in refused)
        handles.append(await client.enqueue(JobRequest[Any]("none", queue=queue)))
        stored = {member.decode() for member in await redis.execute("ZRANGE", queue, 0, -1)}
        assert {handle.id for handle in handles} <= stored
        assert stored <= {handle.id for handle in handles} | uncertain
        await client.aclose()


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_a_hundred_callers_of_a_cold_pool_wait_side_by_side(
    own_server: OwnServerFactory, tcp: bool
) -> None:
    server = own_server(tcp=tcp)
    timeout = 0.5
    options = PoolOptions(socket_timeout=timeout, connect_timeout=timeout, acquire_timeout=timeout)
    async with stopped(server), RedisClient(server.url, options) as client:
        before = fair_time()
        ended = await asyncio.gather(*[timed(client.execute("PING")) for _ in range(100)])
        # One convoy through 50 connections would be 2 timeouts, through one connection 100.
        assert fair_time() - before < timeout + SLACK
        assert all(isinstance(result, StoreUnavailable) for _, result in ended)


async def test_a_hundred_cache_readers_of_a_cold_pool_wait_one_budget(
    own_server: OwnServerFactory, prefix: str
) -> None:
    server = own_server(tcp=True)
    async with stopped(server):
        before = fair_time()
        async with CacheManager(server.url, namespace=prefix) as cache:
            opened = fair_time() - before
            assert opened < 1.0 + SLACK
            ended = await asyncio.gather(*[timed(cache.get("k", "unknown")) for _ in range(100)])
            assert max(seconds for seconds, _ in ended) < CACHE_BUDGET + SLACK
            assert {result for _, result in ended} == {"unknown"}


async def test_after_a_hang_the_pool_answers_each_caller_its_own(
    own_server: OwnServerFactory, seed: int
) -> None:
    """Replies to calls that were given up must not reach those who come later."""
    server = own_server()
    draw = random.Random(seed)
    async with RedisClient(server.url, PoolOptions(max_connections=5, socket_timeout=5.0)) as client:
        await asyncio.gather(*[client.ping() for _ in range(20)])
        async with stopped(server):
            given_up = [
                asyncio.create_task(client.execute("ECHO", f"old {n}", deadline=draw.uniform(0.01, 0.2)))
                for n in range(20)
            ]
            await asyncio.wait(given_up)
            assert all(isinstance(task.exception(), StoreUnavailable) for task in given_up)
        answers = await asyncio.gather(*[client.execute("ECHO", f"new {n}") for n in range(50)])
        assert answers == [f"new {n}".encode() for n in range(50)]
        await until(lambda: client.figures().in_use == 0)  # the old answers may come later than the new ones
