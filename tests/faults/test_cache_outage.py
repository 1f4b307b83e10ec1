"""A cache that loses its server, beside another that does not: nothing that was replaced comes back, to either."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager, Consistency
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from aioinfra.testing import Direction, FaultProxy
from aioinfra.testing.toxics import Forward, Stage, Toxic
from tests.conftest import OwnServerFactory
from tests.faults.full_count import full_count
from tests.jobs.kit import until

GONE = "gone"
BUDGET = 0.1
OPTIONS = CacheOptions(redis=RedisStoreOptions(budget=BUDGET))
# The other one is never in an outage, however busy the machine is.
PATIENT = CacheOptions(redis=RedisStoreOptions(budget=5.0))


@asynccontextmanager
async def beside(
    url: str, prefix: str, options: CacheOptions = OPTIONS
) -> AsyncIterator[tuple[FaultProxy, CacheManager, CacheManager]]:
    """A cache behind a proxy, and one that is not; both have L1."""
    async with (
        FaultProxy(url) as proxy,
        CacheManager(proxy.url, 10, namespace=prefix, options=options) as cache,
        CacheManager(url, 10, namespace=prefix, options=PATIENT) as other,
    ):
        yield proxy, cache, other


async def healthy(cache: CacheManager) -> None:
    async with asyncio.timeout(10):
        await cache.wait_healthy()


async def has_old(cache: CacheManager, name: str, consistency: Consistency) -> None:
    """Read until the server has answered; a busy machine may make an outage of a budget of 100 ms."""
    async with asyncio.timeout(10):
        while await cache.get(name, GONE, consistency=consistency) != "old":
            await healthy(cache)


async def test_a_hung_server_costs_a_read_little_more_than_its_budget(
    own_server: OwnServerFactory, prefix: str
) -> None:
    """50 reads with a budget of 50 ms: the 99th of 100 within 60 ms, and no crowd of new connections."""
    server = own_server(tcp=True)
    options = CacheOptions(redis=RedisStoreOptions(budget=0.05))
    best = 1.0
    async with (
        FaultProxy(server.url) as proxy,
        CacheManager(proxy.url, namespace=prefix, options=options) as cache,
    ):
        for attempt in range(8):  # one of them while the machine is not busy elsewhere
            await cache.set("k", attempt)
            before = proxy.figures().connections
            server.stop_process()
            try:
                taken = await asyncio.gather(*[_timed(cache.get(f"k{number}")) for number in range(50)])
                after = [await _timed(cache.get("k")) for _ in range(5)]  # memory answers at once
            finally:
                server.continue_process()
            best = min(best, max(taken))
            assert proxy.figures().connections - before <= 2
            assert max(after) < 0.05
            await healthy(cache)
            if best <= 0.06:
                break
            await asyncio.sleep(0.2)
    assert best <= 0.06


async def _timed(call: Awaitable[Any]) -> float:
    began = time.monotonic()
    await call
    return time.monotonic() - began


async def test_the_first_probe_that_is_answered_ends_the_outage(
    own_server: OwnServerFactory, prefix: str
) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix, options=OPTIONS) as cache:
        for seconds in (0.3, 1.5):
            server.stop_process()
            try:
                await cache.get("k")
                await asyncio.sleep(seconds)
                assert (await cache.health_check()).status == "degraded"
            finally:
                server.continue_process()
            began = time.monotonic()
            await healthy(cache)
            assert (
                time.monotonic() - began < 1.0 + 0.5
            )  # the longest pause between probes, and a busy machine


# What is written during a partition

Write = Callable[[CacheManager, str], Awaitable[Any]]


async def _load(cache: CacheManager, key: str) -> None:
    async def load() -> str:
        return "new"

    await cache.delete(key)
    await cache.get_or_load(key, load)


async def _twice(cache: CacheManager, key: str) -> None:
    await cache.delete(key)
    await cache.set(key, "new")


WRITES: dict[str, Write] = {
    "delete": lambda cache, key: cache.delete(key),
    "set": lambda cache, key: cache.set(key, "new"),
    "mset": lambda cache, key: cache.mset({key: "new"}),
    "load": _load,
    "clear": lambda cache, key: cache.clear(f"{key}*"),
    "invalidate_tag": lambda cache, key: cache.invalidate_tag(f"of {key}"),
    "delete, then set": _twice,
}


@pytest.mark.timeout(300)  # 25 partitions each in `make chaos`
async def test_what_was_replaced_in_a_partition_never_comes_back(
    valkey_url: str, prefix: str, seed: int, pytestconfig: pytest.Config
) -> None:
    """To the one that replaced it at once, to the other two seconds after the heal at the latest."""
    draw = random.Random(f"partition/{seed}")
    rounds, keys = (25, 40) if full_count(pytestconfig) else (2, 20)
    async with beside(valkey_url, prefix) as (proxy, cache, other):
        for number in range(rounds):
            names = [f"{number}:{each}" for each in range(keys)]
            for name in names:
                await other.set(name, "old", tags=[f"of {name}"])
            for name in names:  # in L1 of both
                assert await other.get(name) == "old"
                await has_old(cache, name, draw.choice(["near", "strong"]))
            proxy.partition(refuse=draw.random() < 0.5)
            if draw.random() < 0.3:
                proxy.cut(reset=True)

            async def replace(name: str) -> None:
                await asyncio.sleep(draw.uniform(0.0, 0.1))
                await draw.choice(list(WRITES.values()))(cache, name)
                assert await cache.get(name, GONE) != "old"

            await asyncio.gather(*[replace(name) for name in names])
            await asyncio.sleep(draw.uniform(0.0, 0.5))
            assert not [name for name in names if await cache.get(name, GONE) == "old"]
            proxy.heal()
            healed = time.monotonic()
            seen_by_other = 0.0
            while time.monotonic() < healed + 0.7 or (await cache.health_check()).status != "healthy":
                mine, theirs = await cache.mget(names), await other.mget(names)
                assert "old" not in mine.values()
                if "old" in theirs.values():
                    seen_by_other = time.monotonic() - healed
                    assert seen_by_other < 2.0
                await asyncio.sleep(0.01)
            for each in (cache, other):
                assert "old" not in (await each.mget(names)).values()
                assert "old" not in (await each.mget(names, consistency="strong")).values()


async def test_a_partition_in_which_others_hold_the_connections_is_an_outage_too(
    valkey_url: str, prefix: str
) -> None:
    """What is open hangs, busy with somebody else's calls, and nothing new can be opened: no back pressure."""
    async with (
        FaultProxy(valkey_url) as proxy,
        RedisClient(proxy.url) as client,
        CacheManager(client=client, namespace=prefix, options=OPTIONS) as cache,
    ):
        await has_been_set(cache, "a", "old")
        proxy.partition(refuse=True)
        others = [asyncio.create_task(client.ping()) for _ in range(client.figures().idle)]
        await asyncio.sleep(0)
        assert client.figures().idle == 0
        await cache.set("a", "new")
        assert (await cache.health_check()).status == "degraded"
        assert await cache.get("a") == "new"
        proxy.heal()
        await asyncio.gather(*others, return_exceptions=True)
        await healthy(cache)
        assert await cache.get("a", GONE, consistency="strong") == GONE


async def has_been_set(cache: CacheManager, name: str, value: str) -> None:
    """Write until the server has it; a busy machine may make an outage of a budget of 100 ms."""
    async with asyncio.timeout(10):
        while await cache.get(name, GONE, consistency="strong") != value:
            await healthy(cache)
            await cache.set(name, value)


@dataclass(frozen=True, slots=True)
class Late(Toxic):
    """What passes while it is on arrives so many seconds late, also when it is off by then."""

    on: asyncio.Event
    delay: float

    async def carry(self, stage: Stage, data: bytes, came: float, forward: Forward) -> None:
        if self.on.is_set():
            await stage.pause(self.delay)
        await forward(data, stage.now())


async def test_a_write_that_was_given_up_does_not_land_on_a_later_one(
    valkey_url: str, prefix: str, seed: int
) -> None:
    """One connection is silent for longer than the budget, the server is well."""
    draw = random.Random(f"late/{seed}")
    on = asyncio.Event()
    async with beside(valkey_url, prefix) as (proxy, cache, other):
        for number in range(3):
            key, delay = f"k{number}", draw.uniform(0.4, 0.8)
            late = proxy.toxic(Late(on, delay), direction=Direction.UPSTREAM)
            on.set()
            await cache.set(key, "older")
            on.clear()
            await healthy(cache)
            await (cache.set(key, "newer") if draw.random() < 0.5 else cache.delete(key))
            await asyncio.sleep(delay)
            late.remove()
            await healthy(cache)
            assert await other.get(key, GONE, consistency="strong") != "older"
            assert await cache.get(key, GONE) != "older"


async def test_more_than_can_be_remembered_ends_the_namespace(valkey_url: str, prefix: str) -> None:
    options = CacheOptions(redis=RedisStoreOptions(budget=BUDGET), max_remembered=5)
    async with beside(valkey_url, prefix, options) as (proxy, cache, other):
        await other.mset({str(number): "old" for number in range(30)})
        assert len(await other.mget(map(str, range(30)))) == 30
        assert len(await cache.mget(map(str, range(30)))) == 30
        async with RedisClient(valkey_url) as raw:
            before = await raw.execute("GET", f"aioinfra:cache-meta:{prefix}generation")
            proxy.partition()
            await asyncio.gather(*[cache.delete(str(number)) for number in range(20)])
            proxy.heal()
            await healthy(cache)
            assert await raw.execute("GET", f"aioinfra:cache-meta:{prefix}generation") != before
        assert await cache.mget(map(str, range(30))) == {}
        assert await other.barrier(5.0)
        assert await other.mget(map(str, range(30))) == {}
        await cache.set("k", "after")
        assert await other.get("k") == "after"


async def test_what_memory_answers_never_enters_l1(
    valkey_url: str, prefix: str, seed: int, pytestconfig: pytest.Config
) -> None:
    """Readers never pause while outages begin and end between their questions and the answers."""
    draw = random.Random(f"memory/{seed}")
    keys = [str(number) for number in range(8)]
    rounds = 40 if full_count(pytestconfig) else 4
    async with beside(valkey_url, prefix) as (proxy, cache, other):
        truth = -1

        async def load() -> int:
            return truth

        async def reader(own: random.Random) -> None:
            while True:
                key = own.choice(keys)
                await _read(cache, key, keys, load, own)
                await asyncio.sleep(own.choice([0, 0, 0.001]))

        readers = [asyncio.create_task(reader(random.Random(f"{seed}/{n}"))) for n in range(20)]
        try:
            for number in range(rounds):
                proxy.partition(refuse=draw.random() < 0.5)
                await asyncio.sleep(draw.uniform(0.0, 0.2))
                await asyncio.gather(*[cache.set(key, "memory") for key in keys[::2]])
                await asyncio.sleep(draw.uniform(0.0, 0.1))
                proxy.heal()
                if draw.random() < 0.5:
                    await asyncio.sleep(draw.uniform(0.0, 0.05))
                    proxy.partition()
                    await asyncio.sleep(draw.uniform(0.0, 0.2))
                    proxy.heal()
                await healthy(cache)
                await until(lambda: cache.get_stats()["memory_entries"] == 0)
                truth = number
                await other.mset(dict.fromkeys(keys, number))
                if not await cache.barrier(5.0):
                    continue  # the connection that hears is on its way: L1 is not used
                await healthy(cache)
                found = [await cache.get(key, GONE) for key in keys]
                # A busy machine has outages of its own, and the way back from one deletes what it remembers.
                assert set(found) <= {number, GONE}, found
        finally:
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


async def _read(cache: CacheManager, key: str, keys: list[str], load: Any, own: random.Random) -> None:
    kind = own.randrange(3)
    if kind == 0:
        await cache.get(key)
    elif kind == 1:
        await cache.mget(keys)
    else:
        await cache.get_or_load(key, load)


@pytest.mark.parametrize("began", ["before the outage", "in the outage"])
async def test_what_was_loaded_across_an_outage_is_not_stored_after_it(
    valkey_url: str, prefix: str, began: str
) -> None:
    """Others may have changed it meanwhile, unheard."""
    started, go = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await go.wait()
        return "old"

    async with beside(valkey_url, prefix) as (proxy, cache, other):
        if began == "before the outage":
            loading = asyncio.create_task(cache.get_or_load("k", load))
            await started.wait()
        proxy.partition()
        await cache.set("unrelated", 1)
        assert (await cache.health_check()).status == "degraded"
        if began == "in the outage":
            loading = asyncio.create_task(cache.get_or_load("k", load))
            await started.wait()
        await other.delete("k")
        proxy.heal()
        await healthy(cache)
        go.set()
        assert await loading == "old"
        assert await other.get("k", GONE, consistency="strong") == GONE
        assert await cache.get("k", GONE) == GONE
