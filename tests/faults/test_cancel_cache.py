"""The cache's callers are cancelled at every await: nothing stays behind, and the next call is right."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from aioinfra.cache.cached_many import cached_many
from aioinfra.cache.flight import Flight
from aioinfra.cache.freshness import Freshness
from aioinfra.cache.loading import Wanted
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.options import CacheOptions, NearOptions
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.connection.pool import RedisClient
from aioinfra.testing import CancelledRun, cancel_at_each_suspension
from tests.jobs.kit import until

pytestmark = pytest.mark.timeout(120)

GONE = "gone"
LEASE = 30.0  # seconds; far longer than anybody here waits, so a lease that is left behind is missed
PROMPT = 10.0  # seconds that a call after a cancellation may take on a busy machine; a third of the lease
_PATIENT = RedisStoreOptions(budget=5.0)  # these tests are not about outages


@dataclass
class Fleet:
    """The cache whose callers are cancelled, and one of another process, as it were."""

    cache: CacheManager
    other: CacheManager
    tasks: int = 0

    @property
    def client(self) -> RedisClient:
        backend = self.cache._backend
        assert backend is not None
        assert backend.client is not None
        return backend.client

    def settle(self) -> None:
        """Remember what runs while nobody calls."""
        self.tasks = len(asyncio.all_tasks())

    def left(self) -> list[str]:
        """What a call that has ended may not leave behind."""
        reads, backend = self.cache._reads, self.cache._backend
        assert backend is not None
        found = {
            "connections in use": self.client.figures().in_use,
            "loads": reads.flights._tasks,
            "registered loads": reads.flights._by_key,
            "loads with tags": reads._tagged,
            "fills of L1": reads.near._fills if reads.near is not None else (),
            "waiters": backend.wakes.waiters,
            "tasks": max(0, len(asyncio.all_tasks()) - self.tasks),
        }
        return [f"{name}: {what}" for name, what in found.items() if what]

    async def clean(self) -> None:
        """Nothing is left, once what was under way has ended; every connection answers what it is asked."""
        try:
            await until(lambda: not self.left())
        except TimeoutError:
            raise AssertionError(self.left()) from None
        texts = [f"check {number}" for number in range(6)]
        answers = await asyncio.gather(*[self.client.execute("ECHO", text) for text in texts])
        assert answers == [text.encode() for text in texts]


@pytest.fixture(params=[True, False], ids=["L1", "no L1"])
async def fleet(redis_url: str, prefix: str, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    near = NearOptions(enabled=request.param)
    options = CacheOptions(redis=_PATIENT, near=near, lease=LEASE)
    async with (
        CacheManager(redis_url, max_connections=2, namespace=prefix, options=options) as cache,
        CacheManager(redis_url, namespace=prefix, options=options) as other,
    ):
        made = Fleet(cache, other)
        await cache.set("warm", 1)  # connections and scripts
        await other.set("warm", 1)
        await until(lambda: made.client.figures().in_use == 0)
        made.settle()
        yield made


async def prompt(call: Awaitable[Any]) -> Any:
    """The answer of a call that nobody keeps waiting."""
    async with asyncio.timeout(PROMPT):
        return await call


Call = Callable[[CacheManager, str], Coroutine[Any, Any, Any]]


async def load_new() -> str:
    await asyncio.sleep(0)
    return "loaded"


CALLS: dict[str, tuple[Call, frozenset[Any]]] = {
    # what is cancelled, and what may stand under the key then; before it is "old" with a tag
    "get": (lambda cache, key: cache.get(key), frozenset({"old"})),
    "strong get": (lambda cache, key: cache.get(key, consistency="strong"), frozenset({"old"})),
    "mget": (lambda cache, key: cache.mget([key, "absent"]), frozenset({"old"})),
    "strong mget": (lambda cache, key: cache.mget([key, "x"], consistency="strong"), frozenset({"old"})),
    "set": (lambda cache, key: cache.set(key, "new"), frozenset({"old", "new"})),
    "set with a tag": (
        lambda cache, key: cache.set(key, "new", tags=[f"new of {key}"]),
        frozenset({"old", "new"}),
    ),
    "mset": (lambda cache, key: cache.mset({key: "new", f"{key} beside": "new"}), frozenset({"old", "new"})),
    "delete": (lambda cache, key: cache.delete(key), frozenset({"old", GONE})),
    "tag": (lambda cache, key: cache.invalidate_tag(f"of {key}"), frozenset({"old", GONE})),
    "clear": (lambda cache, key: cache.clear(f"{key}*"), frozenset({"old", GONE})),
    "everything": (lambda cache, _: cache.invalidate_all(), frozenset({"old", GONE})),
    "barrier": (lambda cache, _: cache.barrier(5.0), frozenset({"old"})),
    "load what is there": (lambda cache, key: cache.get_or_load(key, load_new), frozenset({"old"})),
    "strong load": (
        lambda cache, key: cache.get_or_load(key, load_new, consistency="strong"),
        frozenset({"old"}),
    ),
    "expire": (lambda cache, key: cache.expire(key, 600), frozenset({"old"})),
    "touch": (lambda cache, key: cache.touch(key), frozenset({"old"})),
    "ttl": (lambda cache, key: cache.ttl(key), frozenset({"old"})),
    "add": (lambda cache, key: cache.add(key, "new"), frozenset({"old"})),
    "get or set": (lambda cache, key: cache.get_or_set(key, "new"), frozenset({"old"})),
    "explain": (lambda cache, key: cache.explain(key), frozenset({"old"})),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_cancelled_call_leaves_nothing_and_both_processes_agree(fleet: Fleet, name: str) -> None:
    """Also about what the cancelled call has done: its effect comes whole, once, and before any later call's."""
    call, allowed = CALLS[name]
    numbers, keys = itertools.count(), [""]

    async def make() -> Any:
        return await call(fleet.cache, keys[-1])

    async def prepare() -> None:
        keys.append(f"k{next(numbers)}")
        await fleet.other.set(keys[-1], "old", tags=[f"of {keys[-1]}"])
        assert await fleet.other.get(keys[-1]) == "old"
        assert await fleet.cache.barrier(5.0)

    async def check(run: CancelledRun) -> None:
        await fleet.clean()
        key = keys[-1]
        strong = await prompt(fleet.other.get(key, GONE, consistency="strong"))
        assert strong in allowed
        assert await fleet.cache.barrier(5.0)
        assert await prompt(fleet.cache.get(key, GONE)) == strong
        # The next call is right, and nothing of the cancelled one lands on it later.
        await fleet.cache.set(key, "later")
        assert await fleet.cache.get(key) == "later"
        assert await prompt(fleet.other.get(key, consistency="strong")) == "later"
        await prepare()

    await prepare()
    report = await cancel_at_each_suspension(make, check)
    assert report.suspensions >= 1
    assert not report.findings
    assert fleet.cache.get_stats()["outages"] == 0


# Loads


@pytest.mark.parametrize("tags", [(), ("a", "b")], ids=["no tags", "tags"])
async def test_whoever_wants_a_load_is_cancelled_and_others_get_it(
    fleet: Fleet, tags: Collection[str]
) -> None:
    """The first caller, or one who joins: the load goes on, once, and another process finds what it made."""
    keys: list[str] = []
    loads: list[str] = []
    joined: list[asyncio.Task[Any]] = []

    async def load(key: str) -> str:
        loads.append(key)
        await asyncio.sleep(0.002)
        return key

    async def first() -> Any:
        keys.append(f"k{len(keys)}")
        key = keys[-1]
        return await fleet.cache.get_or_load(key, lambda: load(key), tags=tags)

    async def later() -> Any:
        keys.append(f"k{len(keys)}")
        key = keys[-1]
        joined.append(asyncio.ensure_future(fleet.cache.get_or_load(key, lambda: load(key), tags=tags)))
        await asyncio.sleep(0)
        return await fleet.cache.get_or_load(key, lambda: load(key), tags=tags)

    async def check(run: CancelledRun) -> None:
        for task in joined:
            assert await prompt(task) == keys[-1]
        joined.clear()
        await fleet.clean()
        key = keys[-1]
        assert await prompt(fleet.other.get_or_load(key, lambda: load(key), tags=tags)) == key
        assert loads.count(key) == 1

    for make in (first, later):
        report = await cancel_at_each_suspension(make, check)
        for task in joined:
            await task
        joined.clear()
        assert report.suspensions >= 2
        assert not report.findings


async def test_whoever_waits_for_another_process_is_cancelled_and_both_go_on(fleet: Fleet) -> None:
    keys: list[str] = []
    leaders: list[asyncio.Task[Any]] = []
    ends: list[asyncio.Event] = []

    async def make() -> Any:
        key, begun, end = f"k{len(keys)}", asyncio.Event(), asyncio.Event()
        keys.append(key)
        ends.append(end)

        async def lead() -> str:
            begun.set()
            await end.wait()
            return "of the other"

        leaders.append(asyncio.ensure_future(fleet.other.get_or_load(key, lead)))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.02, end.set)
        return await fleet.cache.get_or_load(key, load_new)

    async def check(run: CancelledRun) -> None:
        ends[-1].set()
        assert await prompt(leaders[-1]) == "of the other"
        await fleet.clean()
        assert await prompt(fleet.cache.get_or_load(keys[-1], load_new)) == "of the other"

    report = await cancel_at_each_suspension(make, check)
    assert not report.findings
    assert report.result == "of the other"
    await leaders[-1]


@pytest.mark.parametrize("answer", ["a value", "an error"])
async def test_a_load_that_is_cancelled_itself_leaves_no_lease(fleet: Fleet, answer: str) -> None:
    """As a cache does that closes: another process makes the value at once."""
    keys: list[str] = []

    async def load() -> str:
        await asyncio.sleep(0)
        if answer == "an error":
            raise LookupError("as asked for")
        return "loaded"

    async def make() -> Any:
        reads, key = fleet.cache._reads, fleet.cache._full(f"k{len(keys)}")
        keys.append(f"k{len(keys)}")
        kind = fleet.cache.kind(60)
        wanted = Wanted(key, load, kind, reads._looker(key, kind), ("a",))
        try:
            return await reads._flown(Flight(reads.flights, key), wanted)
        except LookupError:
            return "failed"

    async def check(run: CancelledRun) -> None:
        await fleet.clean()
        found = await prompt(fleet.other.get_or_load(keys[-1], load_new))
        assert found == "loaded"
        assert await prompt(fleet.cache.get(keys[-1])) == "loaded"

    report = await cancel_at_each_suspension(make, check)
    assert report.suspensions >= 3
    assert not report.findings
    assert report.result == ("loaded" if answer == "a value" else "failed")


async def test_a_reader_of_an_old_value_is_cancelled(fleet: Fleet) -> None:
    """Who waits for a load with an older value at hand, and who has it loaded behind."""
    keys: list[str] = []
    kinds = (
        Freshness(ttl=0.05, stale_if_error=600.0, soft_timeout=5.0),
        Freshness(ttl=0.05, stale_while_revalidate=600.0),
    )
    for freshness in kinds:

        async def stale(freshness: Freshness = freshness) -> None:
            keys.append(f"k{len(keys)}")

            async def old() -> str:
                return "old"

            await fleet.cache.get_or_load(keys[-1], old, freshness=freshness)
            await asyncio.sleep(0.06)

        async def make(freshness: Freshness = freshness) -> Any:
            return await fleet.cache.get_or_load(keys[-1], load_new, freshness=freshness)

        async def check(run: CancelledRun, freshness: Freshness = freshness, stale: Any = stale) -> None:
            await fleet.clean()
            for reader in (fleet.cache, fleet.other):
                read = reader.get_or_load(keys[-1], load_new, freshness=freshness)
                assert await prompt(read) in {"old", "loaded"}
            await stale()

        await stale()
        report = await cancel_at_each_suspension(make, check)
        assert not report.findings


# Many


async def test_a_call_for_many_ids_is_cancelled(fleet: Fleet) -> None:
    numbers = itertools.count(step=3)
    ids: list[list[int]] = []
    loaded: list[int] = []

    @cached_many(cache=fleet.cache, tags=["number:{id}", "numbers"])
    async def squares(wanted: list[int]) -> dict[int, int]:
        loaded.extend(wanted)
        await asyncio.sleep(0)
        return {number: number**2 for number in wanted}

    async def make() -> Any:
        first = next(numbers)
        ids.append([first, first + 1, first + 2])
        return await squares(ids[-1])

    async def check(run: CancelledRun) -> None:
        await fleet.clean()
        assert await prompt(squares(ids[-1])) == {number: number**2 for number in ids[-1]}
        await fleet.clean()
        assert sorted(set(loaded)) == sorted(loaded)
        await fleet.other.invalidate_tag(f"number:{ids[-1][0]}")
        assert await fleet.cache.barrier(5.0)
        assert await prompt(squares(ids[-1][:1])) == {ids[-1][0]: ids[-1][0] ** 2}
        assert loaded.pop() == ids[-1][0]

    report = await cancel_at_each_suspension(make, check)
    assert report.suspensions >= 2
    assert not report.findings


# Locks


async def test_a_lock_that_is_taken_or_freed_is_cancelled(fleet: Fleet) -> None:
    numbers = itertools.count()
    names: list[str] = []

    async def make() -> None:
        names.append(f"n{next(numbers)}")
        lock = fleet.cache.lock(names[-1], lease=LEASE)
        if await lock.acquire(5.0):
            try:
                await asyncio.sleep(0)
            finally:
                await lock.release()

    async def check(run: CancelledRun) -> None:
        await fleet.clean()
        began = time.monotonic()
        async with fleet.other.lock(names[-1], lease=LEASE, wait=PROMPT):
            assert time.monotonic() - began < PROMPT

    report = await cancel_at_each_suspension(make, check)
    assert report.suspensions >= 3
    assert not report.findings


# The whole life of a cache


async def test_a_cache_that_loads_and_locks_is_cancelled_while_it_opens_and_closes(
    redis_url: str, prefix: str
) -> None:
    options = CacheOptions(redis=_PATIENT, lease=LEASE)
    numbers = itertools.count()
    names: list[str] = []
    async with CacheManager(redis_url, namespace=prefix, options=options) as other:
        await other.set("warm", 1)
        tasks = len(asyncio.all_tasks())

        async def for_ever() -> None:
            await asyncio.Event().wait()

        async def make() -> None:
            names.append(f"n{next(numbers)}")
            async with CacheManager(redis_url, namespace=prefix, options=options) as cache:
                await cache.set("k", names[-1], tags=["t"])
                loading = asyncio.ensure_future(cache.get_or_load(names[-1], for_ever, tags=["t"]))
                try:
                    await cache.lock(names[-1], lease=LEASE).acquire(5.0)
                    assert await cache.get("k") == names[-1]
                finally:
                    loading.cancel()

        async def check(run: CancelledRun) -> None:
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            assert await prompt(other.get_or_load(names[-1], load_new)) == "loaded"
            async with other.lock(names[-1], lease=LEASE, wait=PROMPT):
                pass

        report = await cancel_at_each_suspension(make, check)
        assert report.suspensions >= 5
        assert not report.findings
