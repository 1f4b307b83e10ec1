"""RQ: its SimpleWorker, which does not fork for each job."""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker  # type: ignore[import-not-found]  # in the contestant's environment only
from rq.job import Job  # type: ignore[import-not-found]  # as above

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report


def noop(index: int) -> int:
    report.first()
    return index


def stamp(index: int) -> int:
    report.stamp(index)
    return index


class Rq:
    """Everything as it comes."""

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(url)
        self._queue = Queue(connection=self._redis)
        self._filled = 0

    def work(self) -> None:
        SimpleWorker([self._queue], connection=self._redis).work(logging_level="WARNING")

    async def open(self) -> None:
        self._redis.ping()

    async def fill(self, count: int) -> None:
        for first in range(0, count, 100):
            batch = range(first, min(first + 100, count))
            self._queue.enqueue_many([Queue.prepare_data(noop, (i,), job_id=f"noop-{i}") for i in batch])
        self._filled = count

    async def remaining(self) -> int:
        return self._filled - int(self._redis.zcard(self._queue.finished_job_registry.key))

    async def verify(self, count: int) -> None:
        found = Job.fetch_many([f"noop-{index}" for index in range(count)], connection=self._redis)
        for index, job in enumerate(found):
            if job is None or job.return_value() != index:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return self._queue.enqueue(stamp, index)

    async def result(self, handle: Any) -> int:
        found = handle.latest_result(timeout=30)
        if found is None:
            raise WrongAnswerError("no result within 30 s")
        return int(found.return_value)

    async def close(self) -> None:
        self._redis.close()
