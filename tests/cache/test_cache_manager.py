"""CacheManager: one behaviour in every mode, and what it says to bad input and bad bytes."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from aioinfra.cache.glob import escape
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.store import MISS, NO_EXPIRY
from aioinfra.codec.envelope import EnvelopeOptions
from aioinfra.codec.layout import Stamp, read_header
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import AioinfraError, EncodeError, InvalidArgument, LifecycleError, StoreUnavailable

SECRET = "a signing key of the tests"
NOWHERE = "unix:///nowhere/at/all?db=0"

SERVERS = ("redis", "valkey", "sentinel", "cluster")
MODES = ("memory", *SERVERS, "outage")


@pytest.fixture(params=MODES)
async def cache(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[CacheManager]:
    url = NOWHERE if request.param == "outage" else None
    if request.param in SERVERS:
        url = request.getfixturevalue(f"session_{request.param}").url
    async with CacheManager(url, namespace=prefix) as made:
        yield made


@pytest.fixture
async def on_server(valkey_url: str, prefix: str) -> AsyncIterator[CacheManager]:
    async with CacheManager(valkey_url, namespace=prefix) as made:
        yield made


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[RedisClient]:
    async with RedisClient(valkey_url) as made:
        yield made


async def test_every_method(cache: CacheManager) -> None:
    assert await cache.get("a") is None
    assert await cache.set("a", {"x": [1, None, "é"]}) is True
    assert await cache.get("a") == {"x": [1, None, "é"]}
    assert await cache.exists("a") is True
    assert await cache.exists("b") is False
    assert await cache.mset({"b": 1, "c": None}, ttl=600) is True
    assert await cache.mget(["c", "absent", "b", "c"]) == {"c": None, "b": 1}
    assert await cache.mget([]) == {}
    assert await cache.delete("a", "absent") == 1
    assert await cache.delete() == 0
    assert await cache.clear("b*") == 1
    assert await cache.set("keep", 1, ttl=NO_EXPIRY)
    assert await cache.clear(all=True) == 2
    health = await cache.health_check()
    assert health.status == ("degraded" if cache.get_stats()["outages"] else "healthy")
    assert health.as_dict()["status"] == health.status
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["sets"], stats["deletes"]) == (3, 2, 4, 4)
    assert stats["hit_rate"] == 3 / 5


async def test_none_is_a_value_and_miss_is_not(cache: CacheManager) -> None:
    calls = 0

    async def load() -> None:
        nonlocal calls
        calls += 1

    for _ in range(3):
        assert await cache.get_or_load("none", load) is None
    assert calls == 1
    assert await cache.get("none", MISS) is None
    assert await cache.get("absent", MISS) is MISS
    assert await cache.get("absent", 5) == 5
    assert await cache.mget(["none", "absent"]) == {"none": None}
    assert await cache.exists("none")


async def test_what_is_kept_is_not_the_object_that_was_written(cache: CacheManager) -> None:
    value = {"list": [1]}
    await cache.set("a", value)
    value["list"].append(2)
    assert await cache.get("a") == {"list": [1]}


@pytest.mark.parametrize("place", ["memory", "server"])
async def test_with_copy_on_read_every_reader_has_an_object_of_its_own(
    place: str, valkey_url: str, prefix: str
) -> None:
    options = CacheOptions(near=NearOptions(copy_on_read=True))
    url = valkey_url if place == "server" else None
    async with CacheManager(url, namespace=prefix, options=options) as cache:
        await cache.set("a", {"list": [1]})
        for _ in range(3):
            (await cache.get("a"))["list"].append(3)
            (await cache.mget(["a"]))["a"]["list"].append(4)
        assert await cache.get("a") == {"list": [1]}
        assert cache.get_stats()["l1_hits"] > 0


async def test_a_value_ends_with_its_ttl(cache: CacheManager) -> None:
    await cache.set("short", 1, ttl=0.03)
    await cache.mset({"short too": 1, "and": 2}, ttl=0.03)
    await cache.set("long", 1, ttl=2**53)
    async with asyncio.timeout(5):
        while await cache.mget(["short", "short too", "and"]):  # noqa: ASYNC110 - a server's expiry tells nobody
            await asyncio.sleep(0.005)
    assert await cache.get("long") == 1


async def test_ttls_reach_the_server(on_server: CacheManager, client: RedisClient, prefix: str) -> None:
    await on_server.set("default", 1)
    await on_server.set("given", 1, ttl=10.5)
    await on_server.mset({"many": 1}, ttl=20)
    await on_server.set("forever", 1, ttl=NO_EXPIRY)
    left = [await client.execute("PTTL", prefix + key) for key in ("default", "given", "many", "forever")]
    assert 290_000 < left[0] <= 300_000
    assert 10_000 < left[1] <= 10_500
    assert 19_000 < left[2] <= 20_000
    assert left[3] == -1
    sealed = read_header(await client.execute("GET", prefix + "given"))
    assert sealed.expires - sealed.created == pytest.approx(10.5)


Call = Callable[[CacheManager], Awaitable[Any]]


async def nothing() -> None: ...


def a_pair(ttl: Any) -> list[Call]:
    return [
        lambda cache: cache.set("a", 1, ttl=ttl),
        lambda cache: cache.mset({"a": 1}, ttl=ttl),
        lambda cache: cache.get_or_load("a", nothing, ttl=ttl),
        lambda cache: cache.warm_cache({"a": 1}, ttl=ttl),
    ]


@pytest.mark.parametrize(
    "ttl", [0, -1, -0.5, math.nan, math.inf, -math.inf, 2**63, 2**53 + 2, True, False, "5", b"5"]
)
async def test_a_ttl_that_is_none_is_refused_before_any_io(ttl: Any) -> None:
    closed = CacheManager()  # any I/O would raise LifecycleError instead
    for call in a_pair(ttl):
        with pytest.raises(InvalidArgument, match=r"^ttl: ") as caught:
            await call(closed)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidArgument, match=r"^default_ttl: "):
        CacheManager(default_ttl=ttl)


@pytest.mark.parametrize("key", ["", None, 7, b"x", "\udc80", "x" * 8193], ids=lambda key: str(type(key)))
async def test_a_key_that_is_none_is_refused_before_any_io(key: Any) -> None:
    closed = CacheManager()
    calls: list[Call] = [
        lambda cache: cache.get(key),
        lambda cache: cache.set(key, 1),
        lambda cache: cache.delete("a", key),
        lambda cache: cache.exists(key),
        lambda cache: cache.mget(["a", key]),
        lambda cache: cache.mset({"a": 1, key: 1}),
        lambda cache: cache.get_or_load(key, nothing),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument, match=r"^key: "):
            await call(closed)


@pytest.mark.parametrize(
    "value", [math.nan, {1, 2}, object(), "\udc80", 1 + 2j], ids=lambda value: type(value).__name__
)
async def test_a_value_that_json_cannot_give_back_is_refused_before_any_io(value: Any) -> None:
    closed = CacheManager()
    with pytest.raises(EncodeError, match=r"^value: "):
        await closed.set("a", value)
    with pytest.raises(EncodeError, match=r"^value: "):
        await closed.mset({"good": 1, "bad": value})


async def test_a_huge_value_is_refused_before_any_io() -> None:
    closed = CacheManager()
    with pytest.raises(EncodeError, match="the bound is"):
        await closed.set("a", b"x" * ((64 << 20) + 1))


@pytest.mark.parametrize(
    "pattern",
    [None, "", "*", "**", 5, b"a*", "\udc80*", "?*", "*??", "[^]*", "[^x]*", "*[^x-z\\]]", "*[^x"],
)
async def test_a_clear_of_everything_must_be_said(pattern: Any) -> None:
    closed = CacheManager()
    with pytest.raises(InvalidArgument, match=r"^pattern: "):
        await closed.clear(pattern)


@pytest.mark.parametrize("pattern", ["\\*", "a*", "[ab]*", "*:?", "\\[^a]*"])
async def test_a_pattern_that_names_something_is_taken(pattern: str) -> None:
    async with CacheManager() as cache:
        await cache.set("other", 1)
        assert await cache.clear(pattern) == 0
        assert await cache.clear("?*", all=True) == 1


async def test_what_is_no_collection_of_keys_is_refused_by_name(cache: CacheManager) -> None:
    for keys in (None, 5, "abc", b"abc", object()):
        with pytest.raises(InvalidArgument, match=r"^keys: "):
            await cache.mget(keys)  # type: ignore[arg-type]  # the point of the test
    for values in (None, 5, "abc", [("a", 1)], object()):
        with pytest.raises(InvalidArgument, match=r"^values: "):
            await cache.mset(values)  # type: ignore[arg-type]  # the point of the test


async def test_a_loader_that_is_no_async_function_is_refused_by_name(cache: CacheManager) -> None:
    for load in (None, 5, lambda: 5):
        with pytest.raises(InvalidArgument, match=r"^load: "):
            await cache.get_or_load("k", load)  # type: ignore[arg-type]  # the point of the test
    assert not await cache.exists("k")


async def test_a_clear_stays_within_the_namespace(redis_url: str, prefix: str) -> None:
    async with (
        CacheManager(redis_url, namespace=prefix + "[a]*:") as mine,
        CacheManager(redis_url, namespace=prefix + "a:") as other,
        RedisClient(redis_url) as client,
    ):
        await client.execute("SET", prefix + "job", "not ours", "PX", 60_000)
        await mine.mset({f"user:{number}": number for number in range(2500)})
        await mine.mset({"user:*": 1, "x": 1})
        await other.set("user:1", 1)
        assert await mine.clear(escape("user:*")) == 1
        assert await mine.clear("user:?") == 10
        assert await mine.clear(all=True) == 2491
        assert await other.get("user:1") == 1
        assert await client.execute("EXISTS", prefix + "job") == 1


async def test_clear_never_sends_keys(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        await cache.mset({str(number): number for number in range(100)})
        assert await cache.clear("*1*") > 10
        async with RedisClient(server.url) as client:
            commands = (await client.execute("INFO", "commandstats")).decode()
            assert "cmdstat_scan" in commands
            for forbidden in ("cmdstat_keys", "cmdstat_flushall", "cmdstat_flushdb", "cmdstat_del:"):
                assert forbidden not in commands


def sealed_by(version: int, payload: bytes) -> bytes:
    data = CacheManagerBytes.good()
    return bytes([data[0], version]) + data[2:-2] + payload


class CacheManagerBytes:
    """Stored forms to damage."""

    @staticmethod
    def good(value: Any = 17) -> bytes:
        from aioinfra.codec.envelope import Envelope
        from aioinfra.codec.json import JsonCodec

        return Envelope(JsonCodec()).seal(value, Stamp(1.0))


def bomb() -> bytes:
    frame = zstandard.ZstdCompressor(level=3).compress(bytes(256 << 20))
    head = bytearray(CacheManagerBytes.good()[:40])
    head[3] = 1
    head[36:40] = len(frame).to_bytes(4, "little")
    return bytes(head) + frame


LARGE = CacheManagerBytes.good("x" * 5000)

BAD_BYTES = {
    "empty": b"",
    "junk": os.urandom(100),
    "text": b'{"a": 1}',
    "zlib": zlib.compress(b"x" * 100),
    "pickle": pickle.dumps({"a": 1}),
    "truncated": CacheManagerBytes.good()[:-1],
    "truncated frame": LARGE[:-5],
    "two values": CacheManagerBytes.good() * 2,
    "another version": sealed_by(1, b"17"),
    "bomb": bomb(),
}


@pytest.mark.parametrize("name", BAD_BYTES)
async def test_stored_bytes_that_cannot_be_read_are_a_counted_miss(
    name: str, on_server: CacheManager, client: RedisClient, prefix: str
) -> None:
    async def load() -> str:
        return "loaded"

    data = bytearray(BAD_BYTES[name])
    data[8:16] = (
        await client.execute("GET", f"aioinfra:cache-meta:{prefix}generation")
        if len(data) > 40
        else data[8:16]
    )
    await client.execute("SET", prefix + "a", bytes(data), "PX", 60_000)
    await on_server.set("good", 1)
    assert await on_server.get("a", "miss") == "miss"
    assert await on_server.mget(["a", "good"]) == {"good": 1}
    assert on_server.get_stats()["undecodable"] == 2
    assert await on_server.get_or_load("a", load) == "loaded"
    assert await on_server.get("a") == "loaded"


async def test_a_key_of_another_type_is_a_counted_miss(
    on_server: CacheManager, client: RedisClient, prefix: str
) -> None:
    await client.execute("LPUSH", prefix + "a", "x")
    assert await on_server.get("a", "miss") == "miss"
    assert await on_server.mget(["a"]) == {}
    assert await on_server.exists("a")
    assert on_server.get_stats()["wrong_type"] == 1

    async def load() -> int:
        return 1

    assert await on_server.get_or_load("a", load) == 1
    assert await on_server.get("a") == 1
    await client.execute("DEL", prefix + "a")
    await client.execute("LPUSH", prefix + "a", "x")
    assert await on_server.delete("a") == 1


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


async def test_a_pickle_that_we_did_not_sign_is_a_miss_and_never_unpickled(
    valkey_url: str, client: RedisClient, prefix: str, tmp_path: Path
) -> None:
    async with (
        CacheManager(valkey_url, serialization="pickle", signing_key=SECRET, namespace=prefix) as cache,
        CacheManager(
            valkey_url, serialization="pickle", signing_key=SECRET + "!", namespace=prefix
        ) as foreign,
    ):
        await foreign.set("a", Canary(tmp_path / "sang"))
        assert await cache.get("a", "miss") == "miss"
        unsigned = bytearray(await client.execute("GET", prefix + "a"))
        body = pickle.dumps(Canary(tmp_path / "sang"))
        unsigned[28:32] = len(body).to_bytes(4, "little")
        await client.execute("SET", prefix + "a", bytes(unsigned[:32]) + body)
        assert await cache.get("a", "miss") == "miss"
        assert cache.get_stats()["undecodable"] == 2
        assert not (tmp_path / "sang").exists()
        await cache.set("a", {1, 2}, ttl=60)
        assert await cache.get("a") == {1, 2}


async def test_pickle_needs_a_key_on_a_server_and_none_in_memory() -> None:
    with pytest.raises(InvalidArgument, match=r"^signing_key: "):
        CacheManager(NOWHERE, serialization="pickle")
    async with CacheManager(serialization="pickle") as cache:
        await cache.set("a", {1, (2, 3)})
        assert await cache.get("a") == {1, (2, 3)}


async def test_msgpack(valkey_url: str, prefix: str) -> None:
    async with CacheManager(valkey_url, serialization="msgpack", namespace=prefix) as cache:
        await cache.set("a", {1: b"bytes"}, ttl=60)
        assert await cache.get("a") == {1: b"bytes"}


async def test_large_values_are_compressed(on_server: CacheManager, client: RedisClient, prefix: str) -> None:
    rows = [{"id": number, "name": "a name that repeats"} for number in range(1000)]
    await on_server.set("a", rows)
    assert await on_server.get("a") == rows
    stored = await client.execute("STRLEN", prefix + "a")
    plain = len(msgspec.json.encode(rows))
    assert stored < plain / 5
    stats = on_server.get_stats()
    assert (stats["compressed_from"], stats["compressed_to"]) == (plain, stored - 40)
    off = CacheManager(enable_compression=False)
    async with off:
        await off.set("a", rows)
        assert off.get_stats()["memory_bytes"] > plain


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"serialization": "yaml"}, "serialization"),
        ({"memory_cache_size": -1}, "memory_cache_size"),
        ({"memory_cache_size": True}, "memory_cache_size"),
        ({"memory_cache_ttl": 0}, "memory_cache_ttl"),
        ({"max_connections": 0}, "max_connections"),
        ({"namespace": ""}, "namespace"),
        ({"redis_url": "http://localhost"}, "redis_url"),
        ({"redis_url": NOWHERE, "client": RedisClient(NOWHERE)}, "client"),
        ({"serialization": "pickle", "signing_key": "short"}, "signing_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_senseless_arguments_are_refused_by_name(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        CacheManager(**arguments)
    assert caught.value.argument == name


async def test_its_life(valkey_url: str, prefix: str) -> None:
    cache = CacheManager(valkey_url, namespace=prefix)
    for call in (
        lambda: cache.get("a"),
        lambda: cache.set("a", 1),
        lambda: cache.clear("a"),
        cache.health_check,
    ):
        with pytest.raises(LifecycleError):
            await call()
    await asyncio.gather(cache.initialize(), cache.initialize())
    await cache.set("a", 1)
    await cache.close()
    await cache.close()
    with pytest.raises(LifecycleError):
        await cache.get("a")
    async with cache:
        assert await cache.get("a") == 1
    assert len(asyncio.all_tasks()) == 1


async def test_closing_ends_the_loads_under_way(cache: CacheManager) -> None:
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(cache.get_or_load("a", hang))
    await started.wait()
    await cache.close()
    with pytest.raises(LifecycleError):
        await waiting
    assert len(asyncio.all_tasks()) == 1


async def test_a_shared_client_stays_open(valkey_url: str, prefix: str) -> None:
    async with RedisClient(valkey_url) as client:
        async with CacheManager(client=client, namespace=prefix) as cache:
            await cache.set("a", 1, ttl=60)
        assert await client.execute("EXISTS", prefix + "a") == 1


async def test_no_secret_in_any_text(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server("--requirepass", "correct-horse", tcp=True)
    url = server.url.replace("redis://", "redis://:correct-horse@")
    cache = CacheManager(url, namespace=prefix, signing_key="battery-staple-16")
    async with cache:
        await cache.set("a", 1)
        texts = [repr(cache), str(await cache.health_check()), str(cache.get_stats()), repr(vars(cache))]
    denied = CacheManager(url.replace("correct", "wrong"), namespace=prefix)
    with pytest.raises(AioinfraError) as caught:
        await denied.initialize()
    texts += [str(caught.value), repr(caught.value), repr(denied)]
    for secret in ("correct-horse", "battery-staple", "wrong-horse"):
        assert not [text for text in texts if secret in text]


class Watcher:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, str]] = []
        self.counts: list[tuple[str, int, int]] = []

    def operation(self, operation: str, outcome: str, seconds: float) -> None:
        assert 0 <= seconds < 5
        self.operations.append((operation, outcome))

    def keys(self, operation: str, hits: int, misses: int) -> None:
        self.counts.append((operation, hits, misses))


async def test_the_observer_is_told_of_every_operation(valkey_url: str, prefix: str) -> None:
    watcher = Watcher()

    async def load() -> int:
        return 1

    async with CacheManager(valkey_url, namespace=prefix, observer=watcher) as cache:
        await cache.set("a", 1)
        await cache.get("a")
        await cache.get("b")
        await cache.mset({"c": 1})
        await cache.mget(["a", "b", "c"])
        await cache.exists("a")
        await cache.get_or_load("d", load)
        await cache.delete("a")
        await cache.clear("c")
    assert watcher.operations == [
        ("set", "ok"),
        ("get", "hit"),
        ("get", "miss"),
        ("mset", "ok"),
        ("mget", "ok"),
        ("exists", "ok"),
        ("get", "miss"),
        ("load", "ok"),
        ("delete", "ok"),
        ("clear", "ok"),
    ]
    assert watcher.counts == [("get", 1, 0), ("get", 0, 1), ("mget", 2, 1), ("get", 0, 1)]


async def test_without_a_fallback_an_outage_is_raised(prefix: str) -> None:
    watcher = Watcher()
    options = CacheOptions(fallback=False, envelope=EnvelopeOptions())
    cache = CacheManager(NOWHERE, namespace=prefix, options=options, observer=watcher)
    with pytest.raises(StoreUnavailable):
        await cache.initialize()
    with pytest.raises(LifecycleError):
        await cache.get("a")


def test_the_marks_show_their_names() -> None:
    assert (f"{MISS}", repr(MISS), f"{NO_EXPIRY}", repr(NO_EXPIRY)) == (
        "MISS",
        "MISS",
        "NO_EXPIRY",
        "NO_EXPIRY",
    )
