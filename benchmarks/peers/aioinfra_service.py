"""aioinfra's Service: its client, and its worker as the command line runs it."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

from aioinfra import JobHandle, Service
from aioinfra.context import bound, new_id
from aioinfra.service import WorkerSetup
from benchmarks.errors import WrongAnswerError
from benchmarks.peers.aioinfra_tasks import CORRELATION, noop, stamp

QUEUE = "default"

service = Service.from_env(include=["benchmarks.peers.aioinfra_tasks"])


class ServiceJobs:
    """``concurrency`` jobs at a time, leases of ``lease`` seconds; everything else as it comes."""

    def __init__(self, url: str, concurrency: int = 100, lease: float = 15.0) -> None:
        os.environ |= {"REDIS_URL": url, "LOG_LEVEL": "WARNING", "ENVIRONMENT": "production"}
        self._concurrency = concurrency
        self._lease = lease
        self._stack = AsyncExitStack()
        self._handles: list[JobHandle[int]] = []

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        async with service:
            await service.run_worker(WorkerSetup(concurrency=self._concurrency, lease=self._lease))

    async def open(self) -> None:
        await self._stack.enter_async_context(service)

    async def fill(self, count: int) -> None:
        """Each batch under a correlation id of its own, as the jobs of one request would be."""
        for first in range(0, count, 100):
            with bound(request_id=CORRELATION + new_id()):
                requests = [noop.job(index) for index in range(first, min(first + 100, count))]
                self._handles += await service.jobs.enqueue_many(requests)

    async def bulk(self, count: int) -> None:
        """One call, under one correlation id."""
        with bound(request_id=CORRELATION + new_id()):
            self._handles += await service.jobs.enqueue_many([noop.job(index) for index in range(count)])

    async def remaining(self) -> int:
        depth = (await service.jobs.depths([QUEUE]))[QUEUE]
        return depth.queued + depth.deferred + depth.running

    async def verify(self, count: int) -> None:
        for first in range(0, count, 100):
            batch = self._handles[first : first + 100]
            found = await asyncio.gather(*(handle.info() for handle in batch))
            for index, info in enumerate(found, first):
                if info is None or not info.success or info.value != index or info.attempt != 1:
                    raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> JobHandle[int]:
        return await stamp.delay(index)

    async def result(self, handle: JobHandle[int]) -> int:
        return await handle.result(timeout=30)

    async def close(self) -> None:
        await self._stack.aclose()
