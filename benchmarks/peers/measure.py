"""The timed loops. They run inside the contestant's process, so that nothing but its own work is timed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.errors import WrongAnswerError
from benchmarks.peers.protocol import CachePeer, JobPeer


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def check_all(peer: CachePeer, expected: dict[str, dict[str, Any]]) -> None:
    """Get every key once and compare the whole value.

    Raises:
        WrongAnswerError: a value differs.
    """
    for key, value in expected.items():
        if await peer.get(key) != value:
            raise WrongAnswerError(f"{key} is not what was stored")


async def concurrent_gets(
    peer: CachePeer, expected: dict[str, dict[str, Any]], tasks: int, operations: int
) -> dict[str, float]:
    """``operations`` gets, spread over ``tasks`` tasks that each get one key after the other.

    At any moment all tasks want different keys, so that nothing is gained by folding equal gets. Each get is
    timed, and the value's id compared; both cost all contestants the same.

    Raises:
        WrongAnswerError: a value is not the one stored under its key.
    """
    keys = list(expected)
    ids = [value["id"] for value in expected.values()]
    if tasks > len(keys):
        raise ValueError("needs at least as many keys as tasks")
    each = max(1, operations // tasks)
    latencies: list[int] = []

    async def one(position: int) -> None:
        clock, get = time.perf_counter_ns, peer.get
        for _ in range(each):
            begun = clock()
            value = await get(keys[position])
            latencies.append(clock() - begun)
            if value["id"] != ids[position]:
                raise WrongAnswerError(f"{keys[position]} answered with the value of another key")
            position = (position + 1) % len(keys)

    step = len(keys) // tasks
    cpu, begun = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(one(task * step))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    latencies.sort()
    done = len(latencies)
    return {
        "operations": done,
        "rate": done / seconds,
        "cpu_us": cpu / done * 1e6,
        "p50_ms": quantile(latencies, 0.5) / 1e6,
        "p99_ms": quantile(latencies, 0.99) / 1e6,
    }


async def concurrent_puts(
    peer: CachePeer, values: dict[str, dict[str, Any]], tasks: int, operations: int
) -> dict[str, float]:
    """``operations`` writes of the same records under the same keys, spread over ``tasks`` tasks."""
    items = list(values.items())

    async def one(index: int) -> None:
        await peer.put(*items[index % len(items)])

    return await spread_over(tasks, operations, one)


async def concurrent_get_manys(
    peer: CachePeer, expected: dict[str, dict[str, Any]], tasks: int, operations: int, keys: int
) -> dict[str, float]:
    """``operations`` reads of ``keys`` keys each.

    Raises:
        WrongAnswerError: a value is not the one stored under its key.
    """
    every = list(expected)
    batches = [every[first : first + keys] for first in range(0, len(every) - keys + 1, keys)]

    async def one(index: int) -> None:
        batch = batches[index % len(batches)]
        found = await peer.get_many(batch)
        if [value["id"] for value in found] != [expected[key]["id"] for key in batch]:
            raise WrongAnswerError("an answer has the value of another key")

    return await spread_over(tasks, operations, one)


async def spread_over(tasks: int, operations: int, one: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """Do ``one(0)`` to ``one(operations - 1)``; each of the tasks takes the next when it is done with its own."""
    indexes = iter(range(operations))

    async def worker() -> None:
        for index in indexes:
            await one(index)

    await one(0)
    cpu, begun = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(tasks)))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"operations": operations, "rate": operations / seconds, "cpu_us": cpu / operations * 1e6}


async def alternating_gets(
    one: CachePeer, other: CachePeer, expected: dict[str, dict[str, Any]], operations: int
) -> tuple[float, float]:
    """Median microseconds of a lone get of each, taking turns call by call, who goes first too.

    Raises:
        WrongAnswerError: a value is not the one stored under its key.
    """
    keys = list(expected)
    times: tuple[list[int], list[int]] = ([], [])
    clock = time.perf_counter_ns
    for turn in range(operations):
        key = keys[turn % len(keys)]
        for which in (0, 1) if turn % 2 else (1, 0):
            peer = (one, other)[which]
            begun = clock()
            value = await peer.get(key)
            times[which].append(clock() - begun)
            if value["id"] != expected[key]["id"]:
                raise WrongAnswerError(f"{key} answered with the value of another key")
    return quantile(sorted(times[0]), 0.5) / 1e3, quantile(sorted(times[1]), 0.5) / 1e3


async def drained(peer: JobPeer) -> int:
    """Wait until no job of `fill` remains; nanoseconds of CLOCK_MONOTONIC when that was seen.

    Asks rarely while much remains and every millisecond towards the end: the poll costs the measured worker
    next to nothing and the end is known to a millisecond or two.
    """
    begun, total, pause = time.monotonic(), await peer.remaining(), 0.001
    while True:
        await asyncio.sleep(pause)
        remaining = await peer.remaining()
        now = time.monotonic_ns()
        if remaining == 0:
            return now
        done = total - remaining
        left = (now / 1e9 - begun) * remaining / done if done else 0.0
        pause = min(0.05, max(0.001, left / 3))


async def one_at_a_time(
    peer: JobPeer, first: int, count: int, gap: tuple[float, float], seed: int
) -> list[dict[str, int]]:
    """Enqueue ``count`` jobs at random intervals, waiting for each result; the stamps of each.

    Raises:
        WrongAnswerError: a job returned another index than its own.
    """
    chance = random.Random(seed)
    stamps = []
    for index in range(first, first + count):
        await asyncio.sleep(chance.uniform(*gap))
        begun = time.monotonic_ns()
        handle = await peer.enqueue(index)
        enqueued = time.monotonic_ns()
        answer = await peer.result(handle)
        ended = time.monotonic_ns()
        if answer != index:
            raise WrongAnswerError(f"job {index} returned {answer!r}")
        stamps.append({"index": index, "begun": begun, "enqueued": enqueued, "ended": ended})
    return stamps
