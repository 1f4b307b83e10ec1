"""Calls of decorated functions that are easily mistaken for each other."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from aioinfra.cache.cached_many import cached_many
from aioinfra.cache.decorator import cached
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.cache.ttl import milliseconds
from aioinfra.errors import EncodeError


async def test_a_call_that_names_its_cache_is_not_answered_to_one_that_ran_beside_it() -> None:
    async with CacheManager() as ours, CacheManager() as theirs:
        source, begun, may_end = "ours", asyncio.Event(), asyncio.Event()

        @cached(ttl=60, cache=ours)
        async def load(number: int) -> str:
            if (found := source) == "ours":
                begun.set()
                await may_end.wait()
            return found

        slow = asyncio.create_task(load(1))
        await begun.wait()
        source = "theirs"
        for _ in range(3):  # until the L1 of theirs has it
            assert await load(1, _cache_manager=theirs) == "theirs"  # type: ignore[call-arg]  # as users write it
        may_end.set()
        assert await slow == "ours"
        assert [await load(1) for _ in range(3)] == ["ours"] * 3


async def test_arguments_that_compare_equal_stay_apart_also_where_a_default_makes_two_calls_one() -> None:
    async with CacheManager() as cache:

        @cached(ttl=60, cache=cache)
        async def show(left: int, right: float = 1) -> str:
            return f"{left!r} {right!r}"

        for _ in range(3):
            assert await show(1, 1) == "1 1"
        for _ in range(3):
            assert await show(1) == "1 1"
        assert await show(1, True) == "1 True"
        assert await show(1, 1.0) == "1 1.0"
        assert await show(True) == "True 1"


@pytest.mark.parametrize("where", ["memory", "server"])
async def test_with_copy_on_read_those_who_waited_for_one_load_share_nothing(
    where: str, valkey_url: str, prefix: str
) -> None:
    options = CacheOptions(near=NearOptions(copy_on_read=True), redis=RedisStoreOptions(budget=3.0))
    url = valkey_url if where == "server" else None
    made: list[list[int]] = []

    async def load() -> list[int]:
        made.append([1])
        await asyncio.sleep(0.05)  # the others come meanwhile
        return made[-1]

    async with CacheManager(url, namespace=prefix, options=options) as cache:
        readers = await asyncio.gather(*[cache.get_or_load("k", load) for _ in range(5)])
        assert len(made) == 1
        for number, reader in enumerate([*made, *readers]):
            assert reader == [1], "a reader sees what another one did to its value"
            reader.append(number)
        assert await cache.get("k") == [1]


async def test_with_copy_on_read_those_who_waited_for_one_batch_share_nothing() -> None:
    async with CacheManager(options=CacheOptions(near=NearOptions(copy_on_read=True))) as cache:
        runs = 0

        @cached_many(ttl=60, cache=cache)
        async def load(numbers: list[int]) -> dict[int, list[int]]:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.05)  # the others come meanwhile
            return {number: [number] for number in numbers}

        readers = await asyncio.gather(*[load([1, 2]) for _ in range(5)])
        assert runs == 1
        for reader in readers:
            assert reader == {1: [1], 2: [2]}, "a reader sees what another one did to its value"
            reader[1].append(9)
        assert await load([1]) == {1: [1]}


@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_object_in_an_annotation_takes_any_plain_value(
    serialization: Literal["json", "msgpack"],
) -> None:
    options = CacheOptions(near=NearOptions(enabled=False))  # else the second call is not read back
    async with CacheManager(serialization=serialization, options=options) as cache:
        runs = 0

        @cached(ttl=60, cache=cache)
        async def load(number: int) -> dict[str, object]:
            nonlocal runs
            runs += 1
            return {"number": number, "names": ["a", None], "share": 0.5}

        assert await load(1) == await load(1) == {"number": 1, "names": ["a", None], "share": 0.5}
        assert runs == 1

        @cached(ttl=60, cache=cache)
        async def odd() -> dict[str, object]:
            return {"when": {1, 2}}

        with pytest.raises(EncodeError):
            await odd()


def test_the_grain_of_times_adds_no_millisecond_to_a_time_to_live() -> None:
    created = 1_795_000_000.123456
    for seconds in (0.5, 1.0, 100.0, 3600.0):
        for took in (0.0, 0.0123456, 1.7):
            assert milliseconds((created + took + seconds) - created - took) == seconds * 1000
    assert milliseconds(1e-9) == 1
    assert milliseconds(0.0011) == 2
