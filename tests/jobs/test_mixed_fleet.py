"""Plain arq workers and ours on one queue, fed by plain arq producers: every job runs, and runs once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import arq
import pytest
from arq.connections import RedisSettings, create_pool
from arq.jobs import Job

from aioinfra.jobs.arq import ArqWorker

pytestmark = [
    pytest.mark.filterwarnings("ignore:ArqWorker reads pickled jobs:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),  # arq's own worker
]

JOBS = 500


async def test_five_hundred_jobs_of_a_mixed_fleet_run_once_each(valkey_url: str, queue: str) -> None:
    settings = RedisSettings(unix_socket_path=urlsplit(valkey_url).path)
    runs: Counter[int] = Counter()
    by: Counter[str] = Counter()

    def work_as(name: str) -> Any:
        async def work(ctx: dict[Any, Any], number: int) -> int:
            runs[number] += 1
            by[name] += 1
            await asyncio.sleep(0.01)  # long enough that nobody is quick enough for all
            if number % 10 == 0 and ctx["job_try"] == 1:
                raise arq.Retry(defer=0.01)
            return number

        return arq.func(work, name="work")

    shared: dict[str, Any] = {"redis_settings": settings, "queue_name": queue, "handle_signals": False}
    fleet: list[arq.Worker] = [
        arq.Worker([work_as("plain 1")], poll_delay=0.005, **shared),
        ArqWorker([work_as("ours 1")], max_jobs=1, **shared),
        arq.Worker([work_as("plain 2")], poll_delay=0.005, **shared),
        ArqWorker([work_as("ours 2")], max_jobs=1, **shared),
    ]
    pool = await create_pool(settings, default_queue_name=queue)
    jobs: list[Job] = []

    async def produce(start: int) -> None:
        for number in range(start, JOBS, 5):
            job = await pool.enqueue_job("work", number, _defer_by=0.1 if number % 7 == 0 else None)
            assert job is not None
            jobs.append(job)

    running = [asyncio.create_task(worker.async_run()) for worker in fleet]
    await asyncio.gather(*(produce(start) for start in range(5)))
    async with asyncio.timeout(30):
        results = await asyncio.gather(*(job.result(poll_delay=0.1) for job in jobs))
    for worker, run in zip(fleet, running, strict=True):
        await worker.close()
        await asyncio.gather(run, return_exceptions=True)
    await pool.aclose(close_connection_pool=True)
    assert sorted(results) == list(range(JOBS))
    assert runs == Counter({number: 2 if number % 10 == 0 else 1 for number in range(JOBS)})
    assert set(by) == {"plain 1", "plain 2", "ours 1", "ours 2"}, "each took its part"
