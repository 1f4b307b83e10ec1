"""Warming: any form of source, within its bounds, with an exact report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.warm import WarmOptions, WarmReport
from aioinfra.errors import InvalidArgument


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
        started = loop.time()
        await cache.warm_cache({str(number): 1 for number in range(50)}, options=WarmOptions(rate=500))
        assert 0.09 < loop.time() - started < 2


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
    "options", [{"concurrency": 0}, {"concurrency": True}, {"rate": 0}, {"rate": float("inf")}]
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        WarmOptions(**options)
