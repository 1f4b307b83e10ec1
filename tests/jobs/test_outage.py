"""The server dies, hangs or comes late: what producers are told, and what workers make of it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import pytest

from aioinfra import task
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import EnqueueUncertain, StoreUnavailable
from aioinfra.jobs.client import ClientOptions, JobClient
from aioinfra.jobs.job import JobRequest
from tests.conftest import OwnServer, OwnServerFactory
from tests.fair_time import fair_time
from tests.jobs.kit import Recorder, engine, keys_of, until, working

SEEDS = pytest.mark.parametrize(
    "seed", range(int(os.environ.get("AIOINFRA_SEEDS", "1"))), ids="seed{}".format
)
"""AIOINFRA_SEEDS=20 runs the crashes with twenty seeds; ``-k seed7`` replays one."""

EVERY_WRITE = ("--appendfsync", "always")
"""With ``everysec`` a server may answer before it writes (while a sync is under way), and lose it in a crash."""


async def in_thread(call: Any, *args: Any) -> None:
    await asyncio.to_thread(call, *args)


@SEEDS
async def test_a_worker_outlives_a_crash_of_its_server_and_runs_each_job_once(
    own_server: OwnServerFactory, queue: str, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """The lease is shorter than the outage: what runs here is taken back, what has ended is recorded first."""
    server = own_server(*EVERY_WRITE)
    draw = random.Random(seed)
    starts: Counter[int] = Counter()
    started_at: list[float] = []
    seen = Recorder()

    @task(queue=queue)
    async def work(number: int, seconds: float) -> int:
        starts[number] += 1
        started_at.append(time.monotonic())
        await asyncio.sleep(seconds)
        return number

    async with RedisClient(server.url) as redis:
        client = JobClient(redis)
        options = engine(lease=0.8, observer=seen)
        async with working(server.url, work, options=options, concurrency=30) as worker:
            jobs = await client.enqueue_many([work.job(n, draw.uniform(0.05, 1.2)) for n in range(80)])
            await until(lambda: len(starts) >= 35)
            waiting = [asyncio.create_task(job.result(timeout=20)) for job in jobs]
            await asyncio.sleep(draw.uniform(0, 0.05))
            await in_thread(server.kill)
            await asyncio.sleep(1.5)
            await in_thread(server.start)
            answered = time.monotonic()
            results = await asyncio.gather(*waiting)
            assert results == list(range(80))
            resumed = min(at for at in started_at if at > answered) - answered
            assert resumed <= 1.0
            assert worker.jobs_complete == 80
            await until(lambda: _holds(redis, "ZCARD", queue, 0))
        assert set(starts.values()) == {1}
        assert {frozenset(await keys_of(redis, job.id)) for job in jobs} == {frozenset({"arq:result"})}
        await client.aclose()
    assert seen.errors["claim"] + seen.errors["finish"] > 0
    assert caplog.text.count("cannot claim jobs") <= 1  # once an outage, not once an attempt
    assert caplog.text.count("leases not renewed") <= 1


async def _holds(redis: RedisClient, command: str, key: str, answer: Any) -> bool:
    return bool(await redis.execute(command, key) == answer)


async def test_a_finish_waits_for_its_server_and_is_recorded_once(
    own_server: OwnServerFactory, queue: str
) -> None:
    server = own_server(*EVERY_WRITE)
    seen = Recorder()
    go_on = asyncio.Event()

    @task(queue=queue)
    async def work() -> str:
        await go_on.wait()
        return "done"

    async with RedisClient(server.url) as redis:
        client = JobClient(redis)
        work.client = client
        async with working(server.url, work, options=engine(observer=seen)):
            job = await work.delay()
            await until(lambda: seen.starts)
            await in_thread(server.kill)
            go_on.set()
            await until(lambda: seen.errors["finish"] >= 2)
            assert seen.outcomes == {"succeeded": 1}
            await in_thread(server.start)
            assert await job.result(timeout=5) == "done"
        assert seen.starts == [queue]
        await client.aclose()


async def test_a_worker_stops_in_bounded_time_while_its_server_is_gone(
    own_server: OwnServerFactory, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioinfra.jobs.worker._RECORD_GRACE", 0.5)
    server = own_server()
    ended = asyncio.Event()

    @task(queue=queue)
    async def work() -> None:
        await ended.wait()

    async with RedisClient(server.url) as redis:
        client = JobClient(redis)
        work.client = client
        async with working(server.url, work, options=engine(lease=0.5)) as worker:
            await work.delay()
            await until(lambda: worker.tasks)
            await in_thread(server.kill)
            before = fair_time()
            await worker.close()
            assert (
                fair_time() - before < 3
            )  # it tries to record for a while, then leaves the job to its lease
        await client.aclose()


@SEEDS
async def test_enqueue_under_a_crash_never_lies(own_server: OwnServerFactory, queue: str, seed: int) -> None:
    """20 producers: what was acknowledged is there, what was refused is not, and nothing is called a duplicate."""
    server = own_server(*EVERY_WRITE)
    over = asyncio.Event()
    acknowledged: list[str] = []
    uncertain: list[str] = []
    refused: list[str] = []

    async def produce(client: JobClient, producer: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            chosen = f"{queue}:{producer}:{number}"
            request = JobRequest[Any]("none", queue=queue, job_id=chosen if number % 2 else None)
            try:
                job = await client.enqueue(request)
            except EnqueueUncertain as error:
                uncertain.append(error.job_id)
            except StoreUnavailable:
                refused.append(chosen)
            else:
                assert job.created, "its id is nobody else's"
                acknowledged.append(job.id)
            await asyncio.sleep(0)

    pools = [RedisClient(server.url, PoolOptions(socket_timeout=1.0)) for _ in range(4)]
    patience = (0.15, 0.15, 3.0, 3.0)  # half of them give up before the server is back
    clients = [
        JobClient(pool, options=ClientOptions(timeout=t)) for pool, t in zip(pools, patience, strict=True)
    ]
    producers = [asyncio.create_task(produce(clients[at % 4], at)) for at in range(20)]
    draw = random.Random(seed)
    for crash in range(1, 4):
        await until(lambda least=200 * crash: len(acknowledged) > least)
        await asyncio.sleep(draw.uniform(0, 0.02))
        await in_thread(server.kill)
        await asyncio.sleep(draw.uniform(0.1, 0.5))
        await in_thread(server.start)
    await until(lambda: len(acknowledged) > 800)
    over.set()
    await asyncio.gather(*producers)
    async with RedisClient(server.url) as redis:
        stored = {member.decode() for member in await redis.execute("ZRANGE", queue, 0, -1)}
        payloads = await redis.pipeline([("EXISTS", f"arq:job:{job_id}") for job_id in stored])
    assert set(payloads) == {1}
    assert set(acknowledged) <= stored
    assert stored <= set(acknowledged) | set(uncertain)
    assert not stored & set(refused)
    assert len(set(acknowledged)) == len(acknowledged)
    assert uncertain or refused  # the crashes were noticed
    for client, pool in zip(clients, pools, strict=True):
        await client.aclose()
        await pool.aclose()


async def test_enqueue_is_bounded_and_says_what_it_knows(own_server: OwnServerFactory, queue: str) -> None:
    server = own_server()
    async with RedisClient(server.url) as redis:
        client = JobClient(redis, options=ClientOptions(timeout=0.4))
        request = JobRequest[Any]("none", queue=queue)
        await client.enqueue(request)
        server.stop_process()
        try:
            before, since = time.monotonic(), fair_time()
            with pytest.raises(EnqueueUncertain) as caught:
                await client.enqueue(request)
            assert time.monotonic() - before > 0.3
            assert fair_time() - since < 1.8
        finally:
            server.continue_process()
        await until(lambda: _holds(redis, "ZCARD", queue, 2))  # it had been sent, and took effect
        assert await client.handle(caught.value.job_id, queue).status() == "queued"
        await in_thread(server.kill)
        before = fair_time()
        with pytest.raises(StoreUnavailable):
            await client.enqueue(request)
        assert fair_time() - before < 1.8
        await client.aclose()


async def test_a_hung_server_delays_a_worker_and_does_not_end_it(
    own_server: OwnServerFactory, queue: str
) -> None:
    server = own_server()

    @task(queue=queue)
    async def double(number: int) -> int:
        return number * 2

    async with RedisClient(server.url) as redis:
        client = JobClient(redis)
        double.client = client
        async with working(
            server.url,
            double,
            options=engine(lease=1.0, pool=PoolOptions(max_connections=8, socket_timeout=0.5)),
        ):
            assert await (await double.delay(1)).result(timeout=5) == 2
            await _hang(server, 1.5)
            before = fair_time()
            assert await (await double.delay(2)).result(timeout=10) == 4
            assert fair_time() - before < 2.5
        await client.aclose()


async def _hang(server: OwnServer, seconds: float) -> None:
    server.stop_process()
    try:
        await asyncio.sleep(seconds)
    finally:
        server.continue_process()


async def test_a_repeat_after_a_lost_reply_finds_its_own_job(
    own_server: OwnServerFactory, queue: str
) -> None:
    """The reply is lost on purpose: the first attempt's connection is cut while the server is stopped."""
    server = own_server()
    async with RedisClient(server.url) as redis:
        client = JobClient(redis, options=ClientOptions(timeout=5.0))
        await client.enqueue(JobRequest[Any]("none", queue=queue))
        server.stop_process()
        waiting = asyncio.create_task(
            client.enqueue(JobRequest[Any]("none", queue=queue, job_id=f"{queue}:chosen"))
        )
        await asyncio.sleep(0.1)
        assert redis._dispatcher is not None
        for wire in list(redis._dispatcher._wires):
            wire.abort()
        server.continue_process()
        job = await waiting
        assert job.created
        assert await redis.execute("ZCARD", queue) == 2
        await client.aclose()
