"""Warming: any form of source, within its bounds, with an exact report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.warm import DEFAULT_WARM_OPTIONS, WarmOptions, WarmReport, warm
from aioinfra.errors import InvalidArgument, LifecycleError
from aioinfra.testing.virtual_clock import VirtualClock
from tests.fair_time import fair_time


async def value() -> int:
    return 1


async def pairs() -> AsyncIterator[tuple[str, Any]]:
    yield "a", 1
    yield "b", value


async def mapping() -> dict[str, Any]:
    return {"a": 1, "b": value}


@pytest.mark.parametrize(
    "source",
    [{"a": 1, "b": 1}, [("a", 1), ("b", value)], pairs, pairs(), mapping, lambda: {"a": 1, "b": lambda: 1}],
    ids=["mapping", "pairs", "async generator function", "async generator", "coroutine function", "function"],
)
async def test_every_form_of_source(source: Any) -> None:
    async with CacheManager() as cache:
        report = await cache.warm_cache(source)
        assert report == WarmReport(2, {})
        assert await cache.mget(["a", "b"]) == {"a": 1, "b": 1}


async def test_ten_thousand_keys_with_exact_progress(valkey_url: str, prefix: str) -> None:
    seen: list[int] = []
    running = most = 0

    def loader(number: int) -> Callable[[], Any]:
        async def load() -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            if number % 1000 == 7:
                raise KeyError(number)
            return number

        return load

    async with CacheManager(valkey_url, namespace=prefix) as cache:
        options = WarmOptions(concurrency=50, progress=lambda report: seen.append(report.stored))
        report = await cache.warm_cache(
            [(str(number), loader(number)) for number in range(10_000)], ttl=60, options=options
        )
        assert report.stored == 9990
        assert report.failures == {str(number): "KeyError" for number in range(7, 10_000, 1000)}
        assert len(seen) == 10_000
        assert seen[-1] == 9990
        assert most == 50
        assert await cache.clear(all=True) == 9990


async def test_the_rate_is_kept() -> None:
    loop = asyncio.get_running_loop()
    async with CacheManager() as cache:
        started, since = loop.time(), fair_time()
        await cache.warm_cache({str(number): 1 for number in range(50)}, options=WarmOptions(rate=500))
        assert loop.time() - started > 0.08
        assert fair_time() - since < 2


async def test_ten_thousand_keys_under_a_rate(valkey_url: str, prefix: str) -> None:
    begun: list[float] = []
    seen: list[tuple[int, int, int]] = []
    clock = asyncio.get_running_loop().time

    def source() -> Any:
        for number in range(10_000):
            yield str(number), number
            begun.append(clock())

    def progress(report: WarmReport) -> None:
        seen.append((report.done, report.stored, report.failed))

    async with CacheManager(valkey_url, namespace=prefix) as cache:
        options = WarmOptions(rate=20_000, progress=progress)
        report = await cache.warm_cache(source, ttl=60, options=options)
        assert (report.stored, report.failed, report.done) == (10_000, 0, 10_000)
        assert seen == [(number, number, 0) for number in range(1, 10_001)]
        # In any span no more than the rate allows, and what 20 ms of a timer make up for.
        for first in range(0, 10_000, 500):
            for last in range(first + 500, 10_000, 500):
                assert last - first <= 20_000 * (begun[last] - begun[first] + 0.02)
        assert await cache.get("9999") == 9999
        assert await cache.clear(all=True) == 10_000


async def test_what_an_outage_delayed_is_not_made_up_for_at_once() -> None:
    waits = [0.0] * 10 + [60.0] + [0.0] * 10
    started: list[float] = []

    async def ready() -> None:
        if waits:
            await clock.sleep(waits.pop(0))

    async def store(key: str, value: Any) -> None:
        started.append(clock.monotonic())

    async with VirtualClock() as clock:
        pairs = [(str(number), number) for number in range(20)]
        warming = asyncio.create_task(warm(store, pairs, WarmOptions(rate=10), ready=ready, clock=clock))
        await clock.advance(120)
        await warming
    pauses = [later - earlier for earlier, later in pairwise(started)]
    assert min(pauses) >= 0.09


class Calls:
    """What was stored, and how."""

    def __init__(self, cache: CacheManager) -> None:
        self.cache = cache
        self.sizes: list[int] = []
        self.alone: list[str] = []

    async def store(self, key: str, value: Any) -> None:
        self.alone.append(key)
        await self.cache.set(key, value)

    async def store_many(self, values: Mapping[str, Any]) -> None:
        self.sizes.append(len(values))
        await self.cache.mset(values)

    async def warm(self, source: Any, options: WarmOptions = DEFAULT_WARM_OPTIONS) -> WarmReport:
        return await warm(
            self.store,
            source,
            options,
            ready=self.cache.wait_healthy,
            store_many=self.store_many,
            outages=lambda: int(self.cache.get_stats()["outages"]),
        )


async def test_plain_values_are_stored_together() -> None:
    async with CacheManager(memory_cache_size=5000) as cache:
        calls = Calls(cache)
        report = await calls.warm({str(number): number for number in range(1000)})
        assert (report.stored, report.total) == (1000, 1000)
        assert calls.sizes == [200] * 5
        assert calls.alone == []
        assert await cache.get("999") == 999
        report = await calls.warm([("a", 1), ("bad", float("nan")), ("", 2), ("b", value), ("a", 3)])
        assert (report.stored, report.failed) == (3, 2)
        assert report.failures == {"bad": "EncodeError", "": "InvalidArgument"}
        assert await cache.mget(["a", "b"]) == {"a": 3, "b": 1}


async def test_a_slow_source_keeps_no_value_waiting() -> None:
    stored = asyncio.Event()

    async def source() -> AsyncIterator[tuple[str, Any]]:
        yield "a", 1
        async with asyncio.timeout(5):
            await stored.wait()
        yield "b", 2

    async with CacheManager() as cache:
        report = await Calls(cache).warm(source, WarmOptions(progress=lambda _: stored.set()))
        assert report.stored == 2


async def test_what_an_outage_swallowed_is_stored_again(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        calls = Calls(cache)

        async def lost() -> int:
            server.kill()
            return 7

        warming = asyncio.create_task(calls.warm([("a", lost)]))
        while not cache.get_stats()["outages"]:  # noqa: ASYNC110 - the cache has no event for it
            await asyncio.sleep(0.01)
        assert not (await asyncio.wait([warming], timeout=0.05))[0]
        server.start()
        assert (await warming).stored == 1
        assert calls.alone == ["a", "a"]
        assert await cache.get("a", consistency="strong") == 7


async def test_loaders_own_cancellation_is_a_failure_and_progress_errors_are_raised() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    def progress(report: WarmReport) -> None:
        raise OSError("the bar is gone")

    async with CacheManager() as cache:
        report = await cache.warm_cache([("a", cancelled), ("b", 1)])
        assert (report.stored, report.failures) == (1, {"a": "CancelledError"})
        with pytest.raises(OSError, match="the bar is gone"):
            await cache.warm_cache({"a": 1, "b": 2}, options=WarmOptions(progress=progress))
        assert len(asyncio.all_tasks()) == 1


async def test_it_waits_for_the_server(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server(start=False)
    async with CacheManager(server.url, namespace=prefix) as cache:
        warming = asyncio.create_task(cache.warm_cache({"a": 1, "b": 2}))
        await asyncio.wait([warming], timeout=0.05)
        assert not warming.done()
        server.start()
        assert (await warming).stored == 2
        assert await cache.mget(["a", "b"]) == {"a": 1, "b": 2}


async def test_a_failing_source_ends_the_warming_and_leaves_no_task() -> None:
    async def source() -> AsyncIterator[tuple[str, Any]]:
        yield "a", asyncio.Event().wait
        raise OSError("the source is gone")

    async with CacheManager() as cache:
        with pytest.raises(OSError, match="the source is gone"):
            await cache.warm_cache(source)
        assert len(asyncio.all_tasks()) == 1
        for nothing in (5, "abc", [("a",)], [5]):
            with pytest.raises(InvalidArgument, match="loader"):
                await cache.warm_cache(nothing)  # type: ignore[arg-type]  # the point of the test
        assert (await cache.warm_cache({"": 1, "nan": float("nan")})).failures == {
            "": "InvalidArgument",
            "nan": "EncodeError",
        }


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 0}, {"concurrency": True}, {"rate": 0}, {"rate": float("inf")}, {"progress": 5}],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        WarmOptions(**options)


@pytest.mark.parametrize("source", [{}, {"a": 1}, {"a": value}], ids=["empty", "value", "loader"])
async def test_a_closed_cache_is_no_failure_of_a_key(source: dict[str, Any]) -> None:
    closed = CacheManager()
    with pytest.raises(LifecycleError, match="initialize"):
        await closed.warm_cache(source)
    with pytest.raises(LifecycleError, match="initialize"):
        await closed.wait_healthy()


@pytest.mark.parametrize("item", [1, value], ids=["values", "loaders"])
async def test_a_cache_that_is_closed_meanwhile_ends_the_warming(item: object) -> None:
    cache = await CacheManager().initialize()
    reports: list[WarmReport] = []

    async def source() -> AsyncIterator[tuple[str, object]]:
        for number in range(1000):
            if number == 700:
                await cache.close()
            yield f"{number}", item

    with pytest.raises(LifecycleError, match="initialize"):
        await cache.warm_cache(source, options=WarmOptions(progress=reports.append))
    assert all(report.failures == {} for report in reports)
    assert len(asyncio.all_tasks()) == 1


async def test_a_loaders_own_lifecycle_error_is_a_failure_of_its_key() -> None:
    async def broken() -> int:
        raise LifecycleError("the database is not open")

    async with CacheManager() as cache:
        report = await cache.warm_cache({"a": broken, "b": 1})
    assert (report.stored, report.failures) == (1, {"a": "LifecycleError"})
