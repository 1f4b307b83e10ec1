"""taskiq with taskiq-redis: a stream with acknowledgements, or a list without."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Final

from redis.asyncio import Redis
from taskiq_redis import (  # type: ignore[import-not-found]  # in the contestant's environment only
    ListQueueBroker,
    RedisAsyncResultBackend,
    RedisStreamBroker,
)

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report
from benchmarks.peers.pending import Pending

URL_VARIABLE: Final = "BENCH_TASKIQ_URL"
BROKER_VARIABLE: Final = "BENCH_TASKIQ_BROKER"
PREFIX: Final = "result"


async def noop(index: int) -> int:
    report.first()
    return index


async def stamp(index: int) -> int:
    report.stamp(index)
    return index


def broker_of(url: str, kind: str) -> Any:
    """A broker that knows both tasks; ``kind`` is "stream" or "list"."""
    results = RedisAsyncResultBackend(url, result_ex_time=3600, prefix_str=PREFIX)
    # From its beginning: the jobs are there before the worker.
    plain = RedisStreamBroker(url, consumer_id="0") if kind == "stream" else ListQueueBroker(url)
    broker = plain.with_result_backend(results)
    broker.register_task(noop, task_name="noop")
    broker.register_task(stamp, task_name="stamp")
    return broker


def broker() -> Any:
    """What `taskiq worker` loads."""
    return broker_of(os.environ[URL_VARIABLE], os.environ[BROKER_VARIABLE])


class Taskiq:
    """One worker process with ``concurrency`` tasks; results are looked for every ``result_poll`` seconds."""

    def __init__(self, url: str, kind: str, concurrency: int, result_poll: float) -> None:
        self._url, self._kind, self._concurrency = url, kind, concurrency
        self._result_poll = result_poll
        self._broker: Any = None
        self._redis = Redis.from_url(url)
        self._tasks: list[Any] = []
        self._pending = Pending(())

    def work(self) -> None:
        os.environ |= {URL_VARIABLE: self._url, BROKER_VARIABLE: self._kind}
        options = ["--workers", "1", "--max-async-tasks", str(self._concurrency), "--log-level", "WARNING"]
        command = [sys.executable, "-m", "taskiq", "worker", *options, f"{__name__}:broker"]
        os.execv(sys.executable, command)  # noqa: S606  # the documented way to run a worker

    async def open(self) -> None:
        self._broker = broker_of(self._url, self._kind)
        await self._broker.startup()
        self._noop = self._broker.find_task("noop")
        self._stamp = self._broker.find_task("stamp")

    async def fill(self, count: int) -> None:
        for first in range(0, count, 100):
            batch = range(first, min(first + 100, count))
            self._tasks += await asyncio.gather(*(self._noop.kiq(index) for index in batch))
        self._pending = Pending(f"{PREFIX}:{task.task_id}" for task in self._tasks)

    async def remaining(self) -> int:
        while chunk := self._pending.chunk():
            if not self._pending.found(await self._redis.exists(*chunk)):
                break
        return self._pending.left

    async def verify(self, count: int) -> None:
        for index, task in enumerate(self._tasks[:count]):
            found = await task.get_result()
            if found.is_err or found.return_value != index:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return await self._stamp.kiq(index)

    async def result(self, handle: Any) -> int:
        found = await handle.wait_result(check_interval=self._result_poll, timeout=30)
        return int(found.return_value)

    async def close(self) -> None:
        await self._broker.shutdown()
        await self._redis.aclose()
