"""`explain`: every figure agrees with the server's own, and every reason is the true one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from aioinfra.cache.decorator import cached
from aioinfra.cache.explanation import Explanation
from aioinfra.cache.freshness import Freshness
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.codec.dictionaries import train
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, LifecycleError

NO_L1 = CacheOptions(near=NearOptions(enabled=False))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    async with RedisClient(redis_url) as opened:
        yield opened


@pytest.fixture
async def cache(redis_url: str, prefix: str) -> AsyncIterator[CacheManager]:
    async with CacheManager(redis_url, namespace=prefix, options=NO_L1) as opened:
        yield opened


async def value() -> dict[str, str]:
    return {"name": "a secret"}


async def test_the_figures_are_those_of_the_server(
    cache: CacheManager, client: RedisClient, prefix: str
) -> None:
    await cache.set("k", {"text": "a secret" * 500}, ttl=60, tags=["user:1", "all"])
    found = await cache.explain("k")
    key = prefix + "k"
    assert (found.layer, found.state, found.reasons) == ("server", "fresh", ())
    assert found.stored_size == await client.execute("STRLEN", key)
    assert found.encoding == (await client.execute("OBJECT", "ENCODING", key)).decode()
    assert found.idle is not None
    assert found.idle <= await client.execute("OBJECT", "IDLETIME", key) <= found.idle + 5
    left = await client.execute("PTTL", key) / 1000
    assert found.server_ttl is not None
    assert left <= found.server_ttl <= min(60, left + 5)
    assert found.fresh_for == pytest.approx(found.server_ttl)
    assert found.age is not None
    assert 0 <= found.age < 5
    assert (found.codec, found.compression, found.kind) == ("json", "zstd", "string")
    assert found.plain_size == len(json.dumps({"text": "a secret" * 500}, separators=(",", ":")))
    assert found.payload_size is not None
    assert found.stored_size is not None
    assert found.payload_size < found.stored_size < found.plain_size
    assert found.tags == ("user:1", "all")
    assert "secret" not in f"{found} {found!r} {found.as_dict()}"
    assert json.loads(json.dumps(found.as_dict()))["stored_size"] == found.stored_size
    lines = dict(line.split(None, 1) for line in str(found).splitlines())
    assert lines["sizes"].startswith(f"{found.stored_size} bytes, payload {found.payload_size} (zstd")
    assert lines["tags"] == "'user:1', 'all'"
    await cache.set("forever", b"12345", ttl=None)
    await client.execute("PERSIST", prefix + "forever")
    found = await cache.explain("forever")
    assert (found.server_ttl, found.fresh_for, found.codec, found.plain_size) == (None, None, "bytes", 5)


async def test_nothing_is_changed(cache: CacheManager, client: RedisClient, prefix: str) -> None:
    await cache.set("k", 1)
    before = await client.execute("PTTL", prefix + "k")
    stats = cache.get_stats()
    for key in ("k", "nothing"):
        await cache.explain(key)
    assert cache.get_stats() == stats
    assert await client.execute("PTTL", prefix + "k") <= before
    assert await client.execute("EXISTS", prefix + "nothing") == 0


async def test_absent_and_not_a_key(cache: CacheManager) -> None:
    assert await cache.explain("nothing") == Explanation("nothing")
    assert str(await cache.explain("noth\x1bing")).startswith("key        'noth\\x1bing'\nlayer      absent")
    with pytest.raises(InvalidArgument, match="key"):
        await cache.explain("")
    with pytest.raises(LifecycleError):
        await CacheManager().explain("k")


async def test_why_a_value_does_not_count(cache: CacheManager, client: RedisClient, prefix: str) -> None:
    await cache.set("k", 1, tags=["user:1", "all"])
    await cache.invalidate_tag("user:1")
    found = await cache.explain("k")
    assert (found.state, found.reasons) == ("unusable", ("tag 'user:1' was invalidated",))
    await cache.set("k", 1)
    await cache.invalidate_all()
    found = await cache.explain("k")
    assert found.reasons == ("the namespace was cleared: its generation is another one now",)
    await client.execute("SET", prefix + "k", b"junk")
    found = await cache.explain("k")
    assert (found.state, found.reasons, found.stored_size) == ("unusable", ("not a sealed value",), 4)
    assert found.codec is None
    await client.execute("DEL", prefix + "k")
    await client.execute("RPUSH", prefix + "k", "x")
    found = await cache.explain("k")
    assert (found.state, found.kind) == ("unusable", "list")
    assert found.reasons == ("the key holds a list, which is no value",)
    assert await cache.get("k") is None


async def test_a_cleared_namespace_of_functions(cache: CacheManager) -> None:
    load = cached(cache=cache, namespace="shop")(value)
    await load()
    assert (await cache.explain(load.key_for())).tags == ("namespace:shop",)
    await cache.clear(namespace="shop")
    assert (await cache.explain(load.key_for())).reasons == ("namespace 'shop' was cleared",)


async def test_another_codec_and_a_changed_type(redis_url: str, prefix: str, cache: CacheManager) -> None:
    @dataclass
    class User:
        name: str

    async with CacheManager(redis_url, namespace=prefix, serialization="msgpack") as other:
        await other.set("k", {"name": 5})
    found = await cache.explain("k")
    assert found.reasons == ("written as msgpack, and this cache reads json",)
    await cache.set("k", {"name": 5})
    assert (await cache.explain("k")).state == "fresh"
    found = await cache.explain("k", cache.kind(annotation=User))
    assert found.state == "unusable"
    assert found.reasons[0].startswith("undecodable: ")


async def test_a_dictionary_that_is_unknown(cache: CacheManager, client: RedisClient, prefix: str) -> None:
    samples = [json.dumps({"name": f"user {at}", "mail": f"{at}@example.com"}).encode() for at in range(500)]
    dictionary = train(samples, 4096)
    envelope = cache.kind().envelope
    envelope.dictionaries.use(dictionary)
    await cache.set("k", {"name": "user 7", "mail": "7@example.com", "more": "user 8" * 4}, ttl=60)
    found = await cache.explain("k")
    assert (found.state, found.compression, found.dictionary) == ("fresh", "dictionary", dictionary.id)
    assert f"dictionary {dictionary.id}" in str(found)
    async with CacheManager(client=client, namespace=prefix, options=NO_L1) as other:
        found = await other.explain("k")
        assert found.reasons == (f"dictionary {dictionary.id} is unknown: it is not on the server",)
        key = f"aioinfra:cache-meta:{prefix}dict:{dictionary.id}"
        await client.execute("SET", key, dictionary.content, "EX", 60)
        assert (await other.explain("k")).state == "fresh"


async def test_stale_since_and_what_becomes_of_it(cache: CacheManager, client: RedisClient) -> None:
    freshness = Freshness(ttl=0.05, stale_if_error=600)
    await cache.get_or_load("k", value, freshness=freshness)
    kind = cache.kind(freshness=freshness)
    await asyncio.sleep(0.1)  # its ttl, by the server's clock
    found = await cache.explain("k", kind)
    assert found.state == "stale"
    assert found.fresh_for is not None
    assert found.fresh_for < 0
    assert found.server_ttl is not None
    assert 500 < found.server_ttl <= 600
    assert found.reasons[0].startswith("beyond its ttl since ")
    assert found.reasons[0].endswith("(stale_if_error)")
    assert (await cache.explain("k")).reasons[0].endswith("kept for readers that take it stale")


async def test_who_makes_it(redis_url: str, prefix: str, cache: CacheManager) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> int:
        begun.set()
        await gate.wait()
        return 1

    async with CacheManager(redis_url, namespace=prefix, options=NO_L1) as other:
        loading = asyncio.create_task(other.get_or_load("k", slow))
        await begun.wait()
        here, elsewhere = await other.explain("k"), await cache.explain("k")
        assert (here.loading, elsewhere.loading) == ("here", "elsewhere")
        assert (here.layer, elsewhere.layer) == ("absent", "absent")
        assert elsewhere.lease_ttl is not None
        assert 0 < elsewhere.lease_ttl <= 5
        gate.set()
        await loading
        found = await cache.explain("k")
        assert (found.loading, found.lease_ttl) == ("no", None)
        assert found.compute_time is not None
        assert found.compute_time > 0


async def test_a_stored_failure(cache: CacheManager) -> None:
    @cached(cache=cache, errors=(KeyError,))
    async def load(item: int) -> int:
        raise KeyError(item)

    with pytest.raises(KeyError):
        await load(7)
    found = await cache.explain(load.key_for(7))
    assert (found.state, found.failure) == ("fresh", True)
    assert "(a failed load)" in str(found)


async def test_l1_and_what_vouches_for_it(redis_url: str, prefix: str) -> None:
    async with CacheManager(redis_url, namespace=prefix) as cache:
        load = cached(cache=cache)(value)
        await load()
        await cache.barrier()
        await load()
        found = await cache.explain(load.key_for())
        assert (found.layer, found.l1, found.state) == ("l1", "hit", "fresh")
        assert (await cache.explain(load.key_for(), cache.kind(annotation=list[int]))).l1 == "other type"
        assert (await cache.explain("other")).l1 == "absent"


async def test_memory_mode_and_an_outage(own_server: Callable[..., Any], prefix: str) -> None:
    async with CacheManager(options=NO_L1) as cache:
        await cache.set("k", {"a": 1}, ttl=60, tags=["t"])
        found = await cache.explain("k")
        assert (found.layer, found.state, found.codec) == ("memory", "fresh", "json")
        assert found.fresh_for == pytest.approx(60, abs=5)
        await cache.invalidate_tag("t")
        assert (await cache.explain("k")).reasons == ("tag 't' was invalidated",)
    server = own_server()
    async with CacheManager(server.url, namespace=prefix, options=NO_L1) as cache:
        await cache.set("k", 1)
        server.kill()
        found = await cache.explain("k")  # this one finds the server gone
        assert found.layer == "absent"
        assert found.reasons[0].startswith("the server does not answer: ")
        await cache.set("k", 2)
        found = await cache.explain("k")
        assert (found.layer, found.state) == ("memory", "fresh")
        assert found.reasons[0].startswith("the server does not answer: ")


async def test_object_may_be_forbidden(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server(kind="redis")
    async with RedisClient(server.url) as admin:
        rules = ["on", ">pass", "~*", "&*", "+@all", "-object"]
        await admin.execute("ACL", "SETUSER", "app", *rules)
    url = server.url.replace("unix://", "unix://app:pass@")
    async with CacheManager(url, namespace=prefix, options=NO_L1) as cache:
        await cache.set("k", 1)
        found = await cache.explain("k")
        assert (found.state, found.encoding, found.idle) == ("fresh", None, None)
