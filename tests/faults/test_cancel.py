"""Cancelled at every await: no poisoned connection, no leaked slot, lock or flight, and the next call works."""

from __future__ import annotations

import asyncio
import gc
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aioinfra.cache.decorator import cached
from aioinfra.cache.manager import CacheManager
from aioinfra.connection.embedded import EmbeddedOptions, start_embedded_async
from aioinfra.connection.file_lock import FileLock
from aioinfra.connection.pool import PoolOptions, RedisClient, Script
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from aioinfra.testing import CancelledRun, cancel_at_each_suspension
from tests.jobs.kit import until

SMALL = PoolOptions(max_connections=2, acquire_timeout=0.5)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    """Two connections only: a leaked one is missed at once."""
    async with RedisClient(redis_url, SMALL) as opened:
        yield opened


@pytest.fixture
async def cache(redis_url: str, prefix: str) -> AsyncIterator[CacheManager]:
    async with CacheManager(redis_url, max_connections=2, namespace=prefix) as opened:
        yield opened


async def in_step(client: RedisClient) -> None:
    """Every connection is free again and answers what it is asked."""
    await until(lambda: client.figures().in_use == 0)
    texts = [f"check {number}" for number in range(6)]
    answers = await asyncio.gather(*[client.execute("ECHO", text) for text in texts])
    assert answers == [text.encode() for text in texts]


# The pool

SCRIPT = Script("cancel", "return ARGV[1]")


@pytest.mark.parametrize(
    "call",
    [
        lambda client, key: client.execute("GET", key),
        lambda client, key: client.execute("SET", key, "v", "EX", 60),
        lambda client, key: client.execute("GET", key, deadline=5.0),
        lambda client, key: client.pipeline([("SET", key, "v", "EX", 60), ("GET", key)]),
        lambda client, key: client.run_script(SCRIPT, [key], ["x"], deadline=5.0),
        lambda client, key: client.execute("BLPOP", key + "none", "0.02"),
    ],
    ids=["get", "set", "deadline", "pipeline", "script", "blocking"],
)
async def test_calls_through_a_pool(
    client: RedisClient, prefix: str, call: Callable[[RedisClient, str], Any]
) -> None:
    async def check(run: CancelledRun) -> None:
        await in_step(client)

    # Many at once, so that some wait for a connection.
    async def crowd() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call(client, prefix + "other"))
            await call(client, prefix + "k")

    for make in (lambda: call(client, prefix + "k"), crowd):
        report = await cancel_at_each_suspension(make, check)
        assert report.suspensions >= 1
        assert not report.findings


async def test_a_pool_from_its_opening_to_its_close(redis_url: str, prefix: str) -> None:
    process = psutil.Process()

    async def whole_life() -> None:
        async with RedisClient(redis_url, SMALL) as client:
            await client.execute("SET", prefix + "k", "v", "EX", 60)
            await client.pipeline([("GET", prefix + "k")] * 3)

    await whole_life()
    gc.collect()
    before = process.num_fds()

    async def check(run: CancelledRun) -> None:
        await until(lambda: process.num_fds() <= before)

    report = await cancel_at_each_suspension(whole_life, check)
    assert report.suspensions >= 3
    assert not report.findings


# The cache


async def test_plain_calls_of_a_cache(cache: CacheManager) -> None:
    assert cache._backend is not None
    client = cache._backend.client
    assert client is not None
    calls: list[Callable[[], Any]] = [
        lambda: cache.set("k", "v"),
        lambda: cache.get("k"),
        lambda: cache.mset({"k": "v", "other": "o"}),
        lambda: cache.mget(["k", "other"]),
        lambda: cache.exists("k"),
        lambda: cache.delete("other"),
        lambda: cache.clear("oth*"),
        cache.health_check,
    ]

    async def check(run: CancelledRun) -> None:
        await in_step(client)
        await cache.set("k", "v")
        assert await cache.get("k") == "v"

    for call in calls:
        report = await cancel_at_each_suspension(call, check)
        assert report.suspensions >= 1
        assert not report.findings
    assert cache.get_stats()["outages"] == 0


async def test_loading_through_a_cache(cache: CacheManager) -> None:
    numbers = itertools.count()
    loads: list[str] = []

    async def load(key: str) -> str:
        loads.append(key)
        await asyncio.sleep(0)
        await cache.get("unrelated")
        return key

    def make() -> Any:
        key = f"k{next(numbers)}"
        return cache.get_or_load(key, lambda: load(key))

    async def check(run: CancelledRun) -> None:
        # The load goes on for others who want it, and lands.
        await until(lambda: not cache._reads.flights._tasks)
        assert not cache._reads.flights._by_key
        await cache.set("after", run.suspension)
        assert await cache.get("after") == run.suspension

    report = await cancel_at_each_suspension(make, check)
    assert report.suspensions >= 2
    assert not report.findings
    assert len(loads) == len(set(loads))  # nothing was loaded twice


async def test_one_caller_of_a_load_is_cancelled_and_the_others_are_not(cache: CacheManager) -> None:
    numbers = itertools.count()
    others: list[asyncio.Task[str]] = []

    async def make() -> str:
        key = f"k{next(numbers)}"

        async def load() -> str:
            await asyncio.sleep(0.001)
            return key

        async def other() -> str:
            return str(await cache.get_or_load(key, load))

        first = asyncio.create_task(other())
        others.append(first)
        await asyncio.sleep(0)
        return str(await cache.get_or_load(key, load))

    async def check(run: CancelledRun) -> None:
        assert await asyncio.wait_for(others[-1], 5) == f"k{len(others) - 1}"

    report = await cancel_at_each_suspension(make, check)
    assert not report.findings
    assert await others[-1] == report.result


async def test_a_decorated_function(cache: CacheManager) -> None:
    calls = 0

    @cached(cache=cache)
    async def square(number: int) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return number * number

    numbers = itertools.count()

    async def check(run: CancelledRun) -> None:
        await until(lambda: not cache._reads.flights._tasks)
        before = calls
        assert await square(1_000_000 + calls) == (1_000_000 + before) ** 2

    report = await cancel_at_each_suspension(lambda: square(next(numbers)), check)
    assert report.suspensions >= 2
    assert not report.findings


async def test_a_cache_from_its_opening_to_its_close(redis_url: str, prefix: str) -> None:
    process = psutil.Process()

    async def whole_life() -> None:
        async with CacheManager(redis_url, namespace=prefix) as cache:
            await cache.set("k", "v")
            assert await cache.get("k") == "v"

    await whole_life()
    gc.collect()
    before, tasks = process.num_fds(), len(asyncio.all_tasks())

    async def check(run: CancelledRun) -> None:
        await until(lambda: process.num_fds() <= before and len(asyncio.all_tasks()) <= tasks)

    report = await cancel_at_each_suspension(whole_life, check)
    assert report.suspensions >= 3
    assert not report.findings


# Enqueueing


async def test_an_enqueue(client: RedisClient, prefix: str) -> None:
    queue = f"{prefix}queue"
    jobs = JobClient(client)
    numbers = itertools.count()
    tried: list[str] = []

    def make() -> Any:
        tried.append(f"{queue}:{next(numbers)}")
        return jobs.enqueue(JobRequest[Any]("none", queue=queue, job_id=tried[-1]))

    async def check(run: CancelledRun) -> None:
        await in_step(client)
        job = await jobs.enqueue(JobRequest[Any]("none", queue=queue))
        members = {member.decode() for member in await client.execute("ZRANGE", queue, 0, -1)}
        assert job.id in members
        # Stored whole or not at all: every member has its payload.
        payloads = await client.pipeline([("EXISTS", f"arq:job:{member}") for member in members])
        assert set(payloads) == {1}
        # And enqueued again it is one job.
        await jobs.enqueue(JobRequest[Any]("none", queue=queue, job_id=tried[-1]))
        members = {member.decode() for member in await client.execute("ZRANGE", queue, 0, -1)}
        assert tried[-1] in members

    report = await cancel_at_each_suspension(make, check)
    assert report.suspensions >= 1
    assert not report.findings
    many = [JobRequest[Any]("none", queue=queue) for _ in range(1_200)]
    tried.append(f"{queue}:many")
    report_many = await cancel_at_each_suspension(lambda: jobs.enqueue_many(many), check)
    assert not report_many.findings
    await jobs.aclose()


async def test_a_client_from_its_first_job_to_its_close(client: RedisClient, prefix: str) -> None:
    tasks = len(asyncio.all_tasks())

    async def whole_life() -> None:
        jobs = JobClient(client)
        try:
            await jobs.enqueue(JobRequest[Any]("none", queue=f"{prefix}queue"))
        finally:
            await jobs.aclose()

    async def check(run: CancelledRun) -> None:
        await in_step(client)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)

    report = await cancel_at_each_suspension(whole_life, check)
    assert report.suspensions >= 1
    assert not report.findings


# The embedded server


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """Short, because the server's socket has its path; ended when nobody uses it any more."""
    path = Path(tempfile.mkdtemp(prefix="aioinfra-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_a_start_of_the_embedded_server(state_dir: Path) -> None:
    options = EmbeddedOptions(state_dir=state_dir / "state")
    users = state_dir / "state" / "users.lock"

    async def use() -> None:
        server = await start_embedded_async(options)
        server.close()

    def nobody_uses_it() -> bool:
        if not users.exists():  # the start goes on in its thread, and has not got that far
            return False
        lock = FileLock(users)
        if not lock.acquire(deadline=0.0):
            return False
        lock.release()
        return True

    async def check(run: CancelledRun) -> None:
        await until(nobody_uses_it)

    report = await cancel_at_each_suspension(use, check)
    assert report.suspensions >= 1
    assert not report.findings
    await until(nobody_uses_it)
    await until(lambda: not _processes_of(state_dir), timeout=5.0)


def _processes_of(directory: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(directory) in part for part in process.info["cmdline"] or ())
    ]
