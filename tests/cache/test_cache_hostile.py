"""What lies on the server may be anything: verbs take junk for no value, and ask no more because of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.cache.store import MISS
from aioinfra.codec.layout import SIZE, Stamp, pack
from aioinfra.connection.pool import RedisClient

OPTIONS = CacheOptions(redis=RedisStoreOptions(budget=3.0))  # a busy machine answers late


def with_extension(sealed: bytes, extension: bytes) -> bytes:
    """A sealed value whose extension area is replaced."""
    before = SIZE + int.from_bytes(sealed[6:8], "little")
    return sealed[:6] + len(extension).to_bytes(2, "little") + sealed[8:SIZE] + extension + sealed[before:]


Verb = Callable[[CacheManager], Awaitable[Any]]
ATOMIC: dict[str, tuple[Verb, Any]] = {
    "incr": (lambda cache: cache.incr("k"), 1),
    "add": (lambda cache: cache.add("k", "mine"), True),
    "get_or_set": (lambda cache: cache.get_or_set("k", "mine"), "mine"),
    "expire": (lambda cache: cache.expire("k", 60), False),
    "touch": (lambda cache: cache.touch("k", ttl=60), 0),
    "ttl": (lambda cache: cache.ttl("k"), None),
}


@pytest.mark.parametrize("verb", ATOMIC)
@pytest.mark.parametrize("extension", [b"\x09", b"\x02\x00\xff\xfe" + bytes(8)], ids=["cut", "not text"])
async def test_malformed_tags_are_no_value_to_the_atomic_verbs(
    redis_url: str, prefix: str, verb: str, extension: bytes
) -> None:
    call, answer = ATOMIC[verb]
    async with CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache:
        client = RedisClient(redis_url)
        await cache.set("k", 5, tags=["t"])
        sealed = await client.execute("GET", prefix + "k")
        await client.execute("SET", prefix + "k", with_extension(sealed, extension))
        assert await cache.get("k", MISS, consistency="strong") is MISS
        assert await call(cache) == answer
        await client.aclose()


async def test_a_value_with_more_tags_than_any_has_is_a_miss_and_costs_no_questions(
    redis_url: str, prefix: str
) -> None:
    async with CacheManager(redis_url, namespace=prefix, options=OPTIONS) as cache:
        client = RedisClient(redis_url)
        await cache.set("k", 5)
        sealed = await client.execute("GET", prefix + "k")
        tags = tuple((f"{number:04}", bytes(8)) for number in range(4000))
        hostile = pack(1, 0, 0, Stamp(1.0, tags=tags), sealed[8:16], b"5")
        await client.execute("SET", prefix + "k", hostile)
        calls = await _gets(client)
        assert await cache.get("k", MISS, consistency="strong") is MISS
        assert await cache.mget(["k"], consistency="strong") == {}
        assert await _gets(client) - calls < 20
        assert cache.get_stats()["undecodable"] == 2
        await client.aclose()


async def _gets(client: RedisClient) -> int:
    """Reads of keys that the server has answered."""
    lines = (await client.execute("INFO", "commandstats")).decode().splitlines()
    counts = [line for line in lines if line.startswith(("cmdstat_get:", "cmdstat_mget:"))]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in counts)
