"""Outages of a real server: memory answers, and nothing of it outlives the outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioinfra.cache.decorator import cached
from aioinfra.cache.fallback import FallbackStore
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DeadlineExceeded, StoreDenied, StoreFull, StoreUnavailable
from aioinfra.testing import VirtualClock
from tests.fair_time import fair_time

Servers = Callable[..., Any]


def fallback_of(cache: CacheManager) -> FallbackStore:
    assert cache._backend is not None
    assert cache._backend.fallback is not None
    return cache._backend.fallback


@asynccontextmanager
async def raw(server: Any) -> AsyncIterator[RedisClient]:
    """A look at the server past the cache."""
    async with RedisClient(server.url) as client:
        yield client


async def healed(cache: CacheManager, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        await cache.wait_healthy()


async def test_memory_answers_at_once_and_the_server_again_after_it(own_server: Servers, prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.mset({"before": 1, "changed": "old", "removed": "old", "cleared": "old"})
        server.kill()
        assert await cache.get("before", "unknown") == "unknown"
        started = fair_time()
        await cache.set("changed", "new")
        await cache.set("added", "new")
        assert await cache.get("changed") == "new"
        assert await cache.mget(["changed", "added", "before"]) == {"changed": "new", "added": "new"}
        assert await cache.exists("changed")
        await cache.delete("removed")
        await cache.clear("clea*")
        assert fair_time() - started < 1.2  # a budget each would be 1.75
        health = await cache.health_check()
        assert (health.status, health.mode, health.remembered_keys) == ("degraded", "redis", 3)
        assert health.reason
        server.start()
        await healed(cache)
        assert (await cache.health_check()).status == "healthy"
        assert await cache.mget(["before", "changed", "added", "removed", "cleared"]) == {"before": 1}
        async with raw(server) as client:
            assert await client.execute("KEYS", prefix + "*") == [(prefix + "before").encode()]
        assert cache.get_stats()["memory_entries"] == 0
        assert cache.get_stats()["outages"] == 1
        await cache.set("changed", "after")
        assert await cache.get("changed") == "after"


async def test_a_cache_starts_without_its_server_and_finds_it_later(own_server: Servers, prefix: str) -> None:
    server = own_server(start=False)
    async with CacheManager(server.url, namespace=prefix) as cache:
        assert (await cache.health_check()).status == "degraded"
        await cache.set("a", "during")
        assert await cache.get("a") == "during"
        server.start()
        await healed(cache, within=2.0)
        assert await cache.get("a", "gone") == "gone"
        await cache.set("a", "after")
        assert await cache.get("a") == "after"


async def test_a_decorated_function_runs_once_during_an_outage_and_again_after_it(
    own_server: Servers, prefix: str
) -> None:
    server = own_server()
    calls = 0
    async with CacheManager(server.url, namespace=prefix) as cache:

        @cached(cache=cache)
        async def load() -> int:
            nonlocal calls
            calls += 1
            return calls

        server.kill()
        assert await asyncio.gather(*(load() for _ in range(50))) == [1] * 50
        assert await load() == 1
        server.start()
        await healed(cache)
        assert await load() == 2
        assert await load() == 2


async def test_a_hung_server_costs_each_caller_its_budget_at_most(own_server: Servers, prefix: str) -> None:
    server = own_server()
    options = CacheOptions(redis=RedisStoreOptions(budget=0.05))
    async with CacheManager(server.url, namespace=prefix, options=options) as cache:
        await cache.set("a", "before")
        server.stop_process()
        try:
            started = fair_time()
            answers = await asyncio.gather(*(cache.get("a", "unknown") for _ in range(50)))
            assert fair_time() - started < 1  # one after the other would take 2.5
            assert answers == ["unknown"] * 50
            await cache.set("a", "during")
            assert await cache.get("a") == "during"
        finally:
            server.continue_process()
        await healed(cache)
        assert await cache.get("a", "deleted") == "deleted"


@pytest.mark.parametrize("operation", ["clear", "delete", "mget", "mset", "exists"])
async def test_no_call_takes_longer_than_its_budget_on_a_hung_server(
    own_server: Servers, prefix: str, operation: str
) -> None:
    server = own_server()
    options = CacheOptions(redis=RedisStoreOptions(budget=0.1), fallback=False)
    async with CacheManager(server.url, namespace=prefix, options=options) as cache:
        calls: dict[str, Callable[[], Any]] = {
            "clear": lambda: cache.clear("a*"),
            "delete": lambda: cache.delete(*map(str, range(5000))),
            "mget": lambda: cache.mget(map(str, range(5000))),
            "mset": lambda: cache.mset({str(number): number for number in range(5000)}),
            "exists": lambda: cache.exists("a"),
        }
        server.stop_process()
        started = fair_time()
        with pytest.raises(DeadlineExceeded):
            await calls[operation]()
        assert fair_time() - started < 1.0  # the socket's own timeout is 2
        server.continue_process()


async def test_a_blocked_loop_is_no_outage(valkey_url: str, prefix: str) -> None:
    """Code that blocks the loop for longer than the budget: answers wait in the sockets, nothing was lost."""
    options = CacheOptions(redis=RedisStoreOptions(budget=0.1))
    async with CacheManager(valkey_url, namespace=prefix, options=options) as cache:
        calls: list[Callable[[], Any]] = [
            lambda: cache.get("a"),
            lambda: cache.set("a", 1),
            lambda: cache.mget(["a"]),
            lambda: cache.exists("a"),
        ]
        await cache.set("a", 1)
        for call in calls:
            for ticks in (0, 1, 3):  # blocked before the call is sent, and with its answer on the way
                task = asyncio.ensure_future(call())
                for _ in range(ticks):
                    await asyncio.sleep(0)
                time.sleep(0.13)  # noqa: ASYNC251 - the point of the test
                assert await task in (1, True, {"a": 1})
        assert cache.get_stats()["outages"] == 0


async def test_a_write_that_fails_begins_the_outage_and_is_remembered(
    own_server: Servers, prefix: str
) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.mset({"a": "old", "b": "old"})
        server.kill()
        assert await cache.delete("a") == 0
        assert fallback_of(cache).outage is not None
        server.start()
        await healed(cache)
        assert await cache.mget(["a", "b"]) == {"b": "old"}


async def test_too_many_keys_to_remember_clear_the_namespace(own_server: Servers, prefix: str) -> None:
    server = own_server()
    options = CacheOptions(max_remembered=10)
    async with CacheManager(server.url, namespace=prefix, options=options) as cache, raw(server) as client:
        await cache.mset({"old": 1, "other": 1})
        await client.execute("SET", "foreign", "kept")
        server.kill()
        await cache.mset({str(number): number for number in range(11)})
        assert (await cache.health_check()).remembered_keys == 0
        server.start()
        await healed(cache)
        assert await cache.mget(["old", "other", "5"]) == {}
        assert await client.execute("GET", "foreign") == b"kept"


async def test_writers_that_never_pause_do_not_keep_the_outage_alive(
    own_server: Servers, prefix: str
) -> None:
    """The recovery lets writes wait for its last step, so it ends under load; and no value is lost between."""
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache, raw(server) as client:
        before = {f"{writer}:{number}": "old" for writer in range(20) for number in range(50)}
        await cache.mset(before)
        stop = asyncio.Event()
        last: dict[str, int] = {}

        async def write(writer: int) -> None:
            step = 0
            while not stop.is_set():
                key = f"{writer}:{step % 50}"
                step += 1
                last[key] = step
                await cache.set(key, step)
                assert await cache.get(key) in (step, None)  # deleted by the recovery, or what was written

        async with asyncio.TaskGroup() as group:
            for writer in range(20):
                group.create_task(write(writer))
            await asyncio.sleep(0.05)
            server.kill()
            while not cache.get_stats()["outages"]:  # noqa: ASYNC110 - the writers find out
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            server.start()
            await healed(cache)
            await asyncio.sleep(0.05)
            stop.set()
        stored = await cache.mget(last)
        assert stored
        assert {key: last[key] for key in stored} == stored
        remaining = {key.decode().removeprefix(prefix) for key in await client.execute("KEYS", prefix + "*")}
        assert remaining == stored.keys() | (before.keys() - last.keys())  # a slow writer did not get to all


async def test_an_outage_during_the_recovery_keeps_what_was_remembered(
    own_server: Servers, prefix: str
) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.mset({str(number): "old" for number in range(3000)})
        for _ in range(3):
            server.kill()
            await cache.mset({str(number): "new" for number in range(3000)})
            server.start()
            await asyncio.sleep(0.01)
        await healed(cache)
        assert await cache.mget(map(str, range(3000))) == {}


async def test_memory_is_bounded_in_an_outage(prefix: str) -> None:
    nowhere = "unix:///nowhere/at/all?db=0"
    async with CacheManager(nowhere, memory_cache_size=10, memory_cache_ttl=0.02, namespace=prefix) as cache:
        await cache.mset({str(number): number for number in range(100)}, ttl=600)
        assert cache.get_stats()["memory_entries"] == 10
        async with asyncio.timeout(5):
            while await cache.exists("99"):  # noqa: ASYNC110 - an expiry tells nobody
                await asyncio.sleep(0.005)
    async with CacheManager(nowhere, memory_cache_size=0, namespace=prefix) as cache:
        await cache.set("a", 1)
        assert await cache.get("a") is None


async def test_closing_in_an_outage_leaves_no_task(own_server: Servers, prefix: str) -> None:
    server = own_server()
    cache = CacheManager(server.url, namespace=prefix)
    await cache.initialize()
    server.kill()
    await cache.set("a", 1)
    await cache.close()
    assert len(asyncio.all_tasks()) == 1


async def test_a_server_that_refuses_us_is_an_error_and_no_outage(own_server: Servers, prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache, raw(server) as client:
        await cache.set("a", 1)
        await client.execute("ACL", "SETUSER", "default", "-@write")
        with pytest.raises(StoreDenied):
            await cache.set("a", 2)
        await client.execute("ACL", "SETUSER", "default", "-@read")
        with pytest.raises(StoreDenied):
            await cache.get("a")

        @cached(cache=cache)
        async def load() -> int:
            return 1

        with pytest.raises(StoreDenied):
            await load()
        assert cache.get_stats()["outages"] == 0
        assert cache.get_stats()["store_errors"] == 3


async def test_memory_keeps_what_a_full_server_does_not_take(own_server: Servers, prefix: str) -> None:
    server = own_server("--maxmemory-policy", "noeviction")
    calls = 0
    async with CacheManager(server.url, namespace=prefix) as cache, raw(server) as client:

        @cached(cache=cache)
        async def load() -> int:
            nonlocal calls
            calls += 1
            return calls

        await cache.mset({"a": "old", "b": "old", "c": "old", "kept": "old"})
        await client.execute("CONFIG", "SET", "maxmemory", "100kb")  # less than it uses already
        await cache.set("a", "new")
        await cache.mset({"b": "new", "c": "new"})
        assert [await load() for _ in range(5)] == [1] * 5
        assert await cache.get("kept") == "old"
        assert await cache.get("a") == "new"
        assert await cache.mget(["a", "b", "c", "kept", "none"]) == {
            **dict.fromkeys("abc", "new"),
            "kept": "old",
        }
        assert await cache.exists("a")
        assert await client.execute("EXISTS", prefix + "a") == 0  # no process reads the old one
        assert await cache.delete("b", "none") == 1
        assert await cache.clear("c*") == 1
        assert await cache.mget(["b", "c"]) == {}
        health = await cache.health_check()
        assert (health.status, health.outage_seconds) == ("degraded", None)
        assert "OOM" in str(health.reason)
        # What somebody else has written since counts.
        await client.execute("CONFIG", "SET", "maxmemory", 0)
        async with CacheManager(server.url, namespace=prefix) as other:
            await other.set("a", "newest")
        assert await cache.get("a") == "newest"
        await cache.set("d", 1)
        assert (await cache.health_check()).status == "healthy"
        assert await load() == 2
        stats = cache.get_stats()
        assert (stats["outages"], stats["memory_entries"], stats["not_stored"]) == (0, 0, 0)


async def test_what_a_full_server_did_not_take_is_asked_of_it_again_soon(
    own_server: Servers, prefix: str
) -> None:
    server = own_server("--maxmemory-policy", "noeviction")
    async with (
        VirtualClock(flows=True) as clock,
        CacheManager(server.url, namespace=prefix, clock=clock) as cache,
    ):
        async with raw(server) as client:
            await client.execute("CONFIG", "SET", "maxmemory", "100kb")
        await cache.set("a", 1, ttl=100)
        assert await cache.get("a") == 1
        await clock.jump(11)
        assert await cache.get("a") is None


async def test_a_server_that_is_lost_while_it_is_full_leaves_nothing_old(
    own_server: Servers, prefix: str
) -> None:
    server = own_server("--maxmemory-policy", "noeviction")
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.set("a", "old")
        async with raw(server) as client:
            await client.execute("CONFIG", "SET", "maxmemory", "100kb")
        await cache.set("a", "full")
        server.kill()
        assert await cache.get("a") == "full"
        await cache.set("a", "outage")
        server.start()
        await healed(cache)
        assert await cache.get("a") is None
        assert (await cache.health_check()).status == "healthy"


async def test_without_a_fallback_a_full_server_refuses_new_values_and_keeps_no_old_one(
    own_server: Servers, prefix: str
) -> None:
    server = own_server("--maxmemory-policy", "noeviction")
    options = CacheOptions(fallback=False)
    async with (
        CacheManager(server.url, namespace=prefix, options=options) as cache,
        raw(server) as client,
    ):
        await cache.set("a", "old")
        await client.execute("CONFIG", "SET", "maxmemory", "100kb")  # less than it uses already
        with pytest.raises(StoreFull):
            await cache.set("a", "new")
        assert await cache.get("a", "gone") == "gone"

        @cached(cache=cache)
        async def load() -> int:
            return 7

        assert await load() == 7  # the caller asked for the value, not for its storing
        assert cache.get_stats()["not_stored"] == 1
        assert cache.get_stats()["outages"] == 0


async def test_without_a_fallback_the_outage_reaches_the_caller(own_server: Servers, prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix, options=CacheOptions(fallback=False)) as cache:
        server.kill()
        with pytest.raises(StoreUnavailable):
            await cache.get("a")
        assert (await cache.health_check()).status == "unhealthy"
        server.start()
        assert await cache.get("a") is None
