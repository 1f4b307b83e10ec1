"""A service that starts before its server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aioinfra import CacheManager, cached, task
from aioinfra.config import RedisUrl, Settings
from aioinfra.errors import StoreUnavailable
from aioinfra.jobs.job import JobRequest
from aioinfra.service import Service, ServiceOptions
from aioinfra.testing.servers import RedisServer
from tests.fair_time import fair_time
from tests.faults.workload import QUEUE, Journal, worker
from tests.jobs.kit import until

RECOVERS_WITHIN = 2.0


def service_of(cache: RedisServer, jobs: RedisServer) -> Service:
    settings = Settings(redis_url=RedisUrl(cache.url), jobs_redis_url=RedisUrl(jobs.url))
    return Service(ServiceOptions(settings=settings, configure_logging=False))


async def recovered(service: Service) -> None:
    async def is_ok() -> bool:
        return bool((await service.health())["status"] == "ok")

    since = fair_time()
    await until(is_ok, timeout=20)
    assert fair_time() - since <= RECOVERS_WITHIN


async def test_the_cache_answers_from_memory_until_its_server_comes() -> None:
    loads = 0

    @cached(ttl=60)
    async def load(number: int) -> int:
        nonlocal loads
        loads += 1
        return number * 2

    server = RedisServer()
    async with AsyncExitStack() as stack:
        jobs = await stack.enter_async_context(RedisServer())
        before = fair_time()
        service = await stack.enter_async_context(service_of(server, jobs))
        assert [await load(1), await load(1), await load(2)] == [2, 2, 4]
        assert loads == 2
        health = await service.health()
        assert fair_time() - before < 1.0
        assert (health["status"], health["cache"]["ok"], health["jobs"]["ok"]) == ("degraded", False, True)
        await stack.enter_async_context(server)
        await recovered(service)

        async def reaches_the_server() -> bool:
            """Not memory: a server that is slow for a budget begins another outage, on a busy machine."""
            await service.cache.set("after", 1)
            return bool(await server.admin("KEYS", "*:after"))

        await until(reaches_the_server)
        assert await load(1) == 2
        async with CacheManager(server.url) as other:
            assert await other.get("after") == 1


async def test_jobs_are_refused_clearly_until_their_server_comes() -> None:
    @task(queue="absent")
    async def work() -> None: ...

    server = RedisServer()
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(service_of(server, server))
        before = fair_time()
        waiting = [asyncio.create_task(work.delay()) for _ in range(20)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert fair_time() - before < 5.0
        assert all(isinstance(answer, StoreUnavailable) and not answer.sent for answer in answers)
        assert (await service.health())["status"] == "down"
        await stack.enter_async_context(server)
        await recovered(service)
        job = await work.delay()
        assert await job.status() == "queued"
        assert await server.admin("ZCARD", "absent") == 1  # what was refused is not there


async def test_a_job_enqueued_just_before_the_server_comes_is_stored() -> None:
    """Within the enqueue's own time the server's coming is waited for."""

    @task(queue="absent")
    async def work() -> None: ...

    server = RedisServer()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(service_of(server, server))
        enqueuing = asyncio.create_task(work.delay())
        await asyncio.sleep(0.5)
        assert not enqueuing.done()
        await stack.enter_async_context(server)
        assert (await enqueuing).created
        assert await server.admin("ZCARD", "absent") == 1


async def test_a_service_that_never_meets_its_server_closes_in_time() -> None:
    server = RedisServer()
    async with asyncio.timeout(3.0):
        async with service_of(server, server) as service:
            with pytest.raises(StoreUnavailable):
                await service.jobs.depths(["absent"])


async def test_a_worker_waits_for_its_server_and_then_works(tmp_path: Path) -> None:
    server = RedisServer()
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(worker(server.url, Journal(tmp_path / "journal")))
        await until(lambda: "does not answer" in process.output, timeout=20)
        await stack.enter_async_context(server)
        since = fair_time()
        await process.ready(20)
        assert fair_time() - since <= RECOVERS_WITHIN
        service = await stack.enter_async_context(service_of(server, server))
        job = await service.jobs.enqueue(JobRequest[int]("faults.work", (0.0,), queue=QUEUE))
        assert await job.result(timeout=20) == process.pid
        process.terminate()
        assert await process.exited() == 0
