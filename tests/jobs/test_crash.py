"""Workers that are killed, stopped or blocked: real processes, real seconds."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import Any, NamedTuple

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import JobFailed
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest
from tests.fair_time import fair_time
from tests.jobs.fleet import processes
from tests.jobs.kit import keys_of, until


class Told(NamedTuple):
    """One line of what the worker processes tell."""

    event: str
    job_id: str
    pid: int
    attempt: int
    stalls: int
    at: float


async def told(redis: RedisClient, queue: str, event: str = "start") -> list[Told]:
    lines = await redis.execute("LRANGE", f"{queue}:told", 0, -1)
    parts = [line.decode().split() for line in lines]
    all_of_it = [Told(p[0], p[1], int(p[2]), int(p[3]), int(p[4]), float(p[5])) for p in parts]
    return [one for one in all_of_it if one.event == event]


async def test_a_killed_workers_jobs_start_again_within_the_lease_and_two_seconds(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    """Two workers, 20 jobs in the one that dies, a lease of 5 s: no try is consumed."""
    lease = 5.0
    with processes(valkey_url, queue, ("worker", str(lease))) as [victim]:
        request = JobRequest[Any]("fleet.wait", (8.0,), queue=queue)
        jobs = await valkey_client.enqueue_many([request] * 20)
        await until(lambda: _count(valkey, queue, 20), timeout=15)
        with processes(valkey_url, queue, ("worker", str(lease))) as [heir]:
            probe = await valkey_client.enqueue(JobRequest[Any]("fleet.wait", (0.0,), queue=queue))
            await probe.result(timeout=15)
            await until(lambda: _count(valkey, queue, 21))
            await asyncio.sleep(1.5)  # somewhere between two renewals
            victim.kill()
            died = time.time()
            await until(lambda: _count(valkey, queue, 41), timeout=lease + 5)
            again = [one for one in await told(valkey, queue) if one.at > died]
            assert {one.job_id for one in again} == {job.id for job in jobs}
            assert {(one.pid, one.attempt, one.stalls) for one in again} == {(heir.popen.pid, 1, 1)}
            assert max(one.at for one in again) - died <= lease + 2


async def _count(redis: RedisClient, queue: str, least: int) -> bool:
    return len(await told(redis, queue)) >= least


async def test_blocked_stopped_and_poisoned_workers(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, prefix: str
) -> None:
    """Three stories side by side, since each is mostly waiting; a failure's traceback names its story."""
    await asyncio.gather(
        *(
            story(valkey_url, valkey, valkey_client, f"{prefix}{story.__name__}")
            for story in (
                a_job_that_blocks_the_loop_for_more_than_two_leases_runs_once,
                a_stopped_worker_that_continues_cannot_overwrite_its_heirs_result,
                a_job_that_kills_its_workers_is_buried_as_poison,
            )
        )
    )


async def a_job_that_blocks_the_loop_for_more_than_two_leases_runs_once(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    with processes(valkey_url, queue, ("worker", "1"), ("worker", "1")):
        job = await valkey_client.enqueue(JobRequest[Any]("fleet.block", (3.5,), queue=queue))
        beside = await valkey_client.enqueue_many([JobRequest[Any]("fleet.wait", (0.3,), queue=queue)] * 6)
        await job.result(timeout=20)
        await asyncio.gather(*(other.result(timeout=10) for other in beside))
        starts = Counter(one.job_id for one in await told(valkey, queue))
        assert starts == Counter([job.id, *(other.id for other in beside)])


async def a_stopped_worker_that_continues_cannot_overwrite_its_heirs_result(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    with processes(valkey_url, queue, ("worker", "1")) as [stale]:
        job = await valkey_client.enqueue(JobRequest[Any]("fleet.wait", (1.0,), queue=queue))
        await until(lambda: _count(valkey, queue, 1), timeout=15)
        stale.send(signal.SIGSTOP)
        with processes(valkey_url, queue, ("worker", "1")) as [heir]:
            await until(lambda: _count(valkey, queue, 2), timeout=15)
            stale.send(signal.SIGCONT)  # both are running it now; the stale one ends first
            await until(lambda: _ended(valkey, queue, stale.popen.pid))
            assert await job.result(timeout=10) == heir.popen.pid
            info = await job.info()
            assert info is not None
            await until(lambda: _ended(valkey, queue, heir.popen.pid))
            assert [one.stalls for one in await told(valkey, queue)] == [0, 1]
            assert await keys_of(valkey, job.id) == {"arq:result"}
            fresh = await valkey_client.enqueue(JobRequest[Any]("fleet.wait", (0.0,), queue=queue))
            assert await fresh.result(timeout=10) in (stale.popen.pid, heir.popen.pid)  # both go on


async def _ended(redis: RedisClient, queue: str, pid: int) -> bool:
    return any(one.pid == pid for one in await told(redis, queue, "end"))


async def a_job_that_kills_its_workers_is_buried_as_poison(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    poison = await valkey_client.enqueue(JobRequest[Any]("fleet.die", queue=queue))
    for _ in range(3):
        with processes(valkey_url, queue, ("worker", "0.5")) as [victim]:
            assert await asyncio.to_thread(victim.wait) == -signal.SIGKILL
    with processes(valkey_url, queue, ("worker", "0.5")) as [survivor]:
        try:
            await poison.result(timeout=10)
        except JobFailed as failed:
            assert failed.error_message == "its worker died 3 times while running it"  # noqa: PT017 - either way
        assert survivor.alive
    [letter] = await valkey_client.dead_letters(queue)
    assert (letter.reason, letter.stalls, letter.attempt, letter.task) == ("poison", 3, 1, "fleet.die")
    assert [one.stalls for one in await told(valkey, queue)] == [0, 1, 2]


async def test_sigterm_ends_a_process_within_its_grace_and_returns_its_job(
    valkey_url: str, valkey: RedisClient, valkey_client: JobClient, queue: str
) -> None:
    with processes(valkey_url, queue, ("worker", "15")) as [worker]:
        job = await valkey_client.enqueue(JobRequest[Any]("fleet.wait", (60.0,), queue=queue))
        await until(lambda: _count(valkey, queue, 1), timeout=15)
        before = fair_time()
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0
        assert fair_time() - before < 3
    assert await keys_of(valkey, job.id) == {"arq:job"}
    assert await job.status() == "queued"
