"""arq as it comes: its own client, worker and codec (pickle)."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.jobs import Job, deserialize_result
from arq.worker import Worker

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report

QUEUE: Final = "arq:queue"


async def noop(_ctx: dict[Any, Any], index: int) -> int:
    report.first()
    return index


async def stamp(_ctx: dict[str, Any], index: int) -> int:
    report.stamp(index)
    await asyncio.sleep(report.holding())
    return index


FUNCTIONS: Final[tuple[Any, ...]] = (noop, stamp)


class ArqStock:
    """``settings`` are arguments of arq's Worker; ``result_poll`` seconds between looks for a result."""

    def __init__(self, url: str, settings: dict[str, Any] | None = None, result_poll: float = 0.5) -> None:
        self._where = RedisSettings.from_dsn(url)
        self._settings = settings or {}
        self._result_poll = result_poll
        self._redis: ArqRedis

    def work(self) -> None:
        Worker(FUNCTIONS, redis_settings=self._where, **self._settings).run()

    async def open(self) -> None:
        self._redis = await create_pool(self._where)

    async def fill(self, count: int) -> None:
        for first in range(0, count, 100):
            batch = range(first, min(first + 100, count))
            await asyncio.gather(*(self._redis.enqueue_job("noop", i, _job_id=f"noop-{i}") for i in batch))

    async def remaining(self) -> int:
        return int(await self._redis.zcard(QUEUE))

    async def verify(self, count: int) -> None:
        stored = await self._redis.mget([f"arq:result:noop-{index}" for index in range(count)])
        for index, data in enumerate(stored):
            found = deserialize_result(data) if data else None
            if found is None or not found.success or found.result != index or found.job_try != 1:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Job:
        job = await self._redis.enqueue_job("stamp", index)
        if job is None:
            raise WrongAnswerError(f"job {index} was not enqueued")
        return job

    async def result(self, handle: Job) -> int:
        return int(await handle.result(timeout=30, poll_delay=self._result_poll))

    async def close(self) -> None:
        await self._redis.aclose()
