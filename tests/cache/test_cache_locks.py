"""Locks: one holder at a time in the whole fleet, free within a lease whatever happens to the holder."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from aioinfra.cache.lock_store import Grant, LockStore
from aioinfra.cache.locks import Lock
from aioinfra.errors import InvalidArgument, LifecycleError, LockLost, LockTimeout, StoreUnavailable
from aioinfra.testing import CancelledRun, FaultProxy, VirtualClock, cancel_at_each_suspension
from tests.cache.atomic_workload import HOLD, TASKS, Fleet, VerbCache, memory_cache, server_cache, until
from tests.conftest import OwnServer, OwnServerFactory
from tests.fair_time import fair_time


@pytest.fixture(params=["memory", "valkey", "redis"])
def where(request: pytest.FixtureRequest) -> str:
    """URL of a server, or nothing for this process' memory."""
    if request.param == "memory":
        return ""
    server: OwnServer = request.getfixturevalue(f"session_{request.param}")
    return server.url


@pytest.fixture
async def cache(where: str, prefix: str) -> AsyncIterator[VerbCache]:
    if not where:
        yield memory_cache()
        return
    async with server_cache(where, prefix, push=False) as cache:
        yield cache


class Counting:
    """A LockStore that counts the questions."""

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self.asked = 0
        self.renewed = 0

    async def acquire(self, key: str, token: str, lease: float) -> Grant:
        self.asked += 1
        return await self._store.acquire(key, token, lease)

    async def renew(self, key: str, token: str, lease: float) -> bool:
        self.renewed += 1
        return await self._store.renew(key, token, lease)

    async def release(self, key: str, token: str) -> bool:
        return await self._store.release(key, token)


def counting(cache: VerbCache) -> Counting:
    locks = cache.atomic.locks
    locks.store = store = Counting(locks.store)
    return store


async def take(cache: VerbCache, name: str = "a", lease: float = 5.0) -> Lock:
    lock = cache.lock(name, lease)
    assert await lock.acquire(timeout=0)
    return lock


async def nothing_left(cache: VerbCache, before: set[asyncio.Task[Any]]) -> None:
    """No lock, no gate and no task of this cache is left."""
    locks = cache.atomic.locks
    assert not locks.held
    assert not list(locks.gates)
    assert not locks.wakes.waiters
    await until(lambda: not [task for task in asyncio.all_tasks() - before if "lock" in task.get_name()])


# Processes


@pytest.mark.parametrize("push", [True, False], ids=["push", "polling"])
async def test_two_processes_exclude_each_other_and_fences_rise(
    redis_url: str, prefix: str, push: bool
) -> None:
    async with (
        Fleet(redis_url, prefix, push=push) as fleet,
        server_cache(redis_url, prefix, push=False) as cache,
    ):
        saw = await fleet.saw("lock")
        raw = cache.currency._client
        count, listed = await raw.pipeline([("GET", f"{prefix}plain"), ("LRANGE", f"{prefix}fences", 0, -1)])
    assert int(count) == len(saw) == 2 * TASKS  # no update was lost
    fences = [int(fence) for fence in listed]
    assert all(earlier < later for earlier, later in pairwise(fences))
    assert sorted(saw) == fences


@pytest.mark.parametrize("push", [True, False], ids=["push", "polling"])
async def test_the_lock_of_a_killed_process_frees_within_its_lease(
    valkey_url: str, prefix: str, push: bool
) -> None:
    async with (
        Fleet(valkey_url, prefix, size=1) as fleet,
        server_cache(valkey_url, prefix, push=push) as cache,
    ):
        await fleet.go("hold")
        assert await fleet.line(0) == "held"
        await asyncio.sleep(HOLD * 1.1)  # longer than its lease: it is renewed
        lock = cache.lock("held")
        assert not await lock.acquire(timeout=0)
        waiting = asyncio.create_task(lock.acquire())
        fleet.processes[0].send_signal(signal.SIGKILL)
        killed = fair_time()
        assert await waiting
        assert fair_time() - killed < HOLD + 0.5  # the lease, and half a second for a busy machine
        assert await lock.release()


# Taking and releasing


async def test_a_lock_is_held_by_one_and_then_by_the_next(cache: VerbCache) -> None:
    first = await take(cache)
    second = cache.lock("a")
    assert not await second.acquire(timeout=0)
    assert not await second.acquire(timeout=0.01)
    assert (first.held, second.held) == (True, False)
    await take(cache, "another")
    assert await first.release()
    assert (first.held, second.held) == (False, False)
    assert await second.acquire(timeout=0)
    assert second.fence > first.fence
    assert await second.release()
    assert await first.acquire()
    assert first.fence > second.fence
    assert await first.release()


async def test_a_late_call_of_an_earlier_time_does_not_touch_a_later_one(cache: VerbCache) -> None:
    lock = await take(cache)
    token, store = lock._token, cache.atomic.locks.store
    await lock.release()
    assert await lock.acquire(timeout=0)
    assert not await store.release(lock._key, token)
    assert not await store.renew(lock._key, token, 60)
    assert lock.held
    assert await lock.release()


async def test_a_hundred_tasks_take_turns(cache: VerbCache) -> None:
    inside = 0
    fences = []

    async def turn() -> None:
        nonlocal inside
        async with cache.lock("a", lease=5, wait=50) as lock:
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            fences.append(lock.fence)
            inside -= 1

    await asyncio.gather(*[turn() for _ in range(100)])
    assert len(fences) == 100
    assert all(earlier < later for earlier, later in pairwise(fences))
    await nothing_left(cache, set())


async def test_a_wait_that_is_over_says_so(cache: VerbCache) -> None:
    holder = await take(cache)
    with pytest.raises(LockTimeout):
        async with cache.lock("a", wait=0.03):
            pytest.fail("two holders")
    with pytest.raises(TimeoutError):
        async with cache.lock("a", wait=0):
            pytest.fail("two holders")
    waiters = [cache.lock("a").acquire(timeout=0.05) for _ in range(20)]  # most never get their turn to ask
    assert await asyncio.gather(*waiters) == [False] * 20
    await holder.release()


async def test_misuse_is_refused(cache: VerbCache) -> None:
    lock = cache.lock("a")
    with pytest.raises(LifecycleError):
        _ = lock.fence
    with pytest.raises(LifecycleError):
        await lock.release()
    assert await lock.acquire()
    with pytest.raises(LifecycleError):
        await lock.acquire()
    assert await lock.release()
    refused: dict[str, Callable[[], Lock]] = {
        "lease": lambda: cache.lock("a", lease=0.01),
        "wait": lambda: cache.lock("a", wait=-1),
        "name": lambda: cache.lock(""),
    }
    for argument, call in refused.items():
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.argument == argument
    with pytest.raises(InvalidArgument):
        await lock.acquire(timeout=True)
    assert "a" in repr(lock)


async def test_the_body_may_release_and_its_error_goes_first(cache: VerbCache) -> None:
    async with cache.lock("a") as lock:
        assert await lock.release()

    async def fail() -> None:
        async with cache.lock("a", lease=0.1) as lock:
            lock.lost.set()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with cache.lock("a", lease=1, wait=2):
        pass


async def test_closing_releases_what_is_held_and_refuses_who_waits(redis_url: str, prefix: str) -> None:
    async with server_cache(redis_url, prefix, push=False) as other:
        async with server_cache(redis_url, prefix, push=False) as cache:
            held = await take(cache)
            waiting = [asyncio.create_task(cache.lock("a").acquire()) for _ in range(3)]
            await asyncio.sleep(0.01)
        for task in waiting:
            with pytest.raises(LifecycleError):
                await task
        assert not held.held
        lock = await take(other)
        await lock.release()


# Waiting


async def test_a_waiter_is_woken_by_push_and_asks_twice(redis_url: str, prefix: str) -> None:
    async with (
        server_cache(redis_url, prefix) as cache,
        server_cache(redis_url, prefix, push=False) as other,
    ):
        store = counting(cache)
        holder = await take(other, lease=60)
        lock = cache.lock("a")
        waiting = asyncio.create_task(lock.acquire())
        await until(lambda: store.asked)
        await asyncio.sleep(0.3)  # time enough to ask again, if it polled
        released = fair_time()
        await holder.release()
        assert await waiting
        assert fair_time() - released < 0.5
        assert store.asked == 2
        await lock.release()


async def test_of_many_waiters_one_asks(redis_url: str, prefix: str) -> None:
    async with (
        server_cache(redis_url, prefix) as cache,
        server_cache(redis_url, prefix, push=False) as other,
    ):
        store = counting(cache)
        holder = await take(other, lease=60)
        waiting = [asyncio.create_task(cache.lock("a").acquire()) for _ in range(50)]
        await asyncio.sleep(0.2)
        assert store.asked == 1
        await holder.release()
        done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        assert store.asked <= 3  # and the next one once, after that
        for task in left:
            task.cancel()
        await asyncio.wait(left)


async def test_without_push_a_waiter_asks_less_and_less(redis_url: str, prefix: str) -> None:
    async with server_cache(redis_url, prefix, push=False) as cache:
        holder = await take(cache)
        store = counting(cache)
        assert not await cache.lock("a").acquire(timeout=1.0)
        assert 3 <= store.asked <= 9
        await holder.release()


# The lease


async def test_a_holder_keeps_its_lock_for_as_long_as_it_wants(cache: VerbCache) -> None:
    store = counting(cache)
    async with cache.lock("a", lease=1.2) as lock:
        assert not await cache.lock("a").acquire(timeout=2.0)
        assert lock.held
        assert not lock.lost.is_set()
    assert store.renewed >= 2


async def test_a_lock_that_is_taken_away_is_lost_and_says_so(redis_url: str, prefix: str) -> None:
    async with server_cache(redis_url, prefix, push=False) as cache:
        raw = cache.currency._client
        others = []

        async def hold() -> None:
            async with cache.lock("a", lease=0.6) as lock:
                await raw.execute("DEL", f"{prefix}meta:lock:a")
                others.append(await take(cache))
                await asyncio.wait_for(lock.lost.wait(), 2)
                assert not lock.held

        with pytest.raises(LockLost):
            await hold()
        assert others[0].held
        assert await others[0].release()
        lock = await take(cache)
        await raw.execute("DEL", f"{prefix}meta:lock:a")
        assert not await lock.release()


async def test_a_holder_that_stood_still_for_too_long_knows_it_at_once(cache: VerbCache) -> None:
    lock = await take(cache, lease=0.1)
    time.sleep(0.15)  # noqa: ASYNC251 - the loop is to stand still
    assert not lock.held
    assert not await lock.release()
    assert lock.lost.is_set()


async def test_in_memory_the_lease_follows_the_clock_of_the_cache() -> None:
    async with VirtualClock() as clock:
        cache = memory_cache(clock=clock)
        lock = await take(cache, lease=10)
        await clock.advance(100)
        assert lock.held
        assert await lock.release()


# Faults


async def test_without_a_server_nothing_is_locked() -> None:
    async with server_cache("redis://127.0.0.1:1/0", "p:", push=False) as cache:
        with pytest.raises(StoreUnavailable):
            async with cache.lock("a"):
                pytest.fail("no server can have said so")
        await nothing_left(cache, set())


async def test_a_server_that_dies_loses_the_lock_by_the_end_of_the_lease(
    own_server: OwnServerFactory, prefix: str
) -> None:
    server = own_server()
    async with server_cache(server.url, prefix, push=False, budget=0.1) as cache:
        lock = await take(cache, lease=0.5)
        server.kill()
        await asyncio.wait_for(lock.lost.wait(), 2)
        assert not await lock.release()
        with pytest.raises(StoreUnavailable):
            await lock.acquire()


async def test_a_lease_outlives_a_short_outage(own_server: OwnServerFactory, prefix: str) -> None:
    server = own_server(tcp=True)
    async with (
        FaultProxy(server.url) as proxy,
        server_cache(proxy.url, prefix, push=False, budget=0.2) as cache,
    ):
        store = counting(cache)
        lock = await take(cache, lease=1.5)
        proxy.partition(refuse=True)
        await until(lambda: store.renewed >= 2)
        proxy.heal()
        await asyncio.sleep(1.6)
        assert lock.held
        assert await lock.release()


@pytest.mark.parametrize("step", ["acquire", "release"])
async def test_a_lost_reply_is_asked_for_again(own_server: OwnServerFactory, prefix: str, step: str) -> None:
    server = own_server(tcp=True)
    async with FaultProxy(server.url) as proxy, server_cache(proxy.url, prefix, push=False) as cache:
        lost = cache.lock("a", lease=30)
        await (await take(cache, "warm")).release()  # the scripts are known
        if step == "acquire":
            proxy.lose_reply()
        assert await lost.acquire(timeout=0)
        assert not await cache.lock("a").acquire(timeout=0)
        if step == "release":
            proxy.lose_reply()
        assert await lost.release()
        await (await take(cache)).release()


async def test_a_release_whose_reply_is_lost_counts_although_another_has_come(cache: VerbCache) -> None:
    lock = await take(cache)
    real = cache.atomic.locks.store

    class Uncertain(Counting):
        """Its first release is done and not confirmed, and another holder comes before it is asked again."""

        async def release(self, key: str, token: str) -> bool:
            freed = await super().release(key, token)
            if freed:
                assert (await real.acquire(key, "another", 30)).fence
                raise StoreUnavailable("the reply is lost")
            return freed

    cache.atomic.locks.store = Uncertain(real)
    assert await lock.release()
    assert not lock.lost.is_set()


async def test_an_acquisition_that_failed_leaves_no_lock(own_server: OwnServerFactory, prefix: str) -> None:
    server = own_server(tcp=True)
    async with FaultProxy(server.url) as proxy, server_cache(proxy.url, prefix, push=False) as cache:
        await (await take(cache, "warm")).release()
        proxy.lose_reply(times=2)
        with pytest.raises(StoreUnavailable):
            await cache.lock("a", lease=30).acquire()
        await (await take(cache)).release()


# Cancellation


async def test_a_cancellation_at_any_suspension_leaves_no_lock(cache: VerbCache) -> None:
    before = asyncio.all_tasks()

    async def section() -> None:
        async with cache.lock("a", lease=30):
            await asyncio.sleep(0)

    async def free(run: CancelledRun) -> None:
        await nothing_left(cache, before)
        lock = await take(cache)
        await lock.release()

    report = await cancel_at_each_suspension(section, free)
    assert not report.findings


async def test_a_waiter_cancelled_at_any_suspension_leaves_no_lock(cache: VerbCache) -> None:
    before = asyncio.all_tasks()

    async def wait() -> None:
        holder = await take(cache)
        try:
            releasing = asyncio.get_running_loop().call_later(
                0.03, lambda: ends.append(start(holder.release()))
            )
            try:
                async with cache.lock("a", lease=30):
                    pass
            finally:
                releasing.cancel()
        finally:
            if not ends:
                await holder.release()
            await asyncio.gather(*ends)
            ends.clear()

    start = asyncio.ensure_future
    ends: list[asyncio.Future[bool]] = []

    async def free(run: CancelledRun) -> None:
        if ends:
            await asyncio.gather(*ends)
            ends.clear()
        await nothing_left(cache, before)
        lock = await take(cache)
        await lock.release()

    report = await cancel_at_each_suspension(wait, free)
    assert not report.findings


async def test_a_cancelled_waiter_lets_the_next_one_in(cache: VerbCache) -> None:
    holder = await take(cache)
    locks = [cache.lock("a") for _ in range(3)]
    waiting = [asyncio.create_task(lock.acquire()) for lock in locks]
    await asyncio.sleep(0.03)
    waiting[0].cancel()
    waiting[1].cancel()
    await asyncio.wait(waiting[:2])
    await holder.release()
    assert await asyncio.wait_for(waiting[2], 2)
    await locks[2].release()
