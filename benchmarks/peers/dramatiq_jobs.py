"""dramatiq on Redis, with its results middleware."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import dramatiq  # type: ignore[import-not-found]  # in the contestant's environment only
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]  # as above
from dramatiq.results import Results  # type: ignore[import-not-found]  # as above
from dramatiq.results.backends import RedisBackend  # type: ignore[import-not-found]  # as above

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import report
from benchmarks.peers.pending import Pending

URL_VARIABLE: Final = "BENCH_DRAMATIQ_URL"


def noop(index: int) -> int:
    report.first()
    return index


def stamp(index: int) -> int:
    report.stamp(index)
    return index


class Actors:
    """Both actors on a broker of their own."""

    def __init__(self, url: str) -> None:
        self.results = RedisBackend(url=url)
        self.broker = RedisBroker(url=url)
        self.broker.add_middleware(Results(backend=self.results))
        self.noop = dramatiq.actor(noop, actor_name="noop", broker=self.broker, store_results=True)
        self.stamp = dramatiq.actor(stamp, actor_name="stamp", broker=self.broker, store_results=True)


def setup() -> None:
    """What the `dramatiq` command calls before it starts its worker."""
    dramatiq.set_broker(Actors(os.environ[URL_VARIABLE]).broker)


class Dramatiq:
    """One worker process with ``threads`` threads."""

    def __init__(self, url: str, threads: int) -> None:
        self._url, self._threads = url, threads
        self._actors = Actors(url)
        self._messages: list[Any] = []
        self._pending = Pending(())

    def work(self) -> None:
        os.environ[URL_VARIABLE] = self._url
        options = ["--processes", "1", "--threads", str(self._threads)]
        command = [sys.executable, "-m", "dramatiq", f"{__name__}:setup", *options]
        os.execv(sys.executable, command)  # noqa: S606  # the documented way to run a worker

    async def open(self) -> None:
        self._actors.results.client.ping()

    async def fill(self, count: int) -> None:
        self._messages += [self._actors.noop.send(index) for index in range(count)]
        key_of = self._actors.results.build_message_key
        self._pending = Pending(key_of(message) for message in self._messages)

    async def remaining(self) -> int:
        while chunk := self._pending.chunk():
            if not self._pending.found(self._actors.results.client.exists(*chunk)):
                break
        return self._pending.left

    async def verify(self, count: int) -> None:
        for index, message in enumerate(self._messages[:count]):
            if message.get_result(backend=self._actors.results) != index:
                raise WrongAnswerError(f"job {index} has no right result")

    async def enqueue(self, index: int) -> Any:
        return self._actors.stamp.send(index)

    async def result(self, handle: Any) -> int:
        return int(handle.get_result(backend=self._actors.results, block=True, timeout=30_000))

    async def close(self) -> None:
        self._actors.broker.close()
