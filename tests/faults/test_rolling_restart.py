"""A deploy under load: one worker after the other is told to end, and replaced by one of the next release."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import JobRequest
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from tests.faults.workload import QUEUE, ROOT, Journal, worker
from tests.jobs.kit import until

WORKERS = 3
SETUP = ("--concurrency", "4", "--grace", "0.4")

NEXT_RELEASE = """
import os

from aioinfra import Service, task
from tests.faults.workload import QUEUE


@task(queue=QUEUE, name="faults.new")
async def new() -> int:
    return os.getpid()


service = Service.from_env(include=["tests.faults.workload", "release"])
"""


def next_worker(url: str, journal: Journal, directory: Path) -> WorkerProcess:
    """A worker of the next release, which knows one task more."""
    (directory / "release.py").write_text(NEXT_RELEASE)
    path = os.pathsep.join((str(directory), str(ROOT)))
    env = {"REDIS_URL": url, "FAULTS_JOURNAL": str(journal.path), "LOG_LEVEL": "WARNING", "PYTHONPATH": path}
    return WorkerProcess("release:service", WorkerProcessOptions(SETUP, env=env, cwd=directory))


class Load:
    """Enqueues until it is stopped: jobs of all workers, and some that only the next release knows."""

    def __init__(self, client: JobClient, draw: random.Random) -> None:
        self.known: list[JobHandle[int]] = []
        self.new: list[JobHandle[int]] = []
        self._client = client
        self._draw = draw
        self._over = False

    async def _produce(self) -> None:
        draw = self._draw
        while not self._over:
            if draw.random() < 0.05:
                self.new.append(await self._client.enqueue(JobRequest[int]("faults.new", queue=QUEUE)))
            else:
                # Some take longer than a worker's grace, so that they are given back.
                seconds = draw.uniform(0, 0.03) if draw.random() < 0.95 else draw.uniform(0.3, 0.9)
                request = JobRequest[int]("faults.work", (seconds,), queue=QUEUE)
                self.known.append(await self._client.enqueue(request))
            await asyncio.sleep(draw.uniform(0, 0.02))

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as producers:
            for _ in range(2):
                producers.create_task(self._produce())
            try:
                yield
            finally:  # not by cancelling: a job that was stored would be missing in the lists
                self._over = True


async def replaced(old: list[WorkerProcess], new: list[WorkerProcess], draw: random.Random) -> None:
    """Tell each old worker to end, at a moment of its own, once the one before it has been replaced."""
    for leaving, coming in zip(old, new, strict=True):
        await asyncio.sleep(draw.uniform(0, 0.4))
        leaving.terminate()
        coming.start()
        assert await leaving.exited() == 0, leaving.output
        await coming.ready()


@pytest.mark.timeout(180)  # six workers start one after the other, on a machine that may be busy
async def test_a_rolling_restart_under_load_loses_nothing_and_costs_no_try(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    journal = Journal(tmp_path / "journal")
    async with RedisServer() as server, RedisClient(server.url) as redis:
        old = [worker(server.url, journal, *SETUP) for _ in range(WORKERS)]
        new = [next_worker(server.url, journal, tmp_path) for _ in range(WORKERS)]
        client = JobClient(redis)
        load = Load(client, draw)
        try:
            for one in old:
                one.start()
            await asyncio.gather(*(one.ready() for one in old))
            async with load.going_on():
                await until(lambda: load.new and len(journal.ends) > 20)
                await replaced(old, new, draw)
            results = [await job.result(timeout=20) for job in load.known]
            served_by = {await job.result(timeout=20) for job in load.new}
            await _nothing_is_left(redis, [*load.known, *load.new])
        finally:
            await client.aclose()
            for one in (*old, *new):
                one.close()
    new_pids = {one.pid for one in new}
    assert served_by <= new_pids
    assert set(results) & new_pids
    assert set(results) & {one.pid for one in old}
    assert {(one.attempt, one.stalls) for one in journal.starts} == {(1, 0)}
    ends = Counter(one.job_id for one in journal.ends)
    assert ends == Counter(job.id for job in load.known)  # each once: what was given back had not ended
    assert len(journal.starts) >= len(load.known)


async def _nothing_is_left(redis: RedisClient, jobs: list[JobHandle[Any]]) -> None:
    """Neither on the queue, nor of a try, nor as a dead letter."""
    assert await redis.execute("ZCARD", QUEUE) == 0
    assert await redis.execute("EXISTS", f"aioinfra:dead:{QUEUE}") == 0
    kinds = ("arq:job", "arq:retry", "arq:in-progress", "aioinfra:claim")
    found = await redis.pipeline([("EXISTS", *(f"{kind}:{job.id}" for kind in kinds)) for job in jobs])
    assert set(found) == {0}
