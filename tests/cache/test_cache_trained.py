"""A whole cache with trained dictionaries: what one process seals another one opens, whatever was rotated."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aioinfra.cache.dictionaries import CacheDictionaries
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.names import Names
from aioinfra.codec.dictionaries import Dictionaries, train
from aioinfra.connection.pool import RedisClient
from benchmarks.cache_compression import customers

FIRST = train(customers(300), size=4096)
SECOND = train(customers(300, seed=2), size=4096)
RECORDS: list[Any] = [json.loads(record) for record in customers(50, seed=3)]


async def publish(url: str, namespace: str, dictionary: Any) -> None:
    async with RedisClient(url) as client:
        await CacheDictionaries(client, Names(namespace), Dictionaries()).publish(dictionary)


def seals_with(cache: CacheManager) -> Any:
    return cache.kind().envelope.dictionaries.current


async def test_values_of_rotated_dictionaries_are_read_by_caches_that_start_later(
    redis_url: str, prefix: str
) -> None:
    await publish(redis_url, prefix, FIRST)
    async with CacheManager(redis_url, namespace=prefix) as writer:
        assert seals_with(writer) == FIRST
        await writer.mset({f"first:{at}": record for at, record in enumerate(RECORDS)})
        await publish(redis_url, prefix, SECOND)
        async with asyncio.timeout(5):
            while seals_with(writer) != SECOND:  # noqa: ASYNC110 - a push tells the cache alone
                await asyncio.sleep(0.005)
        await writer.mset({f"second:{at}": record for at, record in enumerate(RECORDS)})
        assert writer.get_stats()["compressed_from"] > 3 * writer.get_stats()["compressed_to"]
    async with CacheManager(redis_url, namespace=prefix) as reader:
        assert await reader.get("first:0") == RECORDS[0]
    async with CacheManager(redis_url, namespace=prefix) as reader:
        keys = [f"{name}:{at}" for name in ("first", "second") for at in range(50)]
        assert list((await reader.mget(keys)).values()) == RECORDS * 2
        assert reader.get_stats()["undecodable"] == 0

        async def load() -> Any:
            raise AssertionError

        assert await reader.get_or_load("first:1", load) == RECORDS[1]


async def test_a_value_whose_dictionary_is_gone_is_a_counted_miss(redis_url: str, prefix: str) -> None:
    await publish(redis_url, prefix, FIRST)
    async with CacheManager(redis_url, namespace=prefix) as writer:
        await writer.set("key", RECORDS[0])
    async with RedisClient(redis_url) as client:
        dictionary = Names(prefix).dictionary
        await client.execute("DEL", f"{dictionary}:{FIRST.id}", f"{dictionary}-current")
    async with CacheManager(redis_url, namespace=prefix) as reader:
        assert await reader.get("key", "none") == "none"
        assert await reader.mget(["key"]) == {}
        assert reader.get_stats()["undecodable"] == 2
