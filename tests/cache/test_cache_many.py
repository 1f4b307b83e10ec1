"""`cached_many`: one MGET, one load of what is missing, one pipelined write; callers do not disturb others."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from aioinfra.cache.cached_many import CachedMany, cached_many
from aioinfra.cache.decorator import cached
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import EncodeError, InvalidArgument, LifecycleError
from tests.type_checkers import mypy_report

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class User:
    id: int
    name: str
    born: date = date(1815, 12, 10)


class Loader:
    """Records what it was asked for; waits at its gate."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, ids: Collection[Any], locale: str = "en") -> dict[Any, User]:
        self.calls.append(list(ids))
        self.begun.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {item: User(item, f"{locale}{item}") for item in ids if item != 404}


def made(loader: Loader, cache: CacheManager, **options: Any) -> CachedMany[..., int, User]:
    @cached_many(cache=cache, **options)
    async def load_users(ids: Collection[int], locale: str = "en") -> Mapping[int, User]:
        return await loader(ids, locale)

    return load_users


@pytest.fixture
async def cache(redis_url: str, prefix: str) -> AsyncIterator[CacheManager]:
    async with CacheManager(redis_url, namespace=prefix) as opened:
        yield opened


async def commands(client: RedisClient, *names: str) -> dict[str, int]:
    """How often the server has run commands so far."""
    stats = (await client.execute("INFO", "commandstats")).decode()
    found = {name: re.search(rf"cmdstat_{name}:calls=(\d+)", stats) for name in names}
    return {name: int(match[1]) if match else 0 for name, match in found.items()}


async def test_only_what_is_missing_is_loaded_in_order_and_once(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    first = await load([3, 1, 3, 404, 2])
    assert list(first) == [3, 1, 2]
    assert first[3] == User(3, "en3")
    assert list(await load([5, 2, 404, 1])) == [5, 2, 1]
    assert loader.calls == [[3, 1, 404, 2], [5, 404]]
    assert await load([]) == {}
    assert await load(iter([2, 5])) == {2: User(2, "en2"), 5: User(5, "en5")}  # type: ignore[arg-type]  # at run time any iterable will do
    assert len(loader.calls) == 2


async def test_it_costs_one_mget_and_one_pipelined_write(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server()
    async with RedisClient(server.url) as client, CacheManager(server.url, namespace=prefix) as cache:
        load = made(Loader(), cache)
        await load([-1])
        names = ("mget", "get", "set", "evalsha")
        before = await commands(client, *names)
        await load(range(1000, 1500))
        cold = await commands(client, *names)
        await load(range(1000, 1600))
        assert {name: cold[name] - before[name] for name in names} == {
            "mget": 1,
            "get": 0,
            "set": 500,
            "evalsha": 0,
        }
        await cache.barrier()
        await load(range(1000, 1600))  # puts them into L1
        filled = await commands(client, *names)
        await load(range(1000, 1600))
        assert await commands(client, *names) == filled


async def test_other_arguments_belong_to_the_key(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    assert (await load([1], "de"))[1].name == "de1"
    assert (await load([1], locale="en"))[1].name == "en1"
    assert (await load([1]))[1].name == "en1"
    assert loader.calls == [[1], [1]]
    assert load.key_for(1) == load.key_for(1, "en") != load.key_for(1, locale="de")
    assert await cache.exists(load.key_for(1, locale="de"))
    found = await load.explain(1, locale="de")
    assert (found.key, found.state) == (load.key_for(1, locale="de"), "fresh")


async def test_another_process_restores_the_types(redis_url: str, prefix: str) -> None:
    loader = Loader()
    for _ in range(2):
        async with CacheManager(redis_url, namespace=prefix) as cache:
            assert await made(loader, cache)([7, 8]) == {7: User(7, "en7"), 8: User(8, "en8")}
    assert loader.calls == [[7, 8]]


async def test_ids_of_any_canonical_type(cache: CacheManager) -> None:
    @cached_many(cache=cache)
    async def load(ids: list[Any]) -> dict[Any, str]:
        return {item: repr(item) for item in ids}

    ids = ["1", 1, (1, 2), date(2026, 1, 1), 10**30, "x" * 500, "é"]
    expected = {item: repr(item) for item in ids}
    assert await load(ids) == await load(ids) == expected
    assert len({load.key_for(item) for item in ids}) == len(ids)
    refused: list[Any] = ["12", 5, [object()], [[]]]
    for wrong in refused:
        with pytest.raises(InvalidArgument, match="ids"):
            await load(wrong)


async def test_ids_that_are_being_loaded_are_joined(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    loader.gate.clear()
    first = asyncio.create_task(load([1, 2]))
    await loader.begun.wait()
    others = [asyncio.create_task(load([2, 1])) for _ in range(20)]
    loader.begun.clear()
    mixed = asyncio.create_task(load([3, 2]))
    await loader.begun.wait()
    loader.gate.set()
    assert list(await first) == [1, 2]
    assert [list(found) for found in await asyncio.gather(*others)] == [[2, 1]] * 20
    assert list(await mixed) == [3, 2]
    assert loader.calls == [[1, 2], [3]]


async def test_a_hundred_callers_of_overlapping_ids_load_each_once(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    found = await asyncio.gather(*[load(range(at, at + 20)) for at in range(100)])
    assert all(list(each) == list(range(at, at + 20)) for at, each in enumerate(found))
    loaded = [item for call in loader.calls for item in call]
    assert sorted(loaded) == list(range(119))


async def test_a_cancelled_caller_affects_no_other(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    loader.gate.clear()
    first = asyncio.create_task(load([1, 2]))
    await loader.begun.wait()
    second = asyncio.create_task(load([1]))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    loader.gate.set()
    assert list(await second) == [1]
    assert list(await load([2])) == [2]
    assert loader.calls == [[1, 2]]


async def test_an_error_reaches_every_waiter_and_nothing_is_stored(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    loader.gate.clear()
    loader.error = OSError("the database is gone")
    tasks = [asyncio.create_task(load([1, 2]))]
    await loader.begun.wait()
    tasks += [asyncio.create_task(load([item])) for item in (1, 2)]
    await asyncio.sleep(0)
    loader.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 3
    loader.error = None
    assert list(await load([1])) == [1]
    assert loader.calls == [[1, 2], [1]]
    stats = cache.get_stats()
    assert (stats["loads"], stats["load_errors"]) == (2, 1)


@pytest.mark.parametrize("how", ["invalidate", "delete", "set", "tag", "clear", "refresh"])
async def test_what_is_invalidated_meanwhile_is_not_stored(cache: CacheManager, how: str) -> None:
    loader = Loader()
    load = made(loader, cache, tags=["user:{id}", "users"])
    loader.gate.clear()
    loading = asyncio.create_task(load([1, 2]))
    await loader.begun.wait()
    if how == "invalidate":
        await load.invalidate(1)
    elif how == "delete":
        await cache.delete(load.key_for(1))
    elif how == "set":
        await cache.set(load.key_for(1), {"id": 1, "name": "newer"})
    elif how == "tag":
        await cache.invalidate_tag("user:1")
    elif how == "clear":
        await cache.clear(all=True)
    refreshing = asyncio.create_task(load.refresh([1])) if how == "refresh" else None
    await asyncio.sleep(0)
    loader.gate.set()
    assert list(await loading) == [1, 2]  # who waited gets it
    if refreshing is not None:
        assert list(await refreshing) == [1]
    found = await load([1, 2])
    assert found[1].name == ("newer" if how == "set" else "en1")
    reloaded = {
        "set": [[1, 2]],
        "clear": [[1, 2], [1, 2]],
    }.get(how, [[1, 2], [1]])
    assert loader.calls == reloaded


async def test_tags_of_each_id(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache, tags=["user:{id}:{locale}", "users"], namespace="n")
    await load([1, 2, 3])
    await cache.invalidate_tag("user:2:en")
    assert list(await load([1, 2, 3])) == [1, 2, 3]
    assert loader.calls[1:] == [[2]]
    await cache.invalidate_tag("users")
    await load([1, 2, 3])
    await cache.clear(namespace="n")
    await load([1, 2, 3])
    assert loader.calls[2:] == [[1, 2, 3]] * 2


async def test_a_strong_read_is_what_the_server_says_now(own_server: Callable[..., Any], prefix: str) -> None:
    loader = Loader()
    server = own_server()
    options = CacheOptions(redis=RedisStoreOptions(budget=3.0), near=NearOptions(max_staleness=60))
    async with (
        RedisClient(server.url) as client,
        CacheManager(server.url, namespace=prefix, options=options) as cache,
    ):
        load = made(loader, cache)
        async with asyncio.timeout(30):
            while cache.get_stats()["l1_hits"] == 0:
                await load([1])
        before = await commands(client, "mget")
        assert list(await load([1])) == [1]
        assert await commands(client, "mget") == before
        assert list(await load.strong([1, 2])) == [1, 2]
        assert (await commands(client, "mget"))["mget"] > before["mget"]
        assert loader.calls == [[1], [2]]


async def test_tags_and_another_cache_as_for_functions_of_one_value(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache, tags=["user:{id}:{locale}"], namespace="n")
    assert load.tags_for(3, locale="de")[-1] == "user:3:de"
    assert len(load.tags_for(3)) == 2
    assert made(loader, cache).tags_for(3) == ()

    class Shop:
        @cached_many(cache=cache, ignore=("self",), tags=["price:{id}"])
        async def prices(self, ids: list[int]) -> dict[int, str]:
            return {item: f"{item} EUR" for item in ids}

    assert Shop().prices.tags_for(7) == ("price:7",)
    async with CacheManager() as other:
        assert await Shop().prices.on(other)([7]) == {7: "7 EUR"}
        assert await Shop().prices.on(other).strong([7]) == {7: "7 EUR"}
        assert await other.exists(Shop().prices.key_for(7))
        assert not await cache.exists(Shop().prices.key_for(7))
        await load.on(other)([1])
        await load.on(other)([1])
        assert loader.calls == [[1]]
        assert await load.on(other).invalidate(1) == 1


async def test_an_annotation_that_is_not_known_is_named_where_it_matters(cache: CacheManager) -> None:
    @cached_many(cache=cache)
    async def load(ids: list[int]) -> dict[int, Elsewhere]:  # type: ignore[name-defined]  # noqa: F821 - the point
        return {item: User(item, "x") for item in ids}

    with pytest.raises(EncodeError, match="'Elsewhere' is not defined"):
        await load([1])


async def test_invalidate_refresh_and_none(cache: CacheManager) -> None:
    loader = Loader()
    load = made(loader, cache)
    await load([1, 2])
    assert await load.invalidate(1, 2, 3) == 2
    assert await load.invalidate(1, locale="de") == 0
    assert list(await load.refresh([2, 1, 404])) == [2, 1]
    await load([1, 2])
    assert loader.calls == [[1, 2], [2, 1, 404]]

    calls: list[list[int]] = []

    @cached_many(cache=cache, none_ttl=60)
    async def perhaps(ids: list[int]) -> dict[int, str | None]:
        calls.append(ids)
        return dict.fromkeys(ids)

    assert await perhaps([1]) == await perhaps([1]) == {1: None}
    assert calls == [[1]]


async def test_lives_with_jitter_are_those_of_the_server(
    cache: CacheManager, redis_url: str, prefix: str
) -> None:
    load = made(Loader(), cache, ttl=100, jitter=0.5)
    await load(range(50))
    async with RedisClient(redis_url) as client:
        lives = [await client.execute("PTTL", prefix + load.key_for(item)) for item in range(50)]
    assert all(45_000 < life <= 100_000 for life in lives)
    assert len(set(lives)) > 40


async def test_methods_class_methods_and_static_methods(cache: CacheManager) -> None:
    calls: list[Any] = []

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        def cache_key(self) -> str:
            return self.name

        @cached_many(cache=cache)
        async def prices(self, ids: list[int]) -> dict[int, str]:

            calls.append((self.name, ids))
            return {item: f"{self.name}{item}" for item in ids}

        @cached_many(cache=cache)
        @classmethod
        async def names(cls, ids: list[int]) -> dict[int, str]:
            return dict.fromkeys(ids, cls.__name__)

        @cached_many(cache=cache)
        @staticmethod
        async def sizes(ids: list[int]) -> dict[int, int]:
            return {item: item for item in ids}

    ours, theirs = Shop("a"), Shop("b")
    assert await ours.prices([1]) == await ours.prices([1]) == {1: "a1"}
    assert await theirs.prices([1]) == {1: "b1"}
    assert calls == [("a", [1]), ("b", [1])]
    assert ours.prices.key_for(1) != theirs.prices.key_for(1)
    assert (await ours.prices.explain(1)).state == "fresh"
    assert await ours.prices.invalidate(1) == 1
    assert await ours.prices.refresh([1]) == {1: "a1"}
    assert ours.prices.__name__ == "prices"
    anything: Any = Shop
    assert await anything.names([1]) == {1: "Shop"}
    assert await anything.sizes([1]) == await anything("c").sizes([1]) == {1: 1}


async def test_the_cache_of_the_call_wins() -> None:
    async with CacheManager() as one, CacheManager() as other:
        loader = Loader()
        load: Any = made(loader, one)
        await load([1], _cache_manager=other)
        await load([1])
        assert loader.calls == [[1], [1]]
        assert await load.invalidate(1, _cache_manager=other) == 1
        with pytest.raises(InvalidArgument, match="_cache_manager"):
            await load([1], _cache_manager=5)


async def test_a_value_that_cannot_be_stored_is_its_callers_error(cache: CacheManager) -> None:
    @cached_many(cache=cache)
    async def load(ids: list[int]) -> dict[int, Any]:
        return {item: object() if item == 2 else item for item in ids}

    with pytest.raises(EncodeError):
        await load([1, 2])
    assert await load([1]) == {1: 1}
    assert await cache.get(load.key_for(1)) == 1

    @cached_many(cache=cache)
    async def wrong(ids: list[int]) -> Any:
        return ids

    with pytest.raises(InvalidArgument, match="mapping"):
        await wrong([1])


async def test_a_loader_that_waits_for_its_own_ids_is_refused(cache: CacheManager) -> None:
    @cached_many(cache=cache)
    async def load(ids: list[int]) -> dict[int, int]:
        return await load([2]) if 1 in ids else {item: item for item in ids}

    assert await load([2]) == {2: 2}
    assert await load([1]) == {}

    @cached_many(cache=cache)
    async def circle(ids: list[int]) -> dict[int, int]:
        return await through(3)

    @cached(cache=cache)
    async def through(item: int) -> dict[int, int]:
        return await circle([item])

    async with asyncio.timeout(5):
        with pytest.raises(LifecycleError, match="wait"):
            await circle([3, 4])


async def test_closing_ends_what_is_loaded_and_leaves_no_task(redis_url: str, prefix: str) -> None:
    loader = Loader()
    cache = CacheManager(redis_url, namespace=prefix)
    await cache.initialize()
    loader.gate.clear()
    loading = asyncio.create_task(made(loader, cache)([1, 2]))
    await loader.begun.wait()
    await cache.close()
    with pytest.raises(LifecycleError):
        await loading
    assert len(asyncio.all_tasks()) == 1


async def test_memory_answers_while_the_server_is_gone(own_server: Callable[..., Any], prefix: str) -> None:
    server = own_server()
    async with CacheManager(server.url, namespace=prefix) as cache:
        loader = Loader()
        load = made(loader, cache)
        await load([1])
        server.kill()
        assert list(await load([2, 3])) == [2, 3]
        assert list(await load([3, 2])) == [3, 2]
        assert loader.calls == [[1], [2, 3]]


def test_what_cannot_be_decorated() -> None:
    async def without() -> dict[int, int]:
        return {}

    async def named(*, ids: list[int]) -> dict[int, int]:
        return {}

    async def taken(ids: list[int], id: int) -> dict[int, int]:  # noqa: A002 - the point of the test
        return {}

    refused: list[Any] = [without, named, taken, lambda ids: {}]
    for function in refused:
        with pytest.raises(InvalidArgument, match="function"):
            cached_many(function)
    wrong: list[dict[str, Any]] = [{"ignore": ("ids",)}, {"tags": ["{other}"]}, {"ttl": -1}, {"errors": ()}]
    for options in wrong:
        with pytest.raises(InvalidArgument, match=next(iter(options))):

            @cached_many(**options)
            async def load(ids: list[int]) -> dict[int, int]:
                return {}


SNIPPET = """
from collections.abc import Collection, Mapping, Sequence

from typing_extensions import assert_type

from aioinfra.cache.cached_many import cached_many


@cached_many
async def plain(ids: Collection[int]) -> Mapping[int, str]:
    return {}


@cached_many(ttl=60, tags=["user:{id}"])
async def localized(ids: Sequence[str], locale: str, *, deep: bool = False) -> dict[str, bytes]:
    return {}


class Shop:
    @cached_many(ttl=5)
    async def prices(self, ids: list[int], *, gross: bool = True) -> dict[int, float]:
        return {}


async def use(shop: Shop) -> None:
    assert_type(await plain([1]), dict[int, str])
    assert_type(await plain({1, 2}), dict[int, str])
    assert_type(await localized(["a"], "en", deep=True), dict[str, bytes])
    assert_type(await shop.prices([1], gross=False), dict[int, float])
    assert_type(await shop.prices.refresh([1]), dict[int, float])
    assert_type(await plain.invalidate(1, 2), int)
    assert_type(plain.key_for(1), str)
    await plain(["1"])  # error: list-item
    await plain()  # error: call-arg
    await localized(["a"])  # error: call-arg
    await localized(["a"], 5)  # error: arg-type
    await shop.prices([1], gross="x")  # error: arg-type
    await shop.prices(["a"])  # error: list-item
    await plain.invalidate("x")  # error: arg-type


@cached_many(ttl=60)  # error: arg-type
async def wrong(ids: int) -> dict[int, str]:
    return {}
"""


def wrong_lines() -> dict[int, str]:
    lines = enumerate(SNIPPET.splitlines(), 1)
    return {number: line.split("# error: ")[1] for number, line in lines if "# error: " in line}


def test_mypy_checks_the_calls(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET, encoding="utf-8")
    report = mypy_report(snippet)
    found = re.findall(r"snippet\.py:(\d+): error: .*\[([a-z-]+)\]$", report, re.MULTILINE)
    assert {int(line): code for line, code in found} == wrong_lines(), report


def test_pyright_checks_the_calls(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="pyright, with the node that it needs, as a wheel")
    snippet, config = tmp_path / "snippet.py", tmp_path / "pyrightconfig.json"
    snippet.write_text(SNIPPET, encoding="utf-8")
    settings = {"include": [str(snippet)], "typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}
    config.write_text(json.dumps(settings), encoding="utf-8")
    command = ["-m", "basedpyright", "-p", str(config), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=100, check=False
    )
    report = json.loads(done.stdout)["generalDiagnostics"]
    lines = {entry["range"]["start"]["line"] + 1 for entry in report if entry["severity"] == "error"}
    assert lines == wrong_lines().keys(), done.stdout
