"""Tags and generations: one write ends any number of values, for all processes, and nothing brings them back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.names import Names
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import InvalidArgument
from tests.cache.test_cache_fleet_flight import commands

# A busy machine answers late; these tests are not about outages.
OPTIONS = CacheOptions(redis=RedisStoreOptions(budget=3.0))
MANY = 100_000
WRITES = ("set", "unlink", "del", "incr", "expire", "pexpire", "evalsha", "eval", "hset", "sadd")
WALKS = ("scan", "keys", "sscan", "hscan", "smembers")


async def test_one_write_ends_a_hundred_thousand_values_and_another_process_sees_it_at_once(
    own_server: Callable[..., Any], prefix: str
) -> None:
    server = own_server("--appendonly", "no")
    async with (
        RedisClient(server.url, PoolOptions(socket_timeout=30.0)) as raw,
        CacheManager(server.url, namespace=prefix, options=OPTIONS) as cache,
        CacheManager(server.url, namespace=prefix, options=OPTIONS) as other,
    ):
        await cache.set("one", 1, tags=["all"])
        sealed = await raw.execute("GET", prefix + "one")
        await copy(raw, prefix, sealed)
        ways: dict[str, Callable[[], Any]] = {
            "tag": lambda: cache.invalidate_tag("all"),
            "generation": cache.invalidate_all,
        }
        for how, end in ways.items():
            await cache.set("fresh", 1, tags=["all"])
            if how == "generation":
                sealed = await raw.execute("GET", prefix + "fresh")
                await copy(raw, prefix, sealed)
            for reader in (cache, other):
                assert await reader.barrier(10.0)
                assert len(await reader.mget([str(number) for number in range(1, 1001)])) == 1000
                assert await reader.get("77777") == 1
            before = await commands(raw)
            await end()
            ended = time.monotonic()
            while await other.get("77777", "gone") != "gone":
                assert time.monotonic() < ended + 5
                await asyncio.sleep(0)
            seen = time.monotonic() - ended
            after = await commands(raw)
            during = {name: count - before.get(name, 0) for name, count in after.items()}
            assert sum(during.get(name, 0) for name in WRITES) == 1, during
            assert not any(during.get(name, 0) for name in WALKS), during
            assert seen < 0.05, how
            numbers = [str(number) for number in random.Random(how).sample(range(1, MANY), 2000)]
            for reader in (cache, other):
                assert await reader.mget(numbers) == {}
                assert await reader.get("1", "gone", consistency="strong") == "gone"


async def copy(raw: RedisClient, prefix: str, sealed: bytes) -> None:
    """Put a sealed value under so many keys."""
    script = "for i = ARGV[1], ARGV[2] do redis.call('SET', KEYS[1] .. i, ARGV[3], 'PX', 600000) end"
    for first in range(1, MANY + 1, 5_000):
        await raw.execute("EVAL", script, 1, prefix, first, first + 4_999, sealed, deadline=60.0)


@pytest.mark.parametrize("fate", ["deleted", "expired", "overwritten", "of another type"])
async def test_a_tag_that_is_lost_ends_its_values_and_never_brings_them_back(
    redis_url: str, prefix: str, fate: str
) -> None:
    tag = Names(prefix).tag + "t"
    async with (
        RedisClient(redis_url) as raw,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as other,
    ):
        await cache.set("k", "old", tags=["t"])
        assert await other.get("k") == await cache.get("k") == "old"
        if fate == "deleted":
            await raw.execute("DEL", tag)
        elif fate == "expired":
            await raw.execute("PEXPIRE", tag, 1)
            await asyncio.sleep(0.02)
            assert await raw.execute("EXISTS", tag) == 0  # looked at, so the end is told
        elif fate == "overwritten":
            await raw.execute("SET", tag, "junk")
        else:
            await raw.execute("DEL", tag)
            await raw.execute("RPUSH", tag, "x")
        for reader in (cache, other):
            assert await reader.barrier(5.0)
            assert await reader.get("k", "gone") == "gone"
            assert await reader.mget(["k"]) == {}
        await cache.set("new", "value", tags=["t"])  # the tag is made anew
        for reader in (cache, other):
            assert await reader.get("new") == "value"
            assert await reader.get("k", "gone") == "gone"
        await other.invalidate_tag("t")
        assert await cache.barrier(5.0)
        assert await cache.get("new", "gone") == "gone"


@pytest.mark.parametrize("fate", ["deleted", "overwritten", "of another type"])
async def test_a_generation_that_is_lost_ends_all_values_and_is_made_anew_once(
    redis_url: str, prefix: str, fate: str
) -> None:
    key = Names(prefix).generation
    async with (
        RedisClient(redis_url) as raw,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as other,
    ):
        await cache.set("k", "old")
        assert await other.get("k") == await cache.get("k") == "old"
        first = await raw.execute("GET", key)
        if fate == "overwritten":
            await raw.execute("SET", key, "junk")
        else:
            await raw.execute("DEL", key)
            if fate == "of another type":
                await raw.execute("RPUSH", key, "x")
        for reader in (cache, other, cache, other):
            assert await reader.barrier(5.0)
            assert await reader.get("k", "gone") == "gone"
        second = await raw.execute("GET", key)
        assert len(second) == 8 != first
        await cache.set("k", "new")
        assert await other.get("k") == "new"


async def test_an_evicting_server_never_brings_a_tagged_value_back(
    own_server: Callable[..., Any], prefix: str
) -> None:
    """Tags, generation and values are evicted at random, while tags are invalidated."""
    server = own_server("--appendonly", "no", "--maxmemory", "6mb", "--maxmemory-policy", "allkeys-random")
    draw = random.Random(1)
    ended: set[str] = set()
    async with (
        CacheManager(server.url, namespace=prefix, options=OPTIONS) as cache,
        CacheManager(server.url, namespace=prefix, options=OPTIONS) as other,
    ):
        for number in range(1500):
            key = f"k{number}"
            await cache.set(key, "x" * 3000 + key, tags=[f"t{number % 10}"])
            if number % 50 == 49:
                tag = draw.randrange(10)
                await other.invalidate_tag(f"t{tag}")
                ended |= {f"k{each}" for each in range(number + 1) if each % 10 == tag}
                asked = draw.sample(sorted(ended), min(len(ended), 100))
                assert await cache.barrier(5.0)
                for reader in (cache, other):
                    assert await reader.mget(asked) == {}
        assert ended


async def test_values_of_several_tags_end_with_any_of_them_while_they_are_loaded(
    redis_url: str, prefix: str, seed: int
) -> None:
    """Loads and invalidations all at a time, in two caches: what is there was loaded after the last of these."""
    draw = random.Random(f"tags/{seed}")
    truth = dict.fromkeys("abcdef", 0)
    tags = {key: [f"t{number % 3}", "all"] for number, key in enumerate(truth)}

    async with (
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as one,
        CacheManager(redis_url, namespace=prefix, options=OPTIONS) as two,
    ):

        async def load(key: str) -> int:
            seen = truth[key]
            await asyncio.sleep(draw.choice([0, 0, 0.002, 0.01]))
            return seen

        async def reader(cache: CacheManager, own: random.Random, ended: asyncio.Event) -> None:
            while not ended.is_set():
                key = own.choice("abcdef")
                await cache.get_or_load(key, partial(load, key), tags=tags[key])
                await asyncio.sleep(own.choice([0, 0, 0.001]))

        ended = asyncio.Event()
        readers = [
            asyncio.create_task(reader(cache, random.Random(f"{seed}/{n}"), ended))
            for n, cache in enumerate([one, two] * 10)
        ]
        try:
            for _ in range(60):
                tag = draw.choice(["t0", "t1", "t2", "all"])
                for key in truth:  # the truth changes first, as in a database
                    truth[key] += tag in tags[key]
                expected = dict(truth)
                await draw.choice([one, two]).invalidate_tag(tag)
                for cache in (one, two):
                    assert await cache.barrier(5.0)
                    found = await cache.mget(truth)
                    assert all(found[key] == expected[key] for key in found), (tag, found, expected)
        finally:
            ended.set()
            await asyncio.gather(*readers)


async def test_tags_are_texts_and_not_too_many(prefix: str) -> None:
    async with CacheManager() as cache:
        for wrong in ("text", b"bytes", 7, [""], [7], [str(n) for n in range(65)], ["x" * 9000]):
            with pytest.raises(InvalidArgument, match="tags"):
                await cache.set("k", 1, tags=wrong)  # type: ignore[arg-type]  # that is what is refused
        await cache.set("k", 1, tags=["ä", "a b", "*", "a:b", "a", "a"])
        await cache.invalidate_tag("*")
        assert await cache.get("k") is None


async def test_a_tag_that_looks_like_another_ends_only_its_own(redis_url: str, prefix: str) -> None:
    names = ["a", "a:b", "a*", "b", "tag:a", "A", "a ", "ä"]
    async with CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache:
        for ended in names:
            for name in names:
                await cache.set(name, name, tags=[name])
            await cache.invalidate_tag(ended)
            assert set(await cache.mget(names)) == set(names) - {ended}
