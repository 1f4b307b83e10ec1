"""Single flight: one load, whoever comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from aioinfra.cache.flight import Flight, Flights
from aioinfra.cache.manager import CacheManager
from aioinfra.errors import LifecycleError

Loader = Callable[[Flight[int]], Awaitable[int]]


class Slow:
    """A loader that waits until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, flight: Flight[int] | None = None) -> int:
        self.calls += 1
        self.started.set()
        await self.go.wait()
        return self.calls


async def test_a_cancelled_leader_leaves_the_load_to_the_followers() -> None:
    flights, slow = Flights(), Slow()
    leader = asyncio.create_task(flights.run("k", slow))
    await slow.started.wait()
    followers = [asyncio.create_task(flights.run("k", slow)) for _ in range(100)]
    await asyncio.sleep(0)
    leader.cancel()
    followers[0].cancel()
    await asyncio.wait([leader, followers[0]])
    assert leader.cancelled()
    slow.go.set()
    assert await asyncio.gather(*followers[1:]) == [1] * 99
    assert slow.calls == 1


async def test_a_load_that_everyone_left_still_lands() -> None:
    flights, slow = Flights(), Slow()
    only = asyncio.create_task(flights.run("k", slow))
    await slow.started.wait()
    only.cancel()
    await asyncio.wait([only])
    assert "k" in flights
    late = asyncio.create_task(flights.run("k", slow))
    await asyncio.sleep(0)
    slow.go.set()
    assert await late == 1
    assert "k" not in flights
    assert flights.landed == 1


async def test_every_caller_gets_the_error_of_the_load() -> None:
    flights = Flights()

    async def fail(flight: Flight[int]) -> int:
        await asyncio.sleep(0)
        raise KeyError("x")

    answers = await asyncio.gather(*(flights.run("k", fail) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(answer, KeyError) for answer in answers)
    assert "k" not in flights


async def test_an_error_that_nobody_waits_for_is_no_warning() -> None:
    """The unretrieved exception of a task would be logged, and fail this test as a warning."""
    flights = Flights()
    go = asyncio.Event()

    async def fail(flight: Flight[int]) -> int:
        await go.wait()
        raise KeyError("x")

    only = asyncio.create_task(flights.run("k", fail))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.wait([only])
    go.set()
    async with asyncio.timeout(5):
        while "k" in flights:  # noqa: ASYNC110 - nobody waits for it: that is the case under test
            await asyncio.sleep(0)


async def test_a_forgotten_flight_learns_it_and_later_callers_start_anew() -> None:
    flights = Flights()
    seen: list[bool] = []
    go = asyncio.Event()

    async def load(flight: Flight[int]) -> int:
        await go.wait()
        seen.append(flight.current)
        return len(seen)

    first = asyncio.create_task(flights.run("k", load))
    await asyncio.sleep(0)
    flights.forget("k")
    second = asyncio.create_task(flights.run("k", load))
    await asyncio.sleep(0)
    go.set()
    assert sorted([await first, await second]) == [1, 2]
    assert sorted(seen) == [False, True]


async def test_closing_ends_every_load_and_tells_who_waits() -> None:
    flights, slow = Flights(), Slow()
    waiting = asyncio.create_task(flights.run("k", slow))
    forgotten = asyncio.create_task(flights.run("f", slow))
    await slow.started.wait()
    flights.forget("f")
    await flights.aclose()
    for task in (waiting, forgotten):
        with pytest.raises(LifecycleError):
            await task
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "aioinfra-cache-load"]


async def test_a_loader_that_asks_for_its_own_value_is_refused_instead_of_waiting_for_ever() -> None:
    async with CacheManager() as cache:

        async def load() -> Any:
            return await cache.get_or_load("other", inner)

        async def inner() -> Any:
            return await cache.get_or_load("k", load)

        async with asyncio.timeout(5):
            with pytest.raises(LifecycleError, match="its own value"):
                await cache.get_or_load("k", load)
        assert await cache.get_or_load("k", returning(3)) == 3


async def test_loaders_that_need_each_others_values_are_refused_instead_of_waiting_for_ever() -> None:
    async with CacheManager() as cache:
        both = asyncio.Barrier(2)

        async def load(other: str) -> Any:
            await both.wait()
            return await cache.get_or_load(other, returning("unused"))

        async with asyncio.timeout(5):
            answers = await asyncio.gather(
                cache.get_or_load("a", lambda: load("b")),
                cache.get_or_load("b", lambda: load("a")),
                return_exceptions=True,
            )
        assert all(isinstance(answer, LifecycleError) for answer in answers)
        assert "each other" in str(answers[0])
        assert await cache.get_or_load("a", returning(3)) == 3


async def test_a_circle_is_found_through_other_loads_and_through_tasks_of_a_loader() -> None:
    async with CacheManager() as first, CacheManager() as second:
        everyone = asyncio.Barrier(3)

        async def load(cache: CacheManager, *keys: str) -> Any:
            await everyone.wait()
            return await asyncio.gather(*(cache.get_or_load(key, returning(1)) for key in keys))

        async with asyncio.timeout(5):
            answers = await asyncio.gather(
                first.get_or_load("a", lambda: load(second, "x", "b")),
                second.get_or_load("b", lambda: load(first, "y", "c")),
                first.get_or_load("c", lambda: load(first, "z", "a")),
                return_exceptions=True,
            )
        assert all(isinstance(answer, LifecycleError) for answer in answers)


async def test_loads_that_share_a_third_one_are_no_circle() -> None:
    async with CacheManager() as cache:
        shared = Slow()

        async def load(name: str) -> Any:
            return [name, await cache.get_or_load("shared", shared)]

        tasks = [asyncio.create_task(cache.get_or_load(name, partial(load, name))) for name in "abc"]
        await shared.started.wait()
        await asyncio.sleep(0)
        shared.go.set()
        assert await asyncio.gather(*tasks) == [["a", 1], ["b", 1], ["c", 1]]


async def test_a_loader_that_invalidates_and_asks_again_is_refused() -> None:
    async with CacheManager() as cache:

        async def load() -> Any:
            await cache.delete("k")
            return await cache.get_or_load("k", load)

        async with asyncio.timeout(5):
            with pytest.raises(LifecycleError, match="its own value"):
                await cache.get_or_load("k", load)


async def test_a_task_that_a_loader_left_behind_may_ask_for_the_value_later() -> None:
    async with CacheManager() as cache:
        left: list[asyncio.Task[Any]] = []
        go = asyncio.Event()

        async def later() -> Any:
            await go.wait()
            await cache.delete("k")
            return await cache.get_or_load("k", returning(2))

        async def load() -> Any:
            left.append(asyncio.create_task(later()))
            return 1

        assert await cache.get_or_load("k", load) == 1
        go.set()
        assert await left[0] == 2


def returning(value: Any) -> Callable[[], Awaitable[Any]]:
    async def load() -> Any:
        return value

    return load
