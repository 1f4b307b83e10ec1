"""A master that Sentinels watch crashes, hangs or is replaced: the cache answers on, and never from the old one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.tracking import TrackingOptions, TrackingState
from aioinfra.errors import StoreUnavailable
from aioinfra.testing import RedisServer, SentinelSetup
from tests.connection.test_sentinel import sentinel_url, until
from tests.connection.test_tracking import Heard, listening

OUTAGE = 5.0  # seconds from the fault until the server answers again
FROZEN = 6.0  # seconds that a master is stopped
BOUND = 2.0  # seconds: how old a hit in L1 may be
SLOWEST = 1.0  # seconds of a cache call; its budget is a quarter of that
POOL = PoolOptions(socket_timeout=1.0)


@dataclass
class Seen:
    """What somebody met who called all the time."""

    calls: int = 0
    errors: list[StoreUnavailable] = field(default_factory=list)
    slowest: float = 0.0
    answers: set[object] = field(default_factory=set)


@asynccontextmanager
async def calling(call: Callable[[int], Awaitable[object]]) -> AsyncIterator[Seen]:
    """Somebody calls every few milliseconds for the time of the block."""
    seen = Seen()

    async def run() -> None:
        for number in itertools.count():
            before = time.monotonic()
            try:
                seen.answers.add(await call(number))
            except StoreUnavailable as error:
                seen.errors.append(error)
            seen.calls += 1
            seen.slowest = max(seen.slowest, time.monotonic() - before)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(run())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def strike(setup: SentinelSetup, fault: str) -> RedisServer:
    """Take the master away, one way or another; returns it."""
    if fault == "crash":
        return await setup.kill_master()
    if fault == "hang":
        return await setup.freeze_master()
    old = await setup.master_server()
    await setup.failover()
    return old


async def serves(client: RedisClient, old: RedisServer) -> float:
    """Wait until another server than the old one takes a write of the client; when it has."""
    async with asyncio.timeout(OUTAGE + 3):
        while True:
            with contextlib.suppress(StoreUnavailable):
                _, port = await client.execute("CONFIG", "GET", "port")
                await client.execute("SET", "who", "new")
                if int(port) != old.port:
                    return time.monotonic()
            await asyncio.sleep(0.01)


async def read_again(cache: CacheManager, wanted: str) -> None:
    """Read until a value comes, which has to be within the bound."""
    async with asyncio.timeout(BOUND):
        while await cache.get("key") != wanted:  # noqa: ASYNC110 - what a user does
            await asyncio.sleep(0.005)


async def wait_copied(setup: SentinelSetup) -> None:
    """Wait until the replicas have everything."""
    assert await (await setup.master_server()).admin("WAIT", setup.options.replicas, 3000) == 2


@pytest.mark.parametrize("fault", ["crash", "hang", "failover"])
async def test_the_cache_answers_all_along_and_comes_back_to_the_new_master(
    fault: str, prefix: str, request: pytest.FixtureRequest
) -> None:
    setup = SentinelSetup()
    async with setup, AsyncExitStack() as stack:
        client, own, others = [
            await stack.enter_async_context(RedisClient(sentinel_url(setup), POOL)) for _ in range(3)
        ]
        cache = await stack.enter_async_context(CacheManager(client=own, namespace=prefix))
        other = await stack.enter_async_context(CacheManager(client=others, namespace=prefix))
        await cache.set("key", "before")
        assert await other.get("key") == "before"
        await wait_copied(setup)
        async with (
            calling(lambda _: cache.get("key")) as cached,
            calling(lambda number: client.execute("SET", "count", number)) as plain,
        ):
            began = time.monotonic()
            old = await strike(setup, fault)
            outage = await serves(client, old) - began
            await until(lambda: own.figures().switches == others.figures().switches == 1)
            async with asyncio.timeout(5):
                await asyncio.gather(cache.wait_healthy(), other.wait_healthy())
            again = time.monotonic() - began
            await other.set("key", "after")
            await read_again(cache, "after")
        if fault == "hang":
            old.thaw()
        request.node.user_properties += [
            ("server away, s", round(outage, 3)),
            ("cache back after, s", round(again, 3)),
            ("plain calls that failed", len(plain.errors)),
            ("slowest call of the cache, s", round(cached.slowest, 3)),
        ]
        assert outage < OUTAGE
        assert not cached.errors
        assert cached.slowest < SLOWEST
        assert client.figures().switches == 1


async def test_an_old_master_that_comes_back_is_believed_by_nobody(prefix: str) -> None:
    setup, heard, who = SentinelSetup(), Heard(), f"{prefix}who"
    async with setup, AsyncExitStack() as stack:
        busy, idle, others = [
            await stack.enter_async_context(RedisClient(sentinel_url(setup), POOL)) for _ in range(3)
        ]
        cache = await stack.enter_async_context(CacheManager(client=busy, namespace=prefix))
        other = await stack.enter_async_context(CacheManager(client=others, namespace=prefix))
        listener = await stack.enter_async_context(listening(busy, [prefix], heard, TrackingOptions()))
        lease = stack.enter_context(idle.blocking_connection())
        reads: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: idle.execute("GET", who),
            lambda: idle.raw.get(who),
            lambda: asyncio.to_thread(lease.get, who),
        )
        await busy.execute("SET", who, "before")
        await cache.set("key", "before")
        assert [await read() for read in reads] == [b"before"] * 3
        await wait_copied(setup)

        old = await setup.freeze_master()
        frozen_at = time.monotonic()
        await serves(busy, old)
        await until(lambda: others.figures().switches == 1)
        await busy.execute("SET", who, "after")
        await other.set("key", "after")
        await asyncio.sleep(frozen_at + FROZEN - time.monotonic())
        old.thaw()
        assert (await old.admin("ROLE"))[0] == b"master", "it does not know better"
        assert await old.admin("GET", who) == b"before"
        await old.admin("SET", f"{prefix}on the old one", 1)

        assert [await read() for read in reads] == [b"after"] * 3
        async with (
            calling(lambda _: cache.get("key")) as cached,
            calling(lambda _: busy.execute("GET", who)) as plain,
        ):
            await busy.execute("SET", f"{prefix}on the new one", 1)
            await heard.until(lambda: f"{prefix}on the new one".encode() in heard)
            await asyncio.sleep(3)
            assert (await old.admin("ROLE"))[0] == b"master", "the Sentinels have not told it yet"
        assert (cached.answers, plain.answers) == ({"after"}, {b"after"})
        assert cached.errors + plain.errors == []
        assert listener.state is TrackingState.UP
        assert f"{prefix}on the old one".encode() not in heard
        assert busy.figures().switches == idle.figures().switches == 1
