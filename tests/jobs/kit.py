"""What the tests of the jobs share: workers that run inside a test, and an observer that remembers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.jobs.arq import ArqWorker, EngineOptions
from aioinfra.jobs.claim import QueueOptions
from aioinfra.jobs.job import Progress
from aioinfra.jobs.lease import LeaseOptions
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.task import Task


class Recorder:
    """A `JobObserver` that keeps what it was told."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.starts: list[str] = []
        self.waited: list[float] = []
        self.errors: Counter[str] = Counter()
        self.batches: list[int] = []
        self.stored = 0
        self.claims = 0
        self.depths: dict[str, int] = {}

    def enqueued(self, queue: str, task: str) -> None:
        self.stored += 1

    def claimed(self, queue: str, count: int) -> None:
        self.claims += count

    def started(self, queue: str, task: str, waited: float) -> None:
        self.starts.append(queue)
        self.waited.append(waited)

    def finished(self, queue: str, task: str, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] += 1

    def recorded(self, count: int, seconds: float) -> None:
        self.batches.append(count)

    def store_error(self, step: str) -> None:
        self.errors[step] += 1

    def depth(self, queue: str, waiting: int) -> None:
        self.depths[queue] = waiting

    def slots(self, running: int, limit: int) -> None: ...


def engine(
    *,
    lease: float = 15.0,
    queues: QueueOptions | None = None,
    **more: Any,
) -> EngineOptions:
    """Engine options with a short way to say what tests say most."""
    return EngineOptions(queues=queues, lease=LeaseOptions(lease), **more)


def worker_of(
    url: str, *tasks: Task[..., Any], options: EngineOptions | None = None, **more: Any
) -> ArqWorker:
    """A worker of tasks that records progress where clients look for it."""

    async def record(job_id: str, progress: Progress) -> None:
        async with RedisClient(url, PoolOptions(max_connections=1)) as redis:
            await RedisJobStore(redis).set_progress(job_id, msgspec.json.encode(progress))

    more.setdefault("handle_signals", False)
    return ArqWorker.from_tasks(tasks, url, engine=options or engine(), progress=record, **more)


@asynccontextmanager
async def running(worker: ArqWorker) -> AsyncIterator[ArqWorker]:
    """Run a worker for the time of the block; what it died of is raised."""
    run = asyncio.create_task(worker.async_run())
    try:
        await until(lambda: worker._job_worker or run.done())
        yield worker
    finally:
        await worker.close()
        [end] = await asyncio.gather(run, return_exceptions=True)
        if isinstance(end, Exception):
            raise end


@asynccontextmanager
async def working(
    url: str, *tasks: Task[..., Any], options: EngineOptions | None = None, **more: Any
) -> AsyncIterator[ArqWorker]:
    """A worker of tasks, running for the time of the block."""
    async with running(worker_of(url, *tasks, options=options, **more)) as worker:
        yield worker


async def until(
    holds: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout: float = 10.0, every: float = 0.005
) -> Any:
    """Wait for a condition of another process or of the store; returns what it answered."""
    async with asyncio.timeout(timeout):
        while True:
            answer = holds()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(every)


async def run_burst(
    url: str, *tasks: Task[..., Any], options: EngineOptions | None = None, **more: Any
) -> ArqWorker:
    """Run a worker until its queues are empty; returns it closed."""
    worker = worker_of(url, *tasks, options=options, burst=True, **more)
    try:
        async with asyncio.timeout(20):
            await worker.async_run()
    finally:
        await worker.close()
    return worker


async def keys_of(redis: RedisClient, job_id: str) -> set[str]:
    """Which of a job's keys exist."""
    kinds: Sequence[str] = (
        *("arq:job", "arq:in-progress", "arq:retry", "arq:result"),
        *("aioinfra:claim", "aioinfra:parked"),
    )
    found = await redis.pipeline([("EXISTS", f"{kind}:{job_id}") for kind in kinds])
    return {kind for kind, there in zip(kinds, found, strict=True) if there}
