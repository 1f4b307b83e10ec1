"""Ten thousand jobs that leak a megabyte each, under a supervisor that is told to restart its workers meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import JobClient
from aioinfra.testing.servers import RedisServer
from aioinfra.testing.worker_process import WorkerProcess, WorkerProcessOptions
from tests.faults.full_count import full_count
from tests.jobs import supervised_tasks as tasks

ROOT = Path(__file__).resolve().parent.parent.parent
JOBS = 10_000
LIMIT = 400
"""MiB."""
OPTIONS = ("--processes", "2", "--max-rss", str(LIMIT), "--concurrency", "8", "--grace", "10")


@pytest.mark.timeout(600)
async def test_a_leak_of_a_megabyte_a_job_stays_under_the_limit_and_nothing_is_lost_or_run_twice(
    tmp_path: Path, seed: int, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> None:
    if not full_count(pytestconfig):
        pytest.skip(
            "takes a minute or two: say --seed, or more seeds; tests/jobs/test_supervisor.py has a small one"
        )
    told = tmp_path / "told"
    async with RedisServer() as server, RedisClient(server.url) as redis:
        client = JobClient(redis)
        jobs = await client.enqueue_many([tasks.leak.job(number, 1 << 20) for number in range(JOBS)])
        env = {"REDIS_URL": server.url, "TOLD": str(told), "LOG_LEVEL": "ERROR"}
        options = WorkerProcessOptions(OPTIONS, env=env, cwd=ROOT)
        async with WorkerProcess("tests.jobs.supervised_tasks:service", options) as supervisor:
            restarting = asyncio.create_task(_restart_now_and_then(supervisor.pid, random.Random(seed)))
            try:
                results = await asyncio.gather(*[job.result(timeout=500) for job in jobs])
            finally:
                restarting.cancel()
                await asyncio.wait([restarting])
            supervisor.terminate()
            assert await supervisor.exited() == 0
        await client.aclose()
    largest = max(rss for _, rss in results)
    request.node.user_properties.append(("memory, MiB", largest >> 20))
    assert largest < LIMIT << 20
    runs = Counter(line.split()[0] for line in told.read_text().splitlines())
    assert runs == {f"leak-{number}": 1 for number in range(JOBS)}


async def _restart_now_and_then(pid: int, draw: random.Random) -> None:
    while True:
        await asyncio.sleep(draw.uniform(3, 12))
        os.kill(pid, signal.SIGHUP)
