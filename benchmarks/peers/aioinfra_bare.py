"""aioinfra's client alone, its jobs without headers: as much of a job as arq stores."""

from __future__ import annotations

from aioinfra import JobHandle
from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.client import ClientOptions, JobClient
from benchmarks.peers.aioinfra_tasks import noop, stamp


class BareJobs:
    """Enqueues only: no reply channel, no correlation id."""

    def __init__(self, url: str) -> None:
        self._redis = RedisClient(url)
        self._client = JobClient(self._redis, options=ClientOptions(replies=False))

    async def open(self) -> None:
        await self._redis.ping()

    async def enqueue(self, index: int) -> JobHandle[int]:
        return await self._client.enqueue(stamp.job(index))

    async def fill(self, count: int) -> None:
        for first in range(0, count, 100):
            await self._client.enqueue_many([noop.job(i) for i in range(first, min(first + 100, count))])

    async def bulk(self, count: int) -> None:
        await self._client.enqueue_many([noop.job(index) for index in range(count)])

    async def close(self) -> None:
        await self._client.aclose()
        await self._redis.aclose()
