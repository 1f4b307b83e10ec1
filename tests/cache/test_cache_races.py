"""Orders of events that a server gives only by chance, forced by a store that answers when it is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from aioinfra.cache.entries import Entries, Entry
from aioinfra.cache.epoch import Epoch
from aioinfra.cache.fallback import FallbackOptions, FallbackStore
from aioinfra.cache.figures import Figures
from aioinfra.cache.kind import Kind
from aioinfra.cache.loading import Layers
from aioinfra.cache.local import LocalCache
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.memory_store import MemoryStore
from aioinfra.cache.names import Names
from aioinfra.cache.near import Near
from aioinfra.cache.read_through import ReadThrough
from aioinfra.cache.tags import TagBook
from aioinfra.clock import SYSTEM_CLOCK
from aioinfra.codec.envelope import Envelope
from aioinfra.codec.json import JsonCodec
from aioinfra.errors import StoreUnavailable

KIND = Kind(Envelope(JsonCodec()), 60.0, 60.0)


def memory() -> MemoryStore:
    return MemoryStore(LocalCache(1000, 1 << 20))


class Slow(MemoryStore):
    """Its answers to gets are held back while ``hold`` is set."""

    def __init__(self) -> None:
        super().__init__(LocalCache(1000, 1 << 20))
        self.hold: asyncio.Event | None = None
        self.reading = asyncio.Event()

    async def get(self, key: str) -> bytes | None:
        answer = await super().get(key)
        self.reading.set()
        if self.hold is not None:
            await self.hold.wait()
        return answer


class Faulty(MemoryStore):
    """Calls of the verbs in ``down`` raise StoreUnavailable; the number says how many calls succeed before."""

    def __init__(self) -> None:
        super().__init__(LocalCache(10_000, 1 << 20))
        self.down: dict[str, int] = {}

    def _check(self, verb: str) -> None:
        left = self.down.get(verb)
        if left is not None:
            if left <= 0:
                raise StoreUnavailable("down", sent=False)
            self.down[verb] = left - 1

    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        self._check("set")
        await super().set(key, value, ttl)

    async def delete(self, keys: Sequence[str], uncounted: Sequence[str] = ()) -> int:
        self._check("delete")
        return await super().delete(keys, uncounted)

    async def clear(self, pattern: str) -> int:
        self._check("clear")
        return await super().clear(pattern)

    async def ping(self) -> float:
        self._check("ping")
        return 0.0


class Impatient:
    """A clock whose waits end at once."""

    def time(self) -> float:
        return SYSTEM_CLOCK.time()

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def test_an_absence_that_arrives_after_another_load_has_ended_is_looked_at_again() -> None:
    store = Slow()
    generation = KIND.envelope.generation
    tags = TagBook(store, Names("t:"), None)
    reads = ReadThrough(Layers(store, Epoch(SYSTEM_CLOCK), SYSTEM_CLOCK, tags, generation), Figures())
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        return loads

    store.hold = hold = asyncio.Event()
    late = asyncio.create_task(reads.get_or_load("k", load, KIND))
    await store.reading.wait()
    store.hold = None
    assert (
        await reads.get_or_load("k", load, KIND) == 1
    )  # starts and ends while the other waits for its answer
    hold.set()
    assert await late == 1
    assert loads == 1


Change = Callable[[CacheManager], Awaitable[Any]]


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        (lambda cache: cache.set("k", "set"), "set"),
        (lambda cache: cache.mset({"k": "set"}), "set"),
        (lambda cache: cache.delete("k"), "absent"),
        (lambda cache: cache.clear("k*"), "absent"),
        (lambda cache: cache.clear(all=True), "absent"),
    ],
    ids=["set", "mset", "delete", "clear", "clear all"],
)
async def test_a_value_that_was_being_loaded_does_not_overwrite_a_later_change(
    change: Change, stored: str
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        started.set()
        await go.wait()
        return "loaded"

    async with CacheManager() as cache:
        loading = asyncio.create_task(cache.get_or_load("k", load))
        await started.wait()
        await change(cache)
        go.set()
        assert await loading == "loaded"  # who asked before the change gets what was loaded then
        assert await cache.get("k", "absent") == stored


@pytest.mark.parametrize("over", [False, True], ids=["in the outage", "after it"])
async def test_an_answer_that_was_asked_for_before_an_outage_is_not_put_into_l1(*, over: bool) -> None:
    """Memory may have given it; after the outage others may have changed the key, unheard."""
    primary = Faulty()
    store = FallbackStore(primary, memory(), "*", clock=Impatient())
    near = Near(Entries(10, 1 << 20), store, SYSTEM_CLOCK, max_staleness=math.inf, ttl=60.0)
    near.confirm(0.0)
    fill = near.begin("k")
    assert fill is not None
    primary.down = {"set": 0, "ping": 0}
    await store.set("other", b"", None)
    assert store.outage is not None
    if over:
        primary.down = {}
        async with asyncio.timeout(5):
            await store.wait_healthy()
    near.put("k", fill, Entry("k", "old", 10))
    assert near.get("k", None) is None
    primary.down = {}
    async with asyncio.timeout(5):
        await store.wait_healthy()
    fill = near.begin("k")
    assert fill is not None
    near.put("k", fill, Entry("k", "new", 10))
    found = near.get("k", None)
    assert found is not None
    assert found.value == "new"
    await store.aclose()


async def test_a_recovery_that_fails_half_way_forgets_nothing() -> None:
    primary = Faulty()
    store = FallbackStore(primary, memory(), "*", clock=Impatient())
    keys = [str(number) for number in range(2500)]
    await store.set_many([(key, b"old") for key in keys], None)
    await store.set_many([("pattern 1", b"old"), ("kept", b"old")], None)
    primary.down = {"set": 0, "delete": 0, "clear": 0, "ping": 0}
    await store.set("0", b"new", None)
    await store.delete(keys)
    await store.clear("pattern*")
    for down in ({"clear": 0}, {"delete": 0}, {"delete": 1}, {"delete": 1}, {"ping": 0}):
        primary.down = dict(down)
        for _ in range(50):
            await asyncio.sleep(0)
        assert store.outage is not None
    primary.down = {}
    async with asyncio.timeout(5):
        await store.wait_healthy()
    assert list(primary.local.keys()) == ["kept"]
    await store.aclose()


async def test_a_namespace_that_could_not_be_cleared_is_cleared_by_the_next_try() -> None:
    primary = Faulty()
    store = FallbackStore(primary, memory(), "*", FallbackOptions(max_remembered=1), clock=Impatient())
    await store.set_many([(key, b"old") for key in "abc"], None)
    primary.down = {"set": 0, "clear": 0, "delete": 0}
    await store.set("a", b"new", None)
    await store.delete(["b"])
    for _ in range(50):
        await asyncio.sleep(0)
    assert store.outage is not None
    primary.down = {}
    async with asyncio.timeout(5):
        await store.wait_healthy()
    assert len(primary.local) == 0
    await store.aclose()


class Held(MemoryStore):
    """Sets of "late" and the first delete wait until they are let go; then the set fails."""

    def __init__(self) -> None:
        super().__init__(LocalCache(1000, 1 << 20))
        self.fail_set, self.end_delete = asyncio.Event(), asyncio.Event()
        self.deleting = asyncio.Event()

    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        if key == "late":
            await self.fail_set.wait()
        raise StoreUnavailable("down")

    async def delete(self, keys: Sequence[str], uncounted: Sequence[str] = ()) -> int:
        self.deleting.set()
        await self.end_delete.wait()
        return await super().delete(keys, uncounted)


async def test_a_write_that_fails_in_the_last_step_of_the_recovery_is_remembered() -> None:
    primary = Held()
    await MemoryStore.set(primary, "late", b"old", None)
    store = FallbackStore(primary, memory(), "*", clock=Impatient())
    late = asyncio.create_task(store.set("late", b"new", None))
    await asyncio.sleep(0)
    await store.set("other", b"new", None)  # begins the outage; the probe succeeds at once
    await primary.deleting.wait()
    primary.fail_set.set()
    await late
    primary.end_delete.set()
    async with asyncio.timeout(5):
        await store.wait_healthy()
    assert await store.get("late") is None
    await store.aclose()
