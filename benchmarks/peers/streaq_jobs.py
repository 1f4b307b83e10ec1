"""streaQ: its own client, worker and codec (pickle)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

from streaq import Worker  # type: ignore[import-not-found]  # in the contestant's environment only

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report
from benchmarks.peers.pending import Pending


async def noop(index: int) -> int:
    report.first()
    return index


async def stamp(index: int) -> int:
    report.stamp(index)
    return index


class Streaq:
    """``concurrency`` jobs at a time; everything else as it comes."""

    def __init__(self, url: str, concurrency: int) -> None:
        self._worker = Worker(redis_url=url, concurrency=concurrency)
        self._noop, self._stamp = self._worker.task(noop), self._worker.task(stamp)
        self._stack = AsyncExitStack()
        self._tasks: list[Any] = []
        self._pending = Pending(())

    def work(self) -> None:
        logging.getLogger("streaq").setLevel(logging.WARNING)
        self._worker.run_sync()

    async def open(self) -> None:
        await self._stack.enter_async_context(self._worker)

    async def fill(self, count: int) -> None:
        for first in range(0, count, 100):
            batch = [self._noop.enqueue(index) for index in range(first, min(first + 100, count))]
            await self._worker.enqueue_many(batch)
            self._tasks += batch
        self._pending = Pending(self._worker.results_key + task.id for task in self._tasks)

    async def remaining(self) -> int:
        while chunk := self._pending.chunk():
            if not self._pending.found(await self._worker.redis.exists(chunk)):
                break
        return self._pending.left

    async def verify(self, count: int) -> None:
        for first in range(0, count, 10):
            batch = self._tasks[first : first + 10]
            found = await asyncio.gather(*(task.result(timeout=10) for task in batch))
            for index, one in enumerate(found, first):
                if not one.success or one.result != index or one.tries != 1:
                    raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return await self._stamp.enqueue(index)

    async def result(self, handle: Any) -> int:
        return int((await handle.result(timeout=30)).result)

    async def close(self) -> None:
        await self._stack.aclose()
