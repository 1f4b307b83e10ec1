"""The virtual clock does what it says: timers, threads and wall clock, and a worker on a real server."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from aioinfra import task
from aioinfra.backoff import Backoff
from aioinfra.cache.manager import CacheManager
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, LifecycleError
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import StoredRequest
from aioinfra.jobs.lease import LeaseKeeper, LeaseOptions
from aioinfra.jobs.redis_store import RedisJobStore, RedisLeaseStore, script_time
from aioinfra.jobs.store import ClaimRequest, Share
from aioinfra.testing.virtual_clock import NeverCameTrueError, VirtualClock
from tests.jobs.kit import engine, working


async def test_a_step_fires_the_timers_on_its_way_in_their_order_and_at_their_times() -> None:
    async with VirtualClock() as clock:
        began = clock.monotonic()
        seen: list[tuple[str, float]] = []

        async def chain(name: str, *pauses: float) -> None:
            for pause in pauses:
                await asyncio.sleep(pause)
                seen.append((name, round(clock.monotonic() - began, 6)))

        tasks = [asyncio.create_task(chain("a", 60, 60, 60)), asyncio.create_task(chain("b", 90, 3600))]
        await clock.advance(179.999)
        assert seen == [("a", 60), ("b", 90), ("a", 120)]
        await clock.advance(0.001)
        assert seen[3:] == [("a", 180)]
        await clock.advance(86_400)
        assert seen[4:] == [("b", 3690)]
        await asyncio.gather(*tasks)


async def test_nothing_moves_by_itself_and_a_day_takes_no_time() -> None:
    real = time.monotonic()
    async with VirtualClock(1_000_000.0) as clock:
        assert (clock.time(), clock.monotonic()) == (clock.time(), clock.monotonic())
        sleeper = asyncio.create_task(clock.sleep(86_400))
        await asyncio.to_thread(time.sleep, 0.02)
        assert clock.time() == 1_000_000.0
        await clock.advance(86_399)
        assert not sleeper.done()
        await clock.advance(1)
        assert sleeper.done()
        assert clock.time() == pytest.approx(1_086_400.0)
    assert time.monotonic() - real < 5


async def test_timeouts_of_asyncio_follow() -> None:
    async with VirtualClock() as clock:

        async def bounded() -> None:
            async with asyncio.timeout(30):
                await asyncio.Event().wait()

        running = asyncio.create_task(bounded())
        await clock.advance(29)
        assert not running.done()
        await clock.advance(1)
        with pytest.raises(TimeoutError):
            await running


async def test_threads_wait_by_it_and_are_back_when_a_step_returns() -> None:
    async with VirtualClock() as clock:
        beats: list[float] = []
        stop = threading.Event()

        def beat() -> None:
            while not clock.wait(stop, 10.0):
                beats.append(clock.monotonic())

        began = clock.monotonic()
        thread = threading.Thread(target=beat)
        thread.start()
        while not clock._waiting:
            await asyncio.to_thread(time.sleep, 0.001)
        await clock.advance(35)
        assert [round(beat - began, 6) for beat in beats] == [10, 20, 30]
        stop.set()
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()


async def test_the_wall_clock_jumps_alone() -> None:
    async with VirtualClock(1_000_000.0) as clock:
        before = clock.monotonic()
        clock.set_wall(996_400.0)
        assert (clock.time(), clock.monotonic()) == (996_400.0, before)
        await clock.advance(10)
        assert clock.time() == pytest.approx(996_410.0)


async def test_until_jumps_to_the_timer_that_makes_it_true() -> None:
    async with VirtualClock() as clock:
        done = asyncio.create_task(asyncio.sleep(500))
        assert await clock.until(done.done) == pytest.approx(500)
        with pytest.raises(NeverCameTrueError, match="60 virtual seconds"):
            await clock.until(lambda: False, within=60, patience=0.0)


async def test_a_timer_that_is_left_over_fires_by_real_time() -> None:
    async with VirtualClock() as clock:
        left = asyncio.create_task(asyncio.sleep(100.02))
        await clock.advance(100)
    async with asyncio.timeout(5):
        await left


async def test_misuse_is_named() -> None:
    for start in (float("nan"), -1.0, True):
        with pytest.raises(InvalidArgument, match="start"):
            VirtualClock(start)
    clock = VirtualClock()
    with pytest.raises(LifecycleError, match="async with"):
        await clock.advance(1)
    async with clock:
        for seconds in (-1.0, float("nan"), True):
            with pytest.raises(InvalidArgument, match="seconds"):
                await clock.advance(seconds)
        with pytest.raises(LifecycleError, match="already"):
            async with VirtualClock():
                pass


async def test_ttls_of_the_memory_cache_follow() -> None:
    async with VirtualClock() as clock, CacheManager(clock=clock) as cache:
        await cache.set("k", "v", ttl=3600)
        await clock.advance(3599)
        assert await cache.get("k") == "v"
        await clock.advance(1)
        assert await cache.get("k") is None


async def test_retries_a_day_apart_run_in_seconds(valkey_url: str, prefix: str) -> None:
    runs: list[float] = []
    async with VirtualClock(flows=True) as clock, RedisClient(valkey_url) as redis:

        @task(
            queue=f"{prefix}queue",
            retry_on=(OSError,),
            retry=Backoff(tries=4, base=86_400, cap=1e6, jitter=False),
        )
        async def flaky() -> int:
            runs.append(clock.time())
            if len(runs) < 4:
                raise OSError("not yet")
            return 7

        def tried(times: int) -> Callable[[], Awaitable[bool]]:
            async def recorded() -> bool:
                held = await redis.execute("EXISTS", f"arq:in-progress:{job.id}")
                return len(runs) >= times and not held

            return recorded

        client = flaky.client = JobClient(redis)
        job = await flaky.delay()
        async with working(valkey_url, flaky, options=engine(clock=clock)):
            for days in (1, 2, 4):
                await clock.until(tried(days.bit_length()), within=60)
                await clock.jump(days * 86_400)
            await clock.until(tried(4), within=60)
            assert await job.result(timeout=5) == 7
        apart = [(later - earlier) / 86_400 for earlier, later in pairwise(runs)]
        assert apart == pytest.approx([1, 2, 4], abs=0.01)
        await client.aclose()


async def test_jobs_that_are_deferred_start_at_their_time_by_the_same_clock(
    valkey_url: str, prefix: str
) -> None:
    async with VirtualClock(flows=True) as clock, RedisClient(valkey_url) as redis:
        started: list[float] = []

        @task(queue=f"{prefix}queue")
        async def note() -> None:
            started.append(clock.time())

        client = note.client = JobClient(redis, clock=clock)
        await clock.jump(5 * 86_400)
        began = clock.time()
        for days in (3, 1, 2):
            await note.options(delay=days * 86_400)()
        async with working(valkey_url, note, options=engine(clock=clock)):
            for day in range(1, 4):
                assert len(started) == day - 1
                await clock.jump(86_400)
                await clock.until(lambda: len(started) == day, within=60)  # noqa: B023 - called in this turn
        assert [(at - began) / 86_400 for at in started] == pytest.approx([1, 2, 3], abs=0.01)
        await client.aclose()


async def test_leases_hold_while_they_are_renewed_and_lapse_when_they_are_not(
    valkey_url: str, prefix: str
) -> None:
    queue = f"{prefix}queue"
    async with VirtualClock() as clock, RedisClient(valkey_url) as redis:
        now = script_time(clock)
        store = RedisJobStore(redis, now_ms=now)
        await store.add(
            [StoredRequest(queue, f"{prefix}1", False, None, 0, 10**9, "", b"x")], repeated=False, deadline=5
        )

        async def claim() -> list[int]:
            request = ClaimRequest((Share(queue, 5, 5),), 5, uuid.uuid4().hex, uuid.uuid4().hex, 15.0)
            reply = await store.claim(request)
            keeper.hold(reply.claims)
            return [claim.stalls for claim in reply.claims]

        keeper = LeaseKeeper(
            lambda: RedisLeaseStore(redis.blocking_connection(), now_ms=now),
            LeaseOptions(15.0),
            on_lost=lambda claims: None,
            on_error=lambda: None,
            clock=clock,
        )
        assert await claim() == [0]
        keeper.start()
        await until_waiting(clock)
        for _ in range(10):
            for _ in range(30):
                keeper.beat()
                await clock.advance(1)
            assert await claim() == []
        await keeper.aclose()
        await clock.advance(14)
        assert await claim() == []
        await clock.advance(1.001)
        assert await claim() == [1]


async def until_waiting(clock: VirtualClock) -> None:
    while not clock._waiting:
        await asyncio.to_thread(time.sleep, 0.001)
