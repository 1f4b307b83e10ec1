"""A contestant's process: `python -m benchmarks.peers.run FACTORY OPTIONS URL work|cache|jobs|local`.

``work`` runs a worker. The others obey commands, one JSON object a line on stdin, and answer each with one
on stdout; the contestant's own output goes to stderr.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.errors import WrongAnswerError
from benchmarks.peers import measure, measure_local, values
from benchmarks.peers.protocol import CachePeer, JobPeer, LocalPeer

Command = Callable[..., Awaitable[Any]]


def build(factory: str, options: str, url: str) -> Any:
    """The contestant that ``module:name`` makes."""
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)(url, **json.loads(options))


class Commands:
    """Commands of every contestant."""

    async def versions(self, packages: list[str]) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in packages}


class CacheCommands(Commands):
    """A cache contestant, answering commands."""

    def __init__(self, peer: CachePeer, url: str) -> None:
        self._peer = peer
        self._url = url
        self._expected: dict[str, dict[str, Any]] = {}

    async def open(self) -> None:
        await self._peer.open()

    async def store(self, count: int, size: int) -> None:
        """Write the records and read each back once."""
        self._expected = values.records(count, size)
        await self._peer.store(self._expected)
        await measure.check_all(self._peer, self._expected)

    async def get(self, tasks: int, operations: int) -> dict[str, float]:
        return await measure.concurrent_gets(self._peer, self._expected, tasks, operations)

    async def put(self, tasks: int, operations: int) -> dict[str, float]:
        return await measure.concurrent_puts(self._peer, self._expected, tasks, operations)

    async def get_many(self, tasks: int, operations: int, keys: int) -> dict[str, float] | None:
        """None: this contestant cannot."""
        try:
            return await measure.concurrent_get_manys(self._peer, self._expected, tasks, operations, keys)
        except NotImplementedError:
            return None

    async def alternate(self, factory: str, options: str, operations: int) -> list[float]:
        """Lone gets of this contestant and of another one in this process, in turns.

        The other's values are written for it first; it must not share keys with this one.
        """
        other: CachePeer = build(factory, options, self._url)
        await other.open()
        try:
            await other.store(self._expected)
            await measure.alternating_gets(self._peer, other, self._expected, max(10, operations // 10))
            return list(await measure.alternating_gets(self._peer, other, self._expected, operations))
        finally:
            await other.close()

    async def close(self) -> None:
        await self._peer.close()


class LocalCommands(Commands):
    """A cache within this process, answering commands in nanoseconds a call; None: it does not have that."""

    def __init__(self, peer: LocalPeer) -> None:
        self._peer = peer
        self._values = values.records(measure_local.KEYS, 300)

    async def open(self) -> None: ...

    async def lookups(self, passes: int) -> float | None:
        try:
            return measure_local.lookups(self._peer, self._values, passes)
        except NotImplementedError:
            return None

    async def stores(self, passes: int) -> float | None:
        try:
            return measure_local.stores(self._peer, passes)
        except NotImplementedError:
            return None

    async def decorated(self, passes: int) -> float | None:
        return await measure_local.decorated(self._peer, self._values, passes)

    async def close(self) -> None: ...


class JobCommands(Commands):
    """A job producer, answering commands."""

    def __init__(self, peer: JobPeer) -> None:
        self._peer = peer

    async def open(self) -> None:
        await self._peer.open()

    async def fill(self, count: int) -> int:
        """Enqueue and count what is there."""
        await self._peer.fill(count)
        return await self._peer.remaining()

    async def timed_fill(self, count: int) -> float:
        """Seconds in which the jobs were enqueued, the fastest way that this contestant has.

        Raises:
            WrongAnswerError: not all of them are there.
        """
        begun = time.perf_counter()
        await self._peer.fill(count)
        seconds = time.perf_counter() - begun
        if await self._peer.remaining() != count:
            raise WrongAnswerError("not all jobs are in the queue")
        return seconds

    async def enqueued(self, count: int, together: int) -> float:
        """Seconds in which ``count`` jobs were enqueued one by one, so many of them at a time."""
        begun = time.perf_counter()
        for first in range(0, count, together):
            batch = range(first, min(first + together, count))
            if together == 1:
                await self._peer.enqueue(first)
            else:
                await asyncio.gather(*(self._peer.enqueue(index) for index in batch))
        return time.perf_counter() - begun

    async def enqueued_in_bulk(self, count: int) -> float:
        """Seconds in which the jobs of `fill` were enqueued by the contestant's call for many, if it has one."""
        bulk = getattr(self._peer, "bulk", self._peer.fill)
        begun = time.perf_counter()
        await bulk(count)
        return time.perf_counter() - begun

    async def drained(self) -> int:
        return await measure.drained(self._peer)

    async def verify(self, count: int) -> None:
        await self._peer.verify(count)

    async def enqueue_all(self, first: int, count: int) -> None:
        for index in range(first, first + count):
            await self._peer.enqueue(index)

    async def one_at_a_time(
        self, first: int, count: int, gap: tuple[float, float], seed: int
    ) -> list[dict[str, int]]:
        return await measure.one_at_a_time(self._peer, first, count, gap, seed)

    async def close(self) -> None:
        await self._peer.close()


AnyCommands = CacheCommands | JobCommands | LocalCommands


def commands_for(role: str, peer: Any, url: str) -> AnyCommands:
    if role == "cache":
        return CacheCommands(peer, url)
    return LocalCommands(peer) if role == "local" else JobCommands(peer)


async def obey(commands: AnyCommands, answer: int) -> None:
    """Answer commands on the file descriptor ``answer`` until stdin ends."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await commands.open()
    try:
        while line := await reader.readline():
            reply = await execute(commands, json.loads(line))
            os.write(answer, json.dumps(reply).encode() + b"\n")
    finally:
        await commands.close()
        transport.close()


async def execute(commands: AnyCommands, request: Mapping[str, Any]) -> dict[str, Any]:
    """One command's reply; a failure is a reply too."""
    command: Command = getattr(commands, request["command"])
    try:
        return {"answer": await command(**request["arguments"])}
    except Exception as error:  # noqa: BLE001  # whatever it is, the harness must hear of it
        return {"failure": failure_text(error)}


def failure_text(error: BaseException) -> str:
    """What failed in one line, then its traceback; of many that failed together the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    first = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
    return f"{first}\n{''.join(traceback.format_exception(error))}"


def main() -> None:
    factory, options, url, role = sys.argv[1:5]
    logging.basicConfig(level=logging.WARNING)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a default pool opens a connection a task
    peer = build(factory, options, url)
    if role == "work":
        peer.work()
        return
    answer = os.dup(1)
    os.dup2(2, 1)
    asyncio.run(obey(commands_for(role, peer, url), answer))


if __name__ == "__main__":
    main()
