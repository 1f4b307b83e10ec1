"""The network misbehaves between a cache and its server: no wrong answer, and nobody waits longer than promised."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.store import MISS
from aioinfra.testing import (
    Bandwidth,
    Direction,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)
from tests.fair_time import fair_time

WORKERS = 6
SECONDS = 0.4
BUDGET = 0.25
WITHIN = 6 * BUDGET  # a load may wait for an ending outage, read, ask for its lease, write, and give it back

TOXICS: dict[str, Callable[[random.Random], Toxic]] = {
    "latency": lambda draw: Latency(draw.uniform(0.005, 0.4), jitter=0.005),
    "bandwidth": lambda draw: Bandwidth(draw.randint(2_000, 50_000)),
    "slow_close": lambda draw: SlowClose(draw.uniform(0.05, 0.3)),
    "timeout": lambda draw: Timeout(draw.choice([0.02, 0.2, None])),
    "reset_peer": lambda draw: ResetPeer(draw.uniform(0.0, 0.1)),
    "slicer": lambda draw: Slicer(draw.randint(3, 9), variation=2, delay=0.0005),
    "limit_data": lambda draw: LimitData(draw.randint(1, 4_000)),
}


class Worker:
    """The only user of its keys: it knows what each may hold. Values of others would be wrong answers."""

    def __init__(self, cache: CacheManager, name: str, draw: random.Random) -> None:
        self.cache = cache
        self.draw = draw
        self.keys = [f"{name}:{number}" for number in range(4)]
        self.last: dict[str, Any] = dict.fromkeys(self.keys, MISS)
        self.version = 0
        self.calls = 0
        self.slowest = 0.0

    def next_value(self, key: str) -> str:
        self.version += 1
        return f"{key}={self.version}" + "x" * self.draw.choice([0, 0, 2_000])

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            before = fair_time()
            async with asyncio.timeout(10):
                await self.step()
            self.slowest = max(self.slowest, fair_time() - before)
            self.calls += 1
            await asyncio.sleep(0)

    async def step(self) -> None:
        key, kind = self.draw.choice(self.keys), self.draw.random()
        if kind < 0.35:
            self.check(key, await self.cache.get(key, MISS))
        elif kind < 0.5:
            found = await self.cache.mget(self.keys)
            for each in self.keys:
                self.check(each, found.get(each, MISS))
        elif kind < 0.8:
            value = self.next_value(key)
            await self.cache.set(key, value)
            self.last[key] = value
        elif kind < 0.9:
            await self.cache.delete(key)
            self.last[key] = MISS
        else:
            await self.load(key)

    async def load(self, key: str) -> None:
        loaded = self.next_value(key)

        async def loader() -> str:
            self.last[key] = loaded
            return loaded

        value = await self.cache.get_or_load(key, loader)
        self.check(key, value)

    def check(self, key: str, value: Any) -> None:
        """A miss is never wrong; anything but the last value that was written is."""
        assert value is MISS or value == self.last[key], f"{value!r:.40} instead of {self.last[key]!r:.40}"


@pytest.mark.parametrize("name", TOXICS)
async def test_a_cache_gives_no_wrong_answer_and_hangs_nobody(
    valkey_url: str, prefix: str, name: str, seed: int
) -> None:
    draw = random.Random(f"{name}/{seed}")
    direction = draw.choice([Direction.UPSTREAM, Direction.DOWNSTREAM, Direction.BOTH])
    toxicity = draw.choice([0.5, 1.0])
    async with FaultProxy(valkey_url, seed=seed) as proxy, CacheManager(proxy.url, namespace=prefix) as cache:
        workers = [
            Worker(cache, str(number), random.Random(f"{name}/{seed}/{number}")) for number in range(WORKERS)
        ]
        await _all(workers, 0.1)
        with proxy.toxic(TOXICS[name](draw), direction=direction, toxicity=toxicity):
            await _all(workers, SECONDS / 2)
            proxy.cut(reset=draw.random() < 0.5)  # new connections meet it as well
            await _all(workers, SECONDS / 2)
        slowest = max(worker.slowest for worker in workers)
        assert slowest < WITHIN, f"a call took {slowest:.2f} s"
        async with asyncio.timeout(10):
            await cache.wait_healthy()
        await _all(workers, 0.1)
        assert min(worker.calls for worker in workers) > 3
        await cache.set("after", "whole")
        assert await cache.get("after") == "whole"
        await _idle(cache)


async def test_a_partition_is_an_outage_that_ends(valkey_url: str, prefix: str, seed: int) -> None:
    draw = random.Random(f"partition/{seed}")
    async with FaultProxy(valkey_url, seed=seed) as proxy, CacheManager(proxy.url, namespace=prefix) as cache:
        workers = [Worker(cache, str(n), random.Random(f"{seed}/{n}")) for n in range(WORKERS)]
        for refuse in (False, True):
            await _all(workers, 0.1)
            proxy.partition(refuse=refuse)
            await _all(workers, draw.uniform(0.3, 0.6))
            assert (await cache.health_check()).status == "degraded"
            proxy.heal()
            async with asyncio.timeout(10):
                await cache.wait_healthy()
        await _all(workers, 0.1)
        assert max(worker.slowest for worker in workers) < WITHIN
        await _idle(cache)


async def _all(workers: list[Worker], seconds: float) -> None:
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run(until))


async def _idle(cache: CacheManager) -> None:
    """Every connection comes back to the pool, or is gone."""
    async with asyncio.timeout(5):
        while True:
            pool = (await cache.health_check()).pool
            if pool is not None and pool.in_use == 0:
                return
            await asyncio.sleep(0.01)
