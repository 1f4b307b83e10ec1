"""Rounds of faults against what L1 believes: fill keys, break something while another process writes, and read.

A round is one key and one fault. Many run at a time, on keys, connections and caches of their own. What counts is
what is read one second after the fault is over: nothing that was replaced before. `Tally` also keeps how long the
old value was seen, and how many rounds truly had their value in L1 when the fault struck.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.testing import FaultProxy, Latency
from tests.jobs.kit import until

WireT = TypeVar("WireT")

AFTER = 1.0
"""Seconds after a fault from which on nothing old may be read."""

GONE = "gone"
_POOL = PoolOptions(max_connections=10, socket_timeout=10.0, connect_timeout=5.0)
_PATIENT = RedisStoreOptions(budget=5.0)  # these rounds are about L1, and not about outages
WRITER = CacheOptions(redis=_PATIENT)
_NEAR = NearOptions()


@dataclass
class Tally:
    """What came out of some rounds."""

    rounds: int = 0
    in_l1: int = 0
    stale: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def saw(self, seconds: float) -> None:
        """The old value was seen for so long after the fault."""
        self.slowest = max(self.slowest, seconds)


class SplitClient(RedisClient):
    """Commands take one way to the server, invalidations another."""

    def __init__(self, url: str, tracking_url: str) -> None:
        super().__init__(url, _POOL)
        self._tracking = RedisClient(tracking_url, _POOL)

    async def open_wire(self, make: Callable[[asyncio.AbstractEventLoop], Any]) -> Any:
        return await self._tracking.open_wire(make)

    async def aclose(self) -> None:
        await super().aclose()
        await self._tracking.aclose()


@contextlib.asynccontextmanager
async def pair(
    url: str, namespace: str, *, client: RedisClient | None = None, near: NearOptions = _NEAR
) -> AsyncIterator[tuple[CacheManager, CacheManager]]:
    """A cache with L1, through ``client`` if there is one, and another process' cache that writes."""
    options = CacheOptions(redis=_PATIENT, near=near)
    reader = (
        CacheManager(url, 10, namespace=namespace, options=options)
        if client is None
        else CacheManager(client=client, namespace=namespace, options=options)
    )
    async with reader, CacheManager(url, 10, namespace=namespace, options=WRITER) as writer:
        yield reader, writer


Write = Callable[[CacheManager, str, str], Awaitable[Any]]


async def _set(writer: CacheManager, key: str, value: str) -> str:
    await writer.set(key, value)
    return value


async def _delete(writer: CacheManager, key: str, _: str) -> str:
    await writer.delete(key)
    return GONE


async def _invalidate(writer: CacheManager, key: str, _: str) -> str:
    await writer.invalidate_tag(f"of {key}")
    return GONE


WRITES = (_set, _delete, _invalidate)
"""Foreign writes; each returns what stands under the key then."""


async def fill(reader: CacheManager, writer: CacheManager, key: str, value: str, tally: Tally) -> None:
    """Put a value through the writer, and into the reader's L1."""
    assert await writer.barrier(5.0)  # after a flush they agree on a generation first
    assert await reader.barrier(5.0)
    await writer.set(key, value, tags=[f"of {key}"])
    assert await reader.barrier(5.0)
    assert await reader.get(key, GONE) == value
    hits = reader.get_stats()["l1_hits"]
    assert await reader.get(key, GONE) == value
    tally.in_l1 += reader.get_stats()["l1_hits"] > hits
    tally.rounds += 1


async def fresh(reader: CacheManager, key: str, expected: str, since: float, tally: Tally, what: str) -> None:
    """Read until the value is the expected one; later than a second after ``since`` it must have been."""
    while True:
        asked = time.monotonic()
        found = await reader.get(key, GONE)
        if found == expected:
            break
        tally.saw(time.monotonic() - since)
        if asked > since + AFTER:
            tally.stale.append(f"{what}: {key} is {found} and not {expected}, {asked - since:.2f} s later")
            return
        await asyncio.sleep(0.002)


async def still(kept: list[tuple[CacheManager, str, str]], tally: Tally, what: str) -> None:
    """None of these comes back later."""
    for reader, key, expected in kept:
        found = await reader.get(key, GONE)
        if found != expected:
            tally.stale.append(f"{what}: {key} became {found} again")


# A reply that is slower than the invalidation of what it carries

_AT_ONCE = 20


async def delayed_replies(url: str, prefix: str, rounds: int, draw: random.Random) -> Tally:
    """Replies to reads are held back while another process writes and the invalidations arrive."""
    tally, late = Tally(), 0

    async def load() -> str:
        return GONE

    reads: list[Callable[[CacheManager, str], Awaitable[Any]]] = [
        lambda cache, key: cache.get(key, GONE),
        lambda cache, key: cache.mget([key]),
        lambda cache, key: cache.get_or_load(key, load),
    ]
    async with (
        FaultProxy(url) as proxy,
        SplitClient(proxy.url, url) as client,
        pair(url, prefix, client=client) as (reader, writer),
    ):
        for first in range(0, rounds, _AT_ONCE):
            keys = [f"{number}" for number in range(first, min(first + _AT_ONCE, rounds))]
            for key in keys:
                await writer.set(key, "old", tags=[f"of {key}"])
                if draw.random() < 0.5:  # in L1, and its tag known
                    await reader.get(key)
                    await writer.expire(key, 60)  # and out of it
            assert await reader.barrier(5.0)
            holding = proxy.toxic(Latency(60.0))
            sent = proxy.figures().bytes_upstream
            asked = [asyncio.create_task(_ask(draw.choice(reads), reader, key)) for key in keys]
            await until(lambda sent=sent: proxy.figures().bytes_upstream > sent)
            await asyncio.sleep(0.02)
            expected = [await draw.choice(WRITES)(writer, key, "new") for key in keys]
            assert reader._backend is not None
            assert reader._backend.listener is not None
            assert await reader._backend.listener.barrier(5.0)
            holding.remove()
            since = time.monotonic()
            late += sum("old" in str(answer) for answer in await asyncio.gather(*asked))
            for key, value in zip(keys, expected, strict=True):
                await fresh(reader, key, value, since - AFTER, tally, "delayed reply")
            tally.rounds += len(keys)
    tally.in_l1 = late  # here: rounds whose reply carried what had been replaced when it came
    return tally


async def _ask(read: Callable[[CacheManager, str], Awaitable[Any]], reader: CacheManager, key: str) -> Any:
    return await read(reader, key)


# The connection that hears

_LANES = 10


async def killed_listeners(url: str, prefix: str, rounds: int, draw: random.Random) -> Tally:
    """The connections that hear of writes are killed, those of others too, just before or after such a write."""
    tally = Tally()
    kept: list[tuple[CacheManager, str, str]] = []
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(RedisClient(url))
        pairs = [await stack.enter_async_context(pair(url, f"{prefix}{n}:")) for n in range(_LANES)]
        for number in range(-(-rounds // _LANES)):
            key = f"k{number}"
            for reader, _ in pairs:
                await _heard(reader)
            await asyncio.gather(*[fill(*each, key, "old", tally) for each in pairs])
            pauses = [draw.uniform(0.0, 0.01) if draw.random() < 0.7 else 0.0 for _ in pairs]
            writes = [
                asyncio.create_task(_later(pause, draw.choice(WRITES), writer, key))
                for pause, (_, writer) in zip(pauses, pairs, strict=True)
            ]
            await asyncio.sleep(draw.uniform(0.0, 0.005))
            await admin.execute("CLIENT", "KILL", "TYPE", "pubsub")
            expected = await asyncio.gather(*writes)
            since = time.monotonic()
            now = [(reader, key, value) for (reader, _), value in zip(pairs, expected, strict=True)]
            await asyncio.gather(*[fresh(*each, since, tally, "killed listener") for each in now])
            kept += now
        await asyncio.sleep(AFTER)
        await still(kept, tally, "killed listener")
    return tally


async def _later(seconds: float, write: Write, writer: CacheManager, key: str) -> Any:
    await asyncio.sleep(seconds)
    return await write(writer, key, "new")


async def _heard(reader: CacheManager) -> None:
    """L1 is vouched for."""

    async def up() -> bool:
        return (await reader.health_check()).l1 == "up"

    await until(up)


async def partitioned_listeners(url: str, prefix: str, rounds: int, draw: random.Random) -> Tally:
    """No invalidation arrives, another process writes, and later the network is whole again.

    Meanwhile L1 may answer what is older than its bound at most, here half a second.
    """
    tally, lanes = Tally(), min(2 * _LANES, rounds)
    seeds = [draw.random() for _ in range(lanes)]
    each = [
        _partitioned(url, f"{prefix}{n}:", rounds // lanes, random.Random(seeds[n]), tally)
        for n in range(lanes)
    ]
    await asyncio.gather(*each)
    return tally


BOUND = 0.5
_SLACK = 0.3  # seconds that a busy machine may add to a read that began within the bound


async def _partitioned(url: str, prefix: str, rounds: int, draw: random.Random, tally: Tally) -> None:
    kept: list[tuple[CacheManager, str, str]] = []
    async with FaultProxy(url) as proxy, SplitClient(url, proxy.url) as client:
        near = NearOptions(max_staleness=BOUND)
        async with pair(url, prefix, client=client, near=near) as (reader, writer):
            for number in range(rounds):
                key = f"k{number}"
                await _heard(reader)
                await fill(reader, writer, key, "old", tally)
                proxy.partition(refuse=draw.random() < 0.3)
                if draw.random() < 0.3:
                    proxy.cut(reset=draw.random() < 0.5)
                expected = await draw.choice(WRITES)(writer, key, "new")
                written = time.monotonic()
                ends = written + draw.uniform(0.0, 3 * BOUND)
                while (asked := time.monotonic()) < ends:
                    found = await reader.get(key, GONE)
                    if found != expected and asked > written + BOUND + _SLACK:
                        tally.stale.append(
                            f"partition: {found} beyond the bound by {asked - written - BOUND:.2f} s"
                        )
                    await asyncio.sleep(0.01)
                proxy.heal()
                await fresh(reader, key, expected, time.monotonic(), tally, "partition")
                kept.append((reader, key, expected))
            await asyncio.sleep(AFTER)
            await still(kept, tally, "partition")


# The server forgets


async def flushed_servers(url: str, prefix: str, rounds: int, draw: random.Random) -> Tally:
    """FLUSHALL and its like, on a server of one's own."""
    tally = Tally()
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(RedisClient(url))
        pairs = [await stack.enter_async_context(pair(url, f"{prefix}{n}:")) for n in range(_LANES)]
        for number in range(-(-rounds // _LANES)):
            key = f"k{number}"
            await asyncio.gather(*[fill(*each, key, "old", tally) for each in pairs])
            if draw.random() < 0.3:
                await admin.execute("SCRIPT", "FLUSH")
            await admin.execute(*draw.choice([("FLUSHALL",), ("FLUSHDB",), ("FLUSHALL", "ASYNC")]))
            since = time.monotonic()
            await asyncio.gather(*[fresh(reader, key, GONE, since, tally, "flush") for reader, _ in pairs])
        await asyncio.sleep(AFTER)
        kept = [(reader, f"k{n}", GONE) for reader, _ in pairs for n in range(-(-rounds // _LANES))]
        await still(kept, tally, "flush")
    return tally


async def short_lives(url: str, prefix: str, rounds: int, draw: random.Random) -> Tally:
    """Keys whose time is short, on a server that expires nothing by itself, beside many that live long.

    The server must allow DEBUG. Nobody tells L1 of such an end: it knows the time itself.
    """
    tally, long = Tally(), 100_000 if rounds >= 100 else 10_000
    script = "for i = 1, ARGV[1] do redis.call('SET', KEYS[1] .. i, i, 'PX', 3600000 + i) end"

    async def live(reader: CacheManager, writer: CacheManager, key: str) -> None:
        ttl = draw.uniform(0.3, 0.6)
        for_long = draw.choice(["set", "expire", "incr", "touch", "mset"])
        value: Any = "old"
        if for_long == "set":
            await writer.set(key, value, ttl=ttl)
        elif for_long == "mset":
            await writer.mset({key: value}, ttl=ttl)
        elif for_long == "incr":
            value = await writer.incr(key, 1, ttl=ttl)
        else:
            await writer.set(key, value, ttl=600)
            assert await reader.get(key) == value  # in L1, for long
            await (writer.expire(key, ttl) if for_long == "expire" else writer.touch(key, ttl=ttl))
            assert await reader.barrier(5.0)
        since = time.monotonic() + ttl
        first = await reader.get(key, GONE)
        assert first in (value, GONE)
        tally.in_l1 += first == value
        tally.rounds += 1
        await asyncio.sleep(max(0.0, since + AFTER - time.monotonic()))
        found = await reader.get(key, GONE)
        if found != GONE:
            tally.stale.append(f"{for_long}: {key} lives on")

    async with RedisClient(url, _POOL) as admin, pair(url, prefix) as (reader, writer):
        await admin.execute("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        try:
            for part in range(long // 1_000):  # in one go it would be an outage
                await admin.execute("EVAL", script, 1, f"long:{prefix}{part}:", 1_000)
            for first in range(0, rounds, 500):
                await asyncio.gather(
                    *[live(reader, writer, f"k{number}") for number in range(first, min(first + 500, rounds))]
                )
        finally:
            await admin.execute("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    return tally
