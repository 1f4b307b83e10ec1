"""Puts the atomic verbs and locks of one open cache together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aioinfra.cache.atomic import Atomic, AtomicStore
from aioinfra.cache.atomic_memory import MemoryAtomic
from aioinfra.cache.atomic_redis import RedisAtomic, server_clock
from aioinfra.cache.local import LocalCache
from aioinfra.cache.lock_store import LockStore, MemoryLockStore, RedisLockStore
from aioinfra.cache.locks import Locks
from aioinfra.cache.names import Names
from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.cache.script_lane import ScriptLane
from aioinfra.cache.store import Ttl
from aioinfra.cache.tags import TagBook
from aioinfra.cache.wakes import Wakes
from aioinfra.clock import Clock, ServerClock
from aioinfra.codec.envelope import Generation
from aioinfra.codec.layout import Tags
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import StoreUnavailable


@dataclass(frozen=True, slots=True)
class AtomicParts:
    """What an open cache has that the verbs need.

    Attributes:
        client: None when the values are in ``memory`` alone.
        options: time budget and batches on the server.
        wakes: hears of the keys of locks.
        generation: of the namespace, shared with the envelopes.
        load: asks the server for the generation; raises StoreError.
        is_open: whether the server, and not memory, answers now.
        heard: whether a change of the generation is heard of.
    """

    client: RedisClient | None
    options: RedisStoreOptions
    names: Names
    memory: LocalCache[bytes]
    wakes: Wakes
    clock: Clock
    generation: Generation
    tags: TagBook
    load: Callable[[], Awaitable[None]]
    is_open: Callable[[], bool]
    heard: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class AtomicSeams:
    """How the owner of the verbs treats values; the fields are those of `Atomic`."""

    lifetime: Callable[[Ttl], float | None]
    seal: Callable[[Any], bytes]
    opened: Callable[[bytes], Any]
    changed: Callable[[str], None]
    provide: Callable[[bytes], Awaitable[None]]


class FleetCurrency:
    """A `Currency` that asks the server what it does not hear of."""

    __slots__ = ("_parts",)

    def __init__(self, parts: AtomicParts) -> None:
        self._parts = parts

    async def current(self) -> bytes:
        """Raises StoreUnavailable during an outage: what is counted then would be deleted on the way back."""
        parts = self._parts
        if not parts.is_open():
            raise StoreUnavailable(
                "memory answers for the server, and cannot decide for the fleet", sent=False
            )
        if not parts.heard():
            await parts.load()
        return parts.generation.value

    async def is_current(self, generation: bytes, tags: Tags) -> bool:
        parts = self._parts
        await parts.load()
        if generation != parts.generation.value:
            return False
        holds = await parts.tags.hold(tags, strong=True)
        if not parts.is_open():  # then memory may have answered for the tags
            raise StoreUnavailable("the server was lost while tags were compared", sent=False)
        return holds


def make_atomic(parts: AtomicParts, seams: AtomicSeams) -> Atomic:
    """The verbs and locks of one open cache; the caller closes them before what they work on."""
    store: AtomicStore
    locks: LockStore
    if parts.client is None:
        store = MemoryAtomic(
            parts.memory, parts.generation, seams.opened, tags_current=_memory_tags(parts), clock=parts.clock
        )
        locks = MemoryLockStore(parts.clock)
    else:
        lane = ScriptLane(parts.client, parts.options.budget, parts.options.limits)
        now_ms = parts.clock.server_ms if isinstance(parts.clock, ServerClock) else server_clock
        store = RedisAtomic(lane, FleetCurrency(parts), now_ms=now_ms)
        locks = RedisLockStore(lane)
    return Atomic(
        store,
        Locks(locks, parts.wakes, parts.clock),
        parts.names.lock,
        seams.lifetime,
        seams.seal,
        seams.opened,
        seams.changed,
        seams.provide,
    )


def _memory_tags(parts: AtomicParts) -> Callable[[Tags], bool]:
    """In memory what stands for a tag is at hand."""
    prefix, get = parts.names.tag, parts.memory.get
    return lambda tags: all(get(prefix + name) == token for name, token in tags)
