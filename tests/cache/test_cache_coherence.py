"""Several caches on one server: nobody reads what was replaced before it asked, but for what L1 is allowed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.cache.store import MISS
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.testing import FaultProxy, Latency
from tests.faults.full_count import full_count

# A busy machine answers late; these tests are not about outages.
OPTIONS = CacheOptions(redis=RedisStoreOptions(budget=3.0))
POOL = PoolOptions(socket_timeout=10.0, connect_timeout=5.0)


@asynccontextmanager
async def two(url: str, prefix: str) -> AsyncIterator[tuple[CacheManager, CacheManager]]:
    """Two caches that share nothing but the server."""
    async with (
        CacheManager(url, namespace=prefix, options=OPTIONS) as one,
        CacheManager(url, namespace=prefix, options=OPTIONS) as other,
    ):
        yield one, other


# Barriers

Write = Callable[[CacheManager, int], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "set": lambda cache, number: cache.set("k", number, tags=["t"]),
    "mset": lambda cache, number: cache.mset({"k": number, "other": number}),
    "delete": lambda cache, number: cache.delete("k"),
    "clear pattern": lambda cache, number: cache.clear("k*"),
    "clear all": lambda cache, number: cache.clear(all=True),
    "invalidate_tag": lambda cache, number: cache.invalidate_tag("t"),
    "invalidate_all": lambda cache, number: cache.invalidate_all(),
}


@pytest.mark.parametrize("how", WRITES)
async def test_after_a_barrier_nothing_is_read_that_another_process_replaced(
    redis_url: str, prefix: str, how: str
) -> None:
    async with two(redis_url, prefix) as (cache, other):
        for number in range(30):
            await cache.set("k", -1, tags=["t"])
            assert await cache.get("k") == -1
            await WRITES[how](other, number)
            assert await cache.barrier(5.0)
            found = await cache.mget(["k"]) if number % 2 else {"k": await cache.get("k", "gone")}
            assert found.get("k", "gone") == (number if how in ("set", "mset") else "gone")


async def test_five_thousand_writes_elsewhere_and_none_is_missed_after_a_barrier(
    redis_url: str, prefix: str
) -> None:
    """Each of these readers keeps its key in L1 and is told of each write by the barrier alone."""
    rounds, keys = 250, 20

    async def reader(key: str, cache: CacheManager, other: CacheManager) -> int:
        old = 0
        for number in range(rounds):
            await other.set(key, number)
            assert await cache.barrier(10.0)
            old += await cache.get(key) != number
            old += await cache.get(key) != number  # from L1
        return old

    async with two(redis_url, prefix) as (cache, other):
        old = await asyncio.gather(*[reader(f"k{number}", cache, other) for number in range(keys)])
        assert sum(old) == 0
        assert cache.get_stats()["l1_hits"] >= rounds * keys / 2


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("l1", [True, False], ids=["L1", "no L1"])
async def test_a_strong_read_sees_what_another_process_has_just_done(
    valkey_url: str, prefix: str, how: str, l1: bool
) -> None:
    options = replace(OPTIONS, near=NearOptions(enabled=l1))
    async with (
        CacheManager(valkey_url, namespace=prefix, options=options) as cache,
        CacheManager(valkey_url, namespace=prefix, options=OPTIONS) as other,
    ):
        for number in range(20):
            await cache.set("k", -1, tags=["t"])
            assert await cache.get("k") == -1
            await WRITES[how](other, number)
            expected = number if how in ("set", "mset") else "gone"
            if number % 2:
                found = await cache.mget(["k"], consistency="strong")
                assert found.get("k", "gone") == expected
            else:
                assert await cache.get("k", "gone", consistency="strong") == expected


# Own writes


@pytest.mark.parametrize("how", WRITES)
async def test_own_writes_are_read_among_a_hundred_readers(redis_url: str, prefix: str, how: str) -> None:
    """Values are numbers that only rise: who asks after a write was acknowledged never gets an older one."""
    least = 0
    written = 0

    async def load() -> int:
        seen = written
        await asyncio.sleep(0)
        return seen

    async with CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache:

        async def reader(draw: random.Random, ended: asyncio.Event) -> int:
            reads = 0
            while not ended.is_set():
                expected = least
                kind = draw.randrange(4)
                if kind == 0:
                    found = await cache.get("k", MISS)
                elif kind == 1:
                    found = (await cache.mget(["k", "other"])).get("k", MISS)
                elif kind == 2:
                    found = await cache.get_or_load("k", load, tags=["t"])
                else:
                    found = await cache.get("k", MISS, consistency="strong")
                assert found is MISS or found >= expected, f"{found} is older than {expected}"
                reads += 1
                if draw.random() < 0.3:
                    await asyncio.sleep(0)
            return reads

        ended = asyncio.Event()
        readers = [asyncio.create_task(reader(random.Random(n), ended)) for n in range(100)]
        try:
            for number in range(1, 61):
                written = number  # the truth changes first, as in a database
                await WRITES[how](cache, number)
                least = number
                for _ in range(number % 4):
                    await asyncio.sleep(0)
        finally:
            ended.set()
            counts = await asyncio.gather(*readers)
        assert min(counts) > 0


# A random walk of two caches beside a plain dict


class Walk:
    """Two caches and what they should hold. One step at a time, so every answer is known."""

    def __init__(self, caches: tuple[CacheManager, CacheManager], draw: random.Random) -> None:
        self.caches = caches
        self.draw = draw
        self.truth: dict[str, int] = {}
        self.tags: dict[str, tuple[str, ...]] = {}
        self.number = 0
        self.fresh = [True, True]
        self.done: list[str] = []

    def drop(self, keys: list[str]) -> None:
        for key in keys:
            self.truth.pop(key, None)
            self.tags.pop(key, None)

    async def step(self) -> None:
        """A write by one of them, then a barrier on the other and reads by both."""
        draw, me = self.draw, self.draw.randrange(2)
        verb = draw.choice(
            [
                "set",
                "set",
                "set tagged",
                "set tagged",
                "mset",
                "load",
                "load",
                "delete",
                "tag",
                "clear",
                "all",
            ]
        )
        key = f"{draw.choice('ab')}{draw.randrange(4)}"
        self.number += 1
        self.done.append(f"{self.number}: {verb} {key} by {me}")
        await self.write(self.caches[me], verb, key)
        assert await self.caches[1 - me].barrier(5.0)
        for cache in draw.sample(self.caches, 2):
            for each in draw.sample([f"{letter}{digit}" for letter in "ab" for digit in range(4)], 4):
                await self.read(cache, each)

    async def write(self, cache: CacheManager, verb: str, key: str) -> None:
        number, tag = self.number, f"tag{self.draw.randrange(3)}"
        if verb in ("set", "set tagged"):
            tags = () if verb == "set" else (tag, f"letter {key[0]}")
            await cache.set(key, number, tags=tags)
            self.truth[key], self.tags[key] = number, tags
        elif verb == "mset":
            await cache.mset({key: number, "a0": number})
            for each in (key, "a0"):
                self.truth[each], self.tags[each] = number, ()
        elif verb == "load":
            await self.load(cache, key, (tag,))
        elif verb == "delete":
            await cache.delete(key)
            self.drop([key])
        elif verb == "tag":
            ended = self.draw.choice([tag, f"letter {key[0]}"])
            await cache.invalidate_tag(ended)
            self.drop([each for each, tags in self.tags.items() if ended in tags])
        elif verb == "clear":
            await cache.clear(f"{key[0]}*")
            self.drop([each for each in self.truth if each[0] == key[0]])
        else:
            await (cache.invalidate_all() if self.draw.random() < 0.5 else cache.clear(all=True))
            self.drop(list(self.truth))

    async def load(self, cache: CacheManager, key: str, tags: tuple[str, ...]) -> None:
        async def loader() -> int:
            await asyncio.sleep(0)
            return self.number

        value = await cache.get_or_load(key, loader, tags=tags)
        assert value == self.truth.get(key, self.number), self.told(key, value)
        if key not in self.truth:
            self.truth[key], self.tags[key] = value, tags

    async def read(self, cache: CacheManager, key: str) -> None:
        kind = self.draw.randrange(4)
        if kind == 0:
            found = (await cache.mget([key])).get(key, MISS)
        elif kind == 1:
            found = await cache.get(key, MISS, consistency="strong")
        else:
            found = await cache.get(key, MISS)
        assert found == self.truth.get(key, MISS), self.told(key, found)

    def told(self, key: str, found: Any) -> str:
        return f"{key}: {found} instead of {self.truth.get(key, MISS)}, after " + "; ".join(self.done[-12:])


async def test_a_random_walk_of_two_caches_is_a_dict(
    redis_url: str, prefix: str, seed: int, pytestconfig: pytest.Config
) -> None:
    steps = 2_000 if full_count(pytestconfig) else 300
    async with two(redis_url, prefix) as caches:
        walk = Walk(caches, random.Random(f"walk/{seed}"))
        until = time.monotonic() + 40
        while walk.number < steps and time.monotonic() < until:
            await walk.step()
        assert walk.number > 50


async def test_the_same_walk_over_a_network_that_delays_and_reorders(
    valkey_url: str, prefix: str, seed: int
) -> None:
    """Connections are late by different times, so invalidations and replies overtake each other."""
    options = CacheOptions(redis=RedisStoreOptions(budget=5.0))
    async with (
        FaultProxy(valkey_url, seed=seed) as proxy,
        RedisClient(proxy.url, POOL) as client,
        CacheManager(client=client, namespace=prefix, options=options) as one,
        CacheManager(valkey_url, namespace=prefix, options=options) as other,
    ):
        walk = Walk((one, other), random.Random(f"late/{seed}"))
        with proxy.toxic(Latency(0.004, jitter=0.004)):
            for _ in range(60):
                await walk.step()
