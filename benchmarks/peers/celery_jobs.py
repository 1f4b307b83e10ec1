"""Celery on Redis: prefork, JSON."""

from __future__ import annotations

from typing import Any

from celery import Celery, group  # type: ignore[import-not-found]  # in the contestant's environment only

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report
from benchmarks.peers.pending import Pending


def noop(index: int) -> int:
    report.first()
    return index


def stamp(index: int) -> int:
    report.stamp(index)
    return index


class CeleryJobs:
    """``processes`` children that fetch ``prefetch`` jobs each in advance."""

    def __init__(self, url: str, processes: int, prefetch: int) -> None:
        self._app = Celery("bench", broker=url, backend=url)
        self._app.conf.update(worker_prefetch_multiplier=prefetch, broker_connection_retry_on_startup=True)
        self._noop = self._app.task(name="noop")(noop)
        self._stamp = self._app.task(name="stamp")(stamp)
        self._processes = processes
        self._results: list[Any] = []
        self._pending = Pending(())

    def work(self) -> None:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        options = ["--pool", "prefork", "--concurrency", str(self._processes), "--loglevel", "WARNING"]
        self._app.worker_main(["worker", *options, *quiet])

    async def open(self) -> None:
        self._app.backend.client.ping()

    async def fill(self, count: int) -> None:
        for first in range(0, count, 100):
            batch = group(self._noop.s(index) for index in range(first, min(first + 100, count)))
            self._results += batch.apply_async().results
        backend = self._app.backend
        self._pending = Pending(backend.get_key_for_task(one.id).decode() for one in self._results)

    async def remaining(self) -> int:
        while chunk := self._pending.chunk():
            if not self._pending.found(self._app.backend.client.exists(*chunk)):
                break
        return self._pending.left

    async def verify(self, count: int) -> None:
        for index, one in enumerate(self._results[:count]):
            if one.get(timeout=10) != index:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return self._stamp.delay(index)

    async def result(self, handle: Any) -> int:
        return int(handle.get(timeout=30))

    async def close(self) -> None:
        self._app.close()
