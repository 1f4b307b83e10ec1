"""SAQ: its own queue, worker and codec (JSON)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from saq import Queue, Worker  # type: ignore[import-not-found]  # in the contestant's environment only

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report

LOOK_AGAIN: Final = 0.1  # seconds


async def noop(_ctx: dict[str, Any], *, index: int) -> int:
    report.first()
    return index


async def stamp(_ctx: dict[str, Any], *, index: int) -> int:
    report.stamp(index)
    return index


class Saq:
    """``concurrency`` jobs at a time; everything else as it comes."""

    def __init__(self, url: str, concurrency: int) -> None:
        self._queue = Queue.from_url(url)
        self._concurrency = concurrency

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        await self._queue.connect()
        await Worker(self._queue, functions=[noop, stamp], concurrency=self._concurrency).start()

    async def open(self) -> None:
        await self._queue.connect()

    async def fill(self, count: int) -> None:
        """Sweeps first: a worker's own sweep at its start aborts jobs that it has just claimed, now and then.

        One sweep a minute is let through; this is that one.
        """
        await self._queue.sweep()
        for first in range(0, count, 100):
            batch = range(first, min(first + 100, count))
            await asyncio.gather(*(self._queue.enqueue("noop", index=i, key=f"noop-{i}") for i in batch))

    async def remaining(self) -> int:
        return int(await self._queue.count("incomplete"))

    async def verify(self, count: int) -> None:
        found = await self._queue.jobs([f"noop-{index}" for index in range(count)])
        for index, job in enumerate(found):
            if job is None or job.status != "complete" or job.result != index or job.attempts != 1:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return await self._queue.enqueue("stamp", index=index)

    async def result(self, handle: Any) -> int:
        """Pushed to the client; but an end between its look and its subscription is missed, so it looks again."""
        async with asyncio.timeout(30):
            while not handle.completed:
                with contextlib.suppress(TimeoutError):
                    await handle.refresh(until_complete=LOOK_AGAIN)
        return int(handle.result)

    async def close(self) -> None:
        await self._queue.disconnect()
