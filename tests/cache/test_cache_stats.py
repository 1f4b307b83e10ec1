"""`get_stats` by layer and operation, and `explain` of a decorated function."""

from __future__ import annotations

from dataclasses import dataclass

from aioinfra.cache.decorator import cached
from aioinfra.cache.manager import CacheManager


@dataclass
class User:
    id: int


async def test_hits_by_layer_are_counted_once(redis_url: str, prefix: str) -> None:
    async with CacheManager(redis_url, namespace=prefix) as cache:
        await cache.mset({"a": 1, "b": 2})
        await cache.barrier()
        await cache.mget(["a", "b", "nothing"])  # the server, and into L1
        await cache.mget(["a", "b", "nothing"])
        assert await cache.get("a") == 1
        stats = cache.get_stats()
    assert (stats["hits"], stats["misses"]) == (5, 2)
    assert (stats["l1_hits"], stats["server_hits"]) == (3, 2)
    assert stats["hit_rate"] == 5 / 7
    assert stats["l1_hit_rate"] == 3 / 7
    assert stats["server_hit_rate"] == 2 / 4


async def test_times_of_operations_and_bytes_saved(redis_url: str, prefix: str) -> None:
    async with CacheManager(redis_url, namespace=prefix) as cache:
        await cache.set("a", "x" * 5000)
        await cache.get("a")
        await cache.barrier()
        await cache.get("a")
        before = cache.get_stats()
        for _ in range(10):
            await cache.get("a")
        stats = cache.get_stats()
    assert stats["get_count"] == before["get_count"]  # what L1 answers is not timed
    assert stats["set_count"] == 1
    assert 0 < stats["set_p50"] <= stats["set_p99"]
    assert stats["get_mean"] > 0
    assert stats["compression_saved"] == stats["compressed_from"] - stats["compressed_to"] > 4000


async def test_explain_of_a_decorated_function(redis_url: str, prefix: str) -> None:
    async with CacheManager(redis_url, namespace=prefix) as cache:

        @cached(cache=cache, tags=["user:{item}"], ttl=50)
        async def load(item: int) -> User:
            return User(item)

        class Shop:
            @cached(cache=cache, ignore=("self",))
            async def name(self) -> str:
                return "x"

        assert (await load.explain(7)).state == "absent"
        await load(7)
        found = await load.explain(item=7)
        assert (found.key, found.state, found.tags) == (load.key_for(7), "fresh", ("user:7",))
        await Shop().name()
        assert (await Shop().name.explain()).state == "fresh"
