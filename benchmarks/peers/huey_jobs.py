"""huey on Redis: threads, pickle."""

from __future__ import annotations

import logging
from typing import Any

from huey import RedisHuey  # type: ignore[import-not-found]  # in the contestant's environment only

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report


def noop(index: int) -> int:
    report.first()
    return index


def stamp(index: int) -> int:
    report.stamp(index)
    return index


class Huey:
    """``threads`` threads; a result is announced to the one who waits for it."""

    def __init__(self, url: str, threads: int) -> None:
        self._huey = RedisHuey("bench", url=url, blocking=True, notify_result=True)
        self._noop = self._huey.task(name="noop")(noop)
        self._stamp = self._huey.task(name="stamp")(stamp)
        self._threads = threads
        self._results: list[Any] = []

    def work(self) -> None:
        logging.getLogger("huey").setLevel(logging.WARNING)
        self._huey.create_consumer(workers=self._threads, worker_type="thread", periodic=False).run()

    async def open(self) -> None:
        self._huey.storage.conn.ping()

    async def fill(self, count: int) -> None:
        self._results += [self._noop(index) for index in range(count)]

    async def remaining(self) -> int:
        return len(self._results) - int(self._huey.result_count())

    async def verify(self, count: int) -> None:
        for index, one in enumerate(self._results[:count]):
            if one.get(preserve=True) != index:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return self._stamp(index)

    async def result(self, handle: Any) -> int:
        return int(handle.get(blocking=True, timeout=30))

    async def close(self) -> None:
        self._huey.storage.conn.close()
