"""One load for a whole fleet: real processes, one server, leases and push instead of polling.

Run as a program this module is one of those processes: it reads what to do from its standard input, one line of
JSON at a time, and answers each with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import LifecycleError
from tests.cache.atomic_workload import tell
from tests.fair_time import fair_time
from tests.jobs.kit import until

ROOT = Path(__file__).resolve().parents[2]
LEASE = 1.0
# A busy machine answers late; these tests are about who loads, and not about outages.
OPTIONS = CacheOptions(lease=LEASE, redis=RedisStoreOptions(budget=3.0))


# One process of the fleet


class Member:
    """Does what it is told with one cache; loads are counted on the server."""

    def __init__(self, cache: CacheManager, raw: RedisClient, namespace: str) -> None:
        self.cache = cache
        self.raw = raw
        self.counts = f"count:{namespace}"

    async def load(self, key: str, seconds: float, value: Any) -> Any:
        """A slow loader, whose begin is counted."""
        await self.raw.execute("INCR", self.counts + key)
        await asyncio.sleep(seconds)
        return value

    async def crowd(self, key: str, callers: int, seconds: float, value: Any) -> list[Any]:
        """So many callers want a value; the distinct ones that they got."""
        calls = [self.cache.get_or_load(key, lambda: self.load(key, seconds, value)) for _ in range(callers)]
        got = {json.dumps(found) for found in await asyncio.gather(*calls)}
        return sorted(json.loads(found) for found in got)

    async def needs(self, key: str, other: str, seconds: float) -> Any:
        """A loader that needs the value of another key."""

        async def outer() -> str:
            await asyncio.sleep(seconds)
            return f"{key}+{await self.cache.get_or_load(other, inner)}"

        async def inner() -> str:
            return f"{other} alone"

        return await self.cache.get_or_load(key, outer)

    async def change(self, how: str, key: str) -> None:
        """End what stands under a key, one way or another."""
        await CHANGES[how](self.cache, key)


CHANGES: dict[str, Callable[[CacheManager, str], Awaitable[Any]]] = {
    "delete": lambda cache, key: cache.delete(key),
    "set": lambda cache, key: cache.set(key, "changed"),
    "mset": lambda cache, key: cache.mset({key: "changed"}),
    "clear pattern": lambda cache, key: cache.clear(f"{key}*"),
    "clear all": lambda cache, key: cache.clear(all=True),
    "invalidate_tag": lambda cache, key: cache.invalidate_tag(f"tag of {key}"),
    "invalidate_all": lambda cache, key: cache.invalidate_all(),
}


async def main(url: str, namespace: str) -> None:
    loop = asyncio.get_running_loop()
    async with RedisClient(url) as raw, CacheManager(url, namespace=namespace, options=OPTIONS) as cache:
        member = Member(cache, raw, namespace)
        tell(json.dumps("ready"))
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            verb, *arguments = json.loads(line)
            tell(json.dumps(await getattr(member, verb)(*arguments)))


class Process:
    """One of these processes, as the test holds it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def tell(self, verb: str, *arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, *arguments]).encode() + b"\n")

    async def answer(self, timeout: float = 30.0) -> Any:
        assert self._process.stdout is not None
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), timeout))

    async def ask(self, verb: str, *arguments: Any) -> Any:
        self.tell(verb, *arguments)
        return await self.answer()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


@contextlib.asynccontextmanager
async def fleet(url: str, namespace: str, size: int) -> AsyncIterator[list[Process]]:
    """So many processes, ended with the block."""
    command = [sys.executable, "-m", "tests.cache.test_cache_fleet_flight", url, namespace]
    processes = [
        Process(
            await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
            )
        )
        for _ in range(size)
    ]
    try:
        for process in processes:
            assert await process.answer() == "ready"
        yield processes
    finally:
        for process in processes:
            await process.kill()


async def loads(raw: RedisClient, namespace: str, key: str) -> int:
    """How often a key was loaded so far."""
    return int(await raw.execute("GET", f"count:{namespace}{key}") or 0)


async def test_four_processes_with_a_thousand_callers_load_once(redis_url: str, prefix: str) -> None:
    async with RedisClient(redis_url) as raw, fleet(redis_url, prefix, 4) as processes:
        for key in ("slow", "slower"):
            for number, process in enumerate(processes):
                process.tell("crowd", key, 250, 1.0, f"by {number}")
            answers = [await process.answer() for process in processes]
            assert await loads(raw, prefix, key) == 1
            assert all(answer == answers[0] and len(answer) == 1 for answer in answers), answers


async def test_nobody_polls_while_a_slow_leader_loads(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server()
    seconds = 2.0
    async with RedisClient(server.url) as raw, fleet(server.url, prefix, 4) as processes:
        for number, process in enumerate(processes):
            process.tell("crowd", "slow", 50, seconds + 1.0, number)
        await until(lambda: loads(raw, prefix, "slow"))
        await asyncio.sleep(0.5)  # the followers ask for the lease
        before = await commands(raw)
        await asyncio.sleep(seconds)
        counted = await commands(raw)
        during = {name: count - before.get(name, 0) for name, count in counted.items()}
        for process in processes:
            await process.answer()
        assert await loads(raw, prefix, "slow") == 1
    asked = sum(during.get(name, 0) for name in ("evalsha", "eval", "get", "mget", "pttl", "exists"))
    # The lease is renewed 6 times, and each renewal wakes the 3 followers: nobody asks for another reason. The
    # scripts' own commands are counted as well, up to 4 each.
    assert asked <= 6 * (1 + 3) * 5, during
    assert during.get("get", 0) <= 60, during


async def commands(raw: RedisClient) -> dict[str, int]:
    """How often each command was called so far."""
    stats = await raw.execute("INFO", "commandstats")
    lines = (stats if isinstance(stats, str) else stats.decode()).splitlines()
    pairs = [line.removeprefix("cmdstat_").split(":", 1) for line in lines if line.startswith("cmdstat_")]
    return {name: int(rest.split("calls=")[1].split(",")[0]) for name, rest in pairs}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_a_value_that_was_being_loaded_during_a_change_is_not_stored(
    redis_url: str, prefix: str, how: str, where: str
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await go.wait()
        return "late"

    loading_cache = CacheManager(redis_url, namespace=prefix, options=OPTIONS)
    other = CacheManager(redis_url, namespace=prefix, options=OPTIONS)
    async with loading_cache, other:
        changing = loading_cache if where == "same process" else other
        for key in ("k1", "k2"):  # the second time scripts, tags and generation are known
            started.clear()
            go.clear()
            loading = asyncio.create_task(loading_cache.get_or_load(key, load, tags=[f"tag of {key}"]))
            await started.wait()
            await CHANGES[how](changing, key)
            go.set()
            assert await loading == "late"  # who asked before the change
            expected = "changed" if how in ("set", "mset") else "absent"
            for cache in (loading_cache, other):
                assert await cache.barrier()
                assert await cache.get(key, "absent") == expected
                assert await cache.get(key, "absent", consistency="strong") == expected


@pytest.mark.parametrize("how", ["delete", "set"])
async def test_a_refresh_does_not_overwrite_what_another_process_changed_meanwhile(
    redis_url: str, prefix: str, how: str
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await go.wait()
        return "late"

    async with (
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as other,
    ):
        await cache.set("k", "before")
        refreshing = asyncio.create_task(cache.read_through("k", load, cache.kind(), mode="refresh"))
        await started.wait()
        await CHANGES[how](other, "k")
        go.set()
        assert await refreshing == "late"
        assert await other.get("k", "absent", consistency="strong") == {"set": "changed"}.get(how, "absent")


async def test_callers_after_an_invalidation_do_not_join_a_load_from_before_it(
    redis_url: str, prefix: str
) -> None:
    """In the process of the change: what it has acknowledged is never answered with something older."""
    truth = "old"
    gates = {"old": asyncio.Event(), "new": asyncio.Event()}
    started: dict[str, asyncio.Event] = {"old": asyncio.Event(), "new": asyncio.Event()}

    async def load() -> str:
        seen = truth
        started[seen].set()
        await gates[seen].wait()
        return seen

    async with CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache:
        for how in ("delete", "invalidate_tag", "clear pattern", "invalidate_all"):
            truth = "old"
            for event in (*gates.values(), *started.values()):
                event.clear()
            tags = [f"tag of {how}"]
            first = asyncio.create_task(cache.get_or_load(how, load, tags=tags))
            await started["old"].wait()
            truth = "new"
            await CHANGES[how](cache, how)
            second = asyncio.create_task(cache.get_or_load(how, load, tags=tags))
            # The old load may hold the lease still: it ends first.
            await asyncio.sleep(0.05)
            gates["old"].set()
            gates["new"].set()
            assert await first == "old"
            assert await second == "new", how


async def test_callers_after_a_set_do_not_join_a_load_from_before_it(redis_url: str, prefix: str) -> None:
    """The loads begin while the set is under way."""
    async with CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache:
        for number in range(50):
            key, ended = f"k{number}", asyncio.Event()

            async def load(ended: asyncio.Event = ended) -> str:
                await ended.wait()
                return "loaded"

            asked = [asyncio.create_task(cache.get_or_load(key, load)) for _ in range(2)]
            for _ in range(number % 5):
                await asyncio.sleep(0)
            setting = asyncio.create_task(cache.set(key, "set"))
            for _ in range(number % 7):
                await asyncio.sleep(0)
                asked.append(asyncio.create_task(cache.get_or_load(key, load)))
            await setting
            try:
                async with asyncio.timeout(5):
                    assert await cache.get_or_load(key, load) == "set"
                    assert await cache.get(key) == "set"
            finally:
                ended.set()
            await asyncio.gather(*asked)
            assert await cache.get(key, consistency="strong") == "set"


async def test_the_first_caller_is_cancelled_and_the_others_get_its_load(redis_url: str, prefix: str) -> None:
    async with (
        RedisClient(redis_url) as raw,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as other,
    ):
        mine, theirs = Member(cache, raw, prefix), Member(other, raw, prefix)
        first = asyncio.create_task(mine.crowd("k", 1, 0.4, "once"))
        await until(lambda: loads(raw, prefix, "k"))
        followers = [asyncio.create_task(member.crowd("k", 50, 0.4, "again")) for member in (mine, theirs)]
        await asyncio.sleep(0.05)
        first.cancel()
        assert await asyncio.gather(*followers) == [["once"], ["once"]]
        assert first.cancelled()
        assert await loads(raw, prefix, "k") == 1


async def test_a_killed_leader_is_followed_within_its_lease(redis_url: str, prefix: str) -> None:
    async with RedisClient(redis_url) as raw, fleet(redis_url, prefix, 3) as processes:
        leader, *followers = processes
        leader.tell("crowd", "k", 10, 60.0, "never")
        await until(lambda: loads(raw, prefix, "k"))
        for follower in followers:
            follower.tell("crowd", "k", 100, 0.05, "by an heir")
        await asyncio.sleep(1.5 * LEASE)  # it is renewed
        assert await loads(raw, prefix, "k") == 1
        await leader.kill()
        killed = fair_time()
        assert [await follower.answer() for follower in followers] == [["by an heir"]] * 2
        assert fair_time() - killed < LEASE + 1.0 + 1.0  # one more for a busy machine
        assert await loads(raw, prefix, "k") == 2


async def test_loaders_of_two_processes_that_need_each_others_values_do_not_hang(
    redis_url: str, prefix: str
) -> None:
    async with fleet(redis_url, prefix, 2) as (one, two):
        one.tell("needs", "a", "b", 0.3)
        two.tell("needs", "b", "a", 0.3)
        answers = [await one.answer(20), await two.answer(20)]
        assert answers[0].startswith("a+b")
        assert answers[1].startswith("b+a")


async def test_a_loader_that_fails_fails_its_callers_and_one_process_tries_at_a_time(
    redis_url: str, prefix: str
) -> None:
    running = most = calls = 0

    async def load() -> str:
        nonlocal running, most, calls
        calls += 1
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.05)
            if calls < 6:
                raise ValueError("no value")
            return "made"
        finally:
            running -= 1

    async with contextlib.AsyncExitStack() as stack:
        caches = [
            await stack.enter_async_context(CacheManager(redis_url, namespace=prefix, options=OPTIONS))
            for _ in range(4)
        ]
        for _ in range(10):
            answers = await asyncio.gather(
                *[cache.get_or_load("k", load) for cache in caches for _ in range(10)], return_exceptions=True
            )
            assert all(isinstance(answer, ValueError) or answer == "made" for answer in answers)
            if "made" in answers:
                break
        assert await caches[0].get("k") == "made"
        assert most == 1


async def test_an_unreadable_value_is_replaced_by_one_process(redis_url: str, prefix: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        raw = await stack.enter_async_context(RedisClient(redis_url))
        caches = [
            await stack.enter_async_context(CacheManager(redis_url, namespace=prefix, options=OPTIONS))
            for _ in range(4)
        ]
        for junk in (b"junk", b"", b"x" * 100, b"\xc1\x02" + bytes(38)):
            await raw.execute("SET", prefix + "k", junk)
            members = [Member(cache, raw, prefix) for cache in caches]
            before = await loads(raw, prefix, "k")
            answers = await asyncio.gather(*[member.crowd("k", 20, 0.1, "made") for member in members])
            assert answers == [["made"]] * 4
            assert await loads(raw, prefix, "k") == before + 1


async def test_a_cache_that_closes_gives_its_leases_back(redis_url: str, prefix: str) -> None:
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    async def load() -> str:
        return "by an heir"

    async with (
        CacheManager(redis_url, namespace=prefix, options=CacheOptions(lease=30.0)) as other,
        CacheManager(redis_url, namespace=prefix, options=CacheOptions(lease=30.0)) as cache,
    ):
        loading = asyncio.create_task(cache.get_or_load("k", forever))
        await started.wait()
        follower = asyncio.create_task(other.get_or_load("k", load))
        await asyncio.sleep(0.05)
        await cache.close()
        with pytest.raises(LifecycleError):
            await loading
        assert await asyncio.wait_for(follower, 5) == "by an heir"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
