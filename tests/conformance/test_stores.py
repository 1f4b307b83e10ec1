"""One suite for every Store: what the seam promises holds whichever is behind it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aioinfra.cache.fallback import FallbackStore
from aioinfra.cache.glob import escape
from aioinfra.cache.local import LocalCache
from aioinfra.cache.memory_store import MemoryStore
from aioinfra.cache.redis_store import RedisStore
from aioinfra.cache.store import Store
from aioinfra.connection.pool import RedisClient

KINDS = ("memory", "redis", "valkey", "fallback healthy", "fallback active")


def memory() -> MemoryStore:
    return MemoryStore(LocalCache(100_000, 64 << 20))


@asynccontextmanager
async def on_server(url: str, prefix: str, *, fallback: bool) -> AsyncIterator[Store]:
    async with RedisClient(url) as client:
        store: Store = RedisStore(client)
        if fallback:
            store = FallbackStore(store, memory(), escape(prefix) + "*")
        yield store
        await store.aclose()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Store]:
    kind: str = request.param
    if kind == "memory":
        yield memory()
        return
    url = "unix:///nowhere/at/all?db=0"
    if kind != "fallback active":
        url = request.getfixturevalue("session_redis" if kind == "redis" else "session_valkey").url
    async with on_server(url, prefix, fallback=kind.startswith("fallback")) as made:
        yield made
        if isinstance(made, FallbackStore):
            assert (made.outage is not None) == (kind == "fallback active")


async def test_what_is_set_is_got_until_it_is_deleted(store: Store, prefix: str) -> None:
    key = prefix + "a"
    assert await store.get(key) is None
    assert not await store.exists(key)
    await store.set(key, b"first", 60)
    await store.set(key, b"second", None)
    assert await store.get(key) == b"second"
    assert await store.exists(key)
    assert await store.delete([key, prefix + "absent"]) == 1
    assert await store.get(key) is None
    assert await store.delete([key]) == 0
    assert await store.delete([]) == 0


@pytest.mark.parametrize("value", [b"", b"\0\r\n\xff", b"x" * (2 << 20)], ids=["empty", "binary", "2 MiB"])
async def test_every_byte_comes_back(store: Store, prefix: str, value: bytes) -> None:
    await store.set(prefix, value, 60)
    assert await store.get(prefix) == value
    assert list(await store.get_many([prefix])) == [value]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0", "ключ", "*?[a-z]", " ", "x" * 8000])
async def test_every_character_is_data_in_a_key(store: Store, prefix: str, end: str) -> None:
    other = prefix + "other"
    await store.set_many([(prefix + end, b"1"), (other, b"2")], 60)
    assert await store.get(prefix + end) == b"1"
    assert await store.clear(escape(prefix + end)) == 1
    assert await store.get(other) == b"2"


async def test_a_value_ends_with_its_ttl(store: Store, prefix: str) -> None:
    await store.set(prefix + "short", b"x", 0.03)
    await store.set_many([(prefix + "short too", b"x")], 0.03)
    await store.set(prefix + "renewed", b"x", 0.03)
    await store.set(prefix + "renewed", b"y", 60)
    await store.set(prefix + "tiny", b"x", 0.000001)
    async with asyncio.timeout(5):
        while await store.exists(prefix + "short") or await store.exists(prefix + "short too"):  # noqa: ASYNC110 - a server's expiry tells nobody
            await asyncio.sleep(0.005)
    assert list(await store.get_many([prefix + "short", prefix + "renewed"])) == [None, b"y"]
    assert await store.get(prefix + "tiny") is None


async def test_many_keys_keep_their_order(store: Store, prefix: str) -> None:
    items = [(f"{prefix}{number}", b"%d" % number) for number in range(2500)]
    await store.set_many(items, 60)
    keys = [key for key, _ in items]
    shuffled = [*keys, prefix + "absent", keys[0]]
    random.Random(1).shuffle(shuffled)
    expected = dict(items)
    assert list(await store.get_many(shuffled)) == [expected.get(key) for key in shuffled]
    assert list(await store.get_many([])) == []
    assert await store.delete(keys[:1500]) == 1500
    assert await store.clear(escape(prefix) + "*") == 1000


async def test_a_clear_removes_what_matches_and_nothing_else(store: Store, prefix: str) -> None:
    names = ["user:1", "user:2", "user:*", "usher:1", "users"]
    await store.set_many([(prefix + name, b"x") for name in names], 60)
    start = escape(prefix)
    assert await store.clear(start + "user:[12]") == 2
    assert await store.clear(start + escape("user:*")) == 1
    assert await store.clear(start + "us?r:*") == 0
    assert await store.clear(start + "us??r:*") == 1
    assert list(await store.get_many([prefix + name for name in names])) == [None, None, None, None, b"x"]


async def test_concurrent_calls_each_get_their_own_answer(store: Store, prefix: str) -> None:
    async def one(number: int) -> None:
        key, value = f"{prefix}{number}", b"%d" % number
        await store.set(key, value, 60)
        assert await store.get(key) == value
        assert list(await store.get_many([key, prefix + "absent"])) == [value, None]
        assert await store.delete([key]) == 1
        assert await store.get(key) is None

    await asyncio.gather(*(one(number) for number in range(300)))


async def test_many_readers_of_one_key(store: Store, prefix: str) -> None:
    await store.set(prefix, b"hot", 60)
    assert await asyncio.gather(*(store.get(prefix) for _ in range(500))) == [b"hot"] * 500


async def test_a_cancelled_call_harms_no_other(store: Store, prefix: str) -> None:
    await store.set_many([(f"{prefix}{number}", b"%d" % number) for number in range(100)], 60)

    async def read(number: int) -> bytes | None:
        return await store.get(f"{prefix}{number}")

    tasks = [asyncio.create_task(read(number)) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number % 3:
            assert answer == b"%d" % number
        else:
            assert isinstance(answer, asyncio.CancelledError) or answer == b"%d" % number
    assert await store.get(f"{prefix}0") == b"0"


async def test_an_abandoned_write_never_lands_after_a_later_one(store: Store, prefix: str) -> None:
    for number in range(50):
        early = asyncio.ensure_future(store.set(prefix, b"early", 60))
        await asyncio.sleep(0)
        early.cancel()
        await store.set(prefix, b"%d" % number, 60)
        assert await store.get(prefix) == b"%d" % number
        early = asyncio.ensure_future(store.set(prefix, b"early", 60))
        await asyncio.sleep(0)
        early.cancel()
        await store.delete([prefix])
        assert await store.get(prefix) is None


async def test_random_calls_agree_with_a_dict(store: Store, prefix: str) -> None:
    rng = random.Random(7)
    model: dict[str, bytes] = {}
    keys = [f"{prefix}{letter}{number}" for letter in "ab" for number in range(6)]
    for step in range(400):
        some = rng.sample(keys, rng.randint(1, 4))
        verb = rng.choice(["get", "many", "set", "mset", "delete", "exists", "clear"])
        if verb == "get":
            assert await store.get(some[0]) == model.get(some[0])
        elif verb == "many":
            assert list(await store.get_many(some)) == [model.get(key) for key in some]
        elif verb == "set":
            model[some[0]] = b"%d" % step
            await store.set(some[0], model[some[0]], rng.choice([None, 60.0]))
        elif verb == "mset":
            new = dict.fromkeys(some, b"m%d" % step)
            model |= new
            await store.set_many(list(new.items()), 60)
        elif verb == "delete":
            assert await store.delete(some) == sum(key in model for key in some)
            model = {key: value for key, value in model.items() if key not in some}
        elif verb == "exists":
            assert await store.exists(some[0]) == (some[0] in model)
        elif rng.random() < 0.3:
            gone = [key for key in model if key.startswith(prefix + "a")]
            assert await store.clear(escape(prefix) + "a*") == len(gone)
            model = {key: value for key, value in model.items() if key not in gone}
