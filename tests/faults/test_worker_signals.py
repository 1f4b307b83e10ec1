"""Workers that are killed, stopped or told to end at every step of a job's life."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import JobRequest
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess
from aioinfra.testing.worker_steps import Step
from tests.faults.workload import QUEUE, Journal, worker
from tests.jobs.kit import until

LEASE = 1.0
LASTING = (Step.FINISH_SENT, Step.FINISHED)
"""From here on the server knows the end."""


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as running:
        yield running


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[JobClient]:
    async with RedisClient(server.url) as redis:
        opened = JobClient(redis)
        yield opened
        await opened.aclose()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def work(seconds: float, queue: str = QUEUE) -> JobRequest[int]:
    return JobRequest("faults.work", (seconds,), queue=queue)


@pytest.mark.parametrize(
    "steps",
    [(Step.CLAIM_SENT, Step.CLAIMED, Step.STARTED), (Step.ENDED, Step.FINISH_SENT, Step.FINISHED)],
    ids=["before", "after"],
)
async def test_a_job_whose_worker_is_killed_at_any_step_runs_again_unless_its_end_is_recorded(
    server: RedisServer, client: JobClient, journal: Journal, steps: tuple[Step, ...]
) -> None:
    """Each victim has a queue of its own; one heir serves them all."""
    queues = {step: f"{QUEUE}-{step}" for step in steps}
    served = ",".join(queues.values())
    async with worker(server.url, journal, "--lease", str(LEASE), "--queues", served) as heir:
        await heir.ready()
        heir.freeze()
        jobs, pids, killed = await _kill_at_every_step(server, client, journal, queues)
        heir.thaw()
        results = {step: await job.result(timeout=LEASE + 5) for step, job in jobs.items()}
        assert results == {step: pids[step] if step in LASTING else heir.pid for step in steps}
    for step, job in jobs.items():
        again = [one for one in journal.starts if one.job_id == job.id and one.at > killed]
        if step in LASTING:
            assert again == [], step
        else:
            assert [(one.attempt, one.stalls) for one in again] == [(1, 1)], step
            assert again[0].at - killed <= LEASE + 2, step


async def _kill_at_every_step(
    server: RedisServer, client: JobClient, journal: Journal, queues: dict[Step, str]
) -> tuple[dict[Step, JobHandle[int]], dict[Step, int], float]:
    """The jobs, the victims' pids, and when they were killed (epoch)."""
    victims: dict[Step, WorkerProcess] = {
        step: worker(server.url, journal, "--lease", str(LEASE), "--queues", queue, stop_at=step)
        for step, queue in queues.items()
    }
    try:
        for victim in victims.values():
            victim.start()
        await asyncio.gather(*(victim.ready() for victim in victims.values()))
        jobs = {step: await client.enqueue(work(0.01, queue)) for step, queue in queues.items()}
        for step, victim in victims.items():
            assert await victim.reached() == (step, (jobs[step].id,))
        killed = time.time()
        for victim in victims.values():
            victim.kill()
            assert await victim.exited() == -signal.SIGKILL
        return jobs, {step: victim.pid for step, victim in victims.items()}, killed
    finally:
        for victim in victims.values():
            victim.close()


async def test_a_worker_told_to_end_lets_what_it_can_end_and_gives_back_the_rest(
    server: RedisServer, client: JobClient, journal: Journal
) -> None:
    draw = random.Random(7)
    grace = 0.5
    async with worker(server.url, journal, "--grace", str(grace), "--concurrency", "12") as first:
        await first.ready()
        jobs = [await client.enqueue(work(draw.choice([0.05, 0.3, 2.0]))) for _ in range(30)]
        await until(lambda: len(journal.starts) >= 12)
        first.terminate()
        told = time.monotonic()
        assert await first.exited() == 0
        assert time.monotonic() - told < grace + 6
        first_ends = len(journal.ends)
    async with worker(server.url, journal) as second:
        results = await asyncio.gather(*(job.result(timeout=15) for job in jobs))
    assert results.count(first.pid) == first_ends > 0
    assert results.count(second.pid) == 30 - first_ends > 0
    assert {(one.attempt, one.stalls) for one in journal.starts} == {(1, 0)}


async def test_workers_that_were_stopped_for_longer_than_their_lease_cannot_overwrite_results(
    server: RedisServer, client: JobClient, journal: Journal
) -> None:
    """One stands before its task's function, one after it; an heir has their jobs meanwhile."""
    queues = {step: f"{QUEUE}-{step}" for step in (Step.STARTED, Step.ENDED)}
    lease = ("--lease", str(LEASE), "--queues")
    async with (
        worker(server.url, journal, *lease, ",".join(queues.values())) as heir,
        worker(server.url, journal, *lease, queues[Step.STARTED], stop_at=Step.STARTED) as early,
        worker(server.url, journal, *lease, queues[Step.ENDED], stop_at=Step.ENDED) as late,
    ):
        await asyncio.gather(heir.ready(), early.ready(), late.ready())
        heir.freeze()
        jobs = [await client.enqueue(work(0.05, queue)) for queue in queues.values()]
        for stale in (early, late):
            await stale.reached()
            stale.freeze()
        heir.thaw()
        assert [await job.result(timeout=LEASE + 5) for job in jobs] == [heir.pid, heir.pid]
        heir.freeze()
        before = [await server.admin("GET", f"arq:result:{job.id}") for job in jobs]
        for stale, queue in zip((early, late), queues.values(), strict=True):
            stale.thaw()
            stale.release()
            fresh = await client.enqueue(work(0.0, queue))
            assert await fresh.result(timeout=5) == stale.pid  # it goes on
        await until(lambda: "finishes refused" in late.output)
        heir.thaw()
    assert [await server.admin("GET", f"arq:result:{job.id}") for job in jobs] == before
    for job in jobs:
        starts = [one for one in journal.starts if one.job_id == job.id]
        assert len(starts) <= 2
        assert {one.attempt for one in starts} == {1}
