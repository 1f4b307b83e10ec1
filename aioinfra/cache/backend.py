"""What one open cache is made of: builds the stores and L1 of its mode, keeps them coherent, closes them.

Three tasks live as long as it is open: the listener hears of changes, the upkeep reads again what decides about
all values (the generation of the namespace, the server's time), and the fallback probes while the server is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aioinfra.cache.atomic_parts import AtomicParts
from aioinfra.cache.dictionaries import CacheDictionaries, DictionaryOptions
from aioinfra.cache.entries import Entries
from aioinfra.cache.epoch import Epoch
from aioinfra.cache.fallback import FallbackOptions, FallbackStore
from aioinfra.cache.generation import NamespaceGeneration
from aioinfra.cache.glob import escape
from aioinfra.cache.invalidations import Invalidations
from aioinfra.cache.lease import Leases
from aioinfra.cache.loading import Layers
from aioinfra.cache.local import LocalCache
from aioinfra.cache.memory_store import MemoryStore
from aioinfra.cache.names import Names
from aioinfra.cache.near import Near
from aioinfra.cache.observer import CacheObserver
from aioinfra.cache.options import CacheHealth, CacheOptions
from aioinfra.cache.redis_store import RedisStore
from aioinfra.cache.store import Store
from aioinfra.cache.tags import TagBook
from aioinfra.cache.wakes import Wakes
from aioinfra.clock import Clock
from aioinfra.codec.dictionaries import Dictionaries
from aioinfra.codec.envelope import Generation
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.tracking import TrackingListener, TrackingOptions, TrackingState
from aioinfra.errors import AioinfraError, StoreError, StoreFull, StoreUnavailable

logger = logging.getLogger("aioinfra.cache")

_TIME_EVERY: Final = 60.0  # seconds between two looks at the server's clock
_AGAIN: Final = 0.1  # seconds until a generation that is known to have changed is asked for again


@dataclass(frozen=True, slots=True)
class BackendPlan:
    """What a backend is built from.

    Attributes:
        client: shared, so not closed; it wins over ``url``. With neither the values are in memory only.
        memory_entries, memory_ttl: most entries in memory, and their longest life there (seconds).
        generation: of the envelopes.
    """

    url: str | None = field(repr=False)  # may hold a password
    client: RedisClient | None
    pool: PoolOptions
    namespace: str
    memory_entries: int
    memory_ttl: float
    options: CacheOptions
    observer: CacheObserver | None
    clock: Clock
    generation: Generation
    dictionaries: Dictionaries


class Backend:
    """The parts of one open time of a cache. Made open, started by `start`, ended by `aclose`. One event loop."""

    def __init__(self, plan: BackendPlan) -> None:
        self._plan = plan
        self.names = Names(plan.namespace)
        self.memory = LocalCache[bytes](plan.memory_entries, plan.options.memory_bytes, plan.clock)
        self.fallback: FallbackStore | None = None
        self.listener: TrackingListener | None = None
        self._owned = (
            RedisClient(plan.url, plan.pool) if plan.url is not None and plan.client is None else None
        )
        self.client = plan.client or self._owned
        self.generation = NamespaceGeneration(self.names.generation, plan.generation)
        self.epoch = Epoch(plan.clock)
        self._stirred = asyncio.Event()
        self._changes, self._known = 1, 0  # of the generation: heard of, and read since
        self._tasks: list[asyncio.Task[None]] = []
        self._server: RedisStore | None = None
        self.store: Store = MemoryStore(self.memory) if self.client is None else self._over(self.client)
        self.wakes = Wakes(self._heard)
        self.near = self._near()
        self._invalidations = Invalidations(self.names, self.near, self.wakes, self._meta_changed)
        self.dictionaries = self._dictionaries()
        self.layers = self._layers()

    # Building

    def _over(self, client: RedisClient) -> Store:
        plan, options = self._plan, self._plan.options
        self._server = server = RedisStore(client, options.redis)
        if not options.fallback:
            return server
        self.fallback = FallbackStore(
            server,
            MemoryStore(self.memory),
            escape(plan.namespace) + "*",
            FallbackOptions(options.max_remembered, plan.memory_ttl, options.redis.budget),
            rejoin=self,
            observer=plan.observer,
            clock=plan.clock,
        )
        return self.fallback

    def _dictionaries(self) -> CacheDictionaries | None:
        plan, options = self._plan, self._plan.options
        if self.client is None:
            return None
        kept = DictionaryOptions(budget=options.redis.budget, fallback=options.fallback)
        return CacheDictionaries(self.client, self.names, plan.dictionaries, kept, plan.clock)

    def _near(self) -> Near | None:
        plan, options = self._plan, self._plan.options.near
        if not plan.memory_entries or not options.enabled:
            return None
        entries = Entries(plan.memory_entries, options.max_bytes)
        near = Near(entries, self.store, plan.clock, max_staleness=options.max_staleness, ttl=plan.memory_ttl)
        if self.client is None:
            near.confirm(math.inf)  # nobody else writes
            return near
        self.listener = TrackingListener(
            self.client, self.names.prefixes, self._invalidated, _tracking(options.max_staleness), plan.clock
        )
        self.listener.on_confirmed = near.confirm
        return near

    def _layers(self) -> Layers:
        plan, leases = self._plan, None
        if self.client is not None and plan.options.lease is not None:
            leases = Leases(
                self.client,
                self.names,
                self.wakes,
                budget=plan.options.redis.budget,
                seconds=plan.options.lease,
                is_open=lambda: self.store.era is not None,
            )
        tags = TagBook(self.store, self.names, self.near)
        copies = plan.options.near.copy_on_read
        return Layers(
            self.store,
            self.epoch,
            plan.clock,
            tags,
            plan.generation,
            self.near,
            leases,
            copies=copies,
            dictionaries=self.dictionaries,
            certain=self.certain,
        )

    def atomic_parts(self) -> AtomicParts:
        """What the atomic verbs work on."""
        return AtomicParts(
            self.client,
            self._plan.options.redis,
            self.names,
            self.memory,
            self.wakes,
            self._plan.clock,
            self._plan.generation,
            self.layers.tags,
            self._load,
            lambda: self.store.era is not None,
            self._heard,
        )

    async def _load(self) -> None:
        if self._server is not None:
            await self.load(self._server)

    def _heard(self) -> bool:
        return self.near is not None and self.near.vouched

    # Life

    async def start(self) -> None:
        """Ask the server once. With a fallback an unavailable one begins an outage, and that is all.

        Raises:
            StoreError: the server refuses us, or is unavailable and there is no fallback; all is closed.
        """
        try:
            await self._reach()
            await self._begin_all()
        except BaseException:
            await self.aclose()
            raise

    async def _reach(self) -> None:
        try:
            await self.store.ping()
            await self._learn()
        except StoreUnavailable:
            if self.fallback is None:
                raise
        except StoreFull:
            self._stirred.set()  # no generation fits in: nothing counts until one does

    async def _begin_all(self) -> None:
        if self.listener is not None:
            self._begin(self.listener.run())
            if self.store.era is not None:
                await self.listener.wait_up(self._plan.options.redis.budget)
        if self.client is not None:
            self._begin(self._keep_up())
        if self.dictionaries is not None:
            await self.dictionaries.start(wait=self.store.era is not None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # A context of its own: this work belongs to nobody's request.
        self._tasks.append(asyncio.create_task(work, name="aioinfra-cache", context=Context()))

    async def aclose(self) -> None:
        """End the tasks, close the stores, and the client if it is ours; all of it, also when cancelled."""
        async with AsyncExitStack() as stack:
            if self._owned is not None:
                stack.push_async_callback(self._owned.aclose)
            if self.near is not None:
                stack.callback(self.near.flush)
            stack.push_async_callback(self.store.aclose)
            if self.dictionaries is not None:
                stack.push_async_callback(self.dictionaries.aclose)
            stack.push_async_callback(self._end_tasks)

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Staying coherent

    def _invalidated(self, keys: Sequence[bytes] | None) -> None:
        self._invalidations(keys)

    async def _learn(self) -> None:
        """Ask the server itself: what memory answers in an outage is nobody else's."""
        if self.client is not None and self._server is not None and self.store.era is not None:
            await self.epoch.learn(self.client, self._plan.options.redis.budget)
            await self.load(self._server)

    async def renew(self, store: Store) -> None:
        """End every value of the namespace; one write. (`fallback.Rejoin`)"""
        if self.near is not None:
            self.near.flush()
        try:
            await self.generation.renew(store)
        finally:
            if self.near is not None:
                self.near.flush()

    async def end_loads(self) -> None:
        """Back from an outage: what others made meanwhile is late, too. (`fallback.Rejoin`)"""
        if self.layers.leases is not None:
            await self.layers.leases.void_all()

    async def rejoin(self, store: Store) -> None:
        """Learn of a generation that others began meanwhile. (`fallback.Rejoin`)"""
        await self.load(store)

    async def load(self, store: Store) -> None:
        """Learn the generation of the namespace; L1 goes with an old one."""
        changes = self._changes
        if await self.generation.load(store) and self.near is not None:
            self.near.flush()
        self._known = max(self._known, changes)

    async def certain(self) -> None:
        """Read the generation now; in an outage memory's values count by the one that is known."""
        if self._server is not None and not self._in_outage:
            with contextlib.suppress(StoreUnavailable):
                await self.load(self._server)

    @property
    def _in_outage(self) -> bool:
        return self.fallback is not None and self.fallback.outage is not None

    def _meta_changed(self, key: str | None) -> None:
        if self.dictionaries is not None and key in (None, self.dictionaries.current_key):
            self.dictionaries.changed()
        if key is None or key == self.names.generation:
            self._changes += 1
            if self.near is not None:
                self.near.flush()
            self._stirred.set()

    async def _keep_up(self) -> None:
        """Read the generation when it has changed; now and then where changes are not heard."""
        clock = self._plan.clock
        asked = clock.monotonic()
        while True:
            pause = _TIME_EVERY if self._heard() else self._plan.options.near.max_staleness
            if self._known != self._changes:
                pause = _AGAIN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stirred.wait()
            self._stirred.clear()
            try:
                if self._in_outage or self.client is None or self._server is None:
                    continue
                await self.load(self._server)
                if clock.monotonic() - asked >= _TIME_EVERY:
                    asked = clock.monotonic()
                    await self.epoch.learn(self.client, self._plan.options.redis.budget)
            except AioinfraError as error:
                logger.debug("the generation of the namespace is not known now: %s", error)

    async def barrier(self, seconds: float) -> bool:
        """Whether every write that was acknowledged before has been heard, or L1 is not used."""
        near, ends = self.near, self._plan.clock.monotonic() + seconds
        if self.listener is not None and near is not None and near.vouched:
            if not await self.listener.barrier(seconds) and near.vouched:
                return False
            if near.vouched and self._known == self._changes:
                return True
        if self._server is None or self._in_outage:
            return True
        try:
            async with asyncio.timeout(ends - self._plan.clock.monotonic()):
                await self.load(self._server)
        except (TimeoutError, AioinfraError):
            return self._in_outage
        return True

    # State

    @property
    def l1(self) -> str:
        """The state of L1: "off", "on" in one process, else what the listener says, as far as it vouches."""
        if self.near is None:
            return "off"
        if self.listener is None:
            return "on"
        state = self.listener.state
        # The listener is patient for longer than a bound of less than its own: what readers get decides.
        return (
            TrackingState.STALE.value if state is TrackingState.UP and not self.near.vouched else state.value
        )

    async def health(self) -> CacheHealth:
        """The state now; one PING."""
        near_entries = len(self.near.entries) if self.near is not None else 0
        if self.client is None:
            return CacheHealth(
                "healthy", "memory", entries=len(self.memory), l1=self.l1, l1_entries=near_entries
            )
        latency = reason = None
        try:
            latency = await self.store.ping()
        except StoreError as error:
            reason = str(error)
        outage = self.fallback.outage if self.fallback is not None else None
        status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
        full = self.fallback.full if self.fallback is not None else None
        if outage is not None or (full is not None and latency is not None):
            status = "degraded"
        elif latency is None:
            status = "unhealthy"
        return CacheHealth(
            status,
            "redis",
            self.client.location,
            latency,
            self._plan.clock.monotonic() - outage.started if outage is not None else None,
            reason or (outage.reason if outage is not None else full),
            len(outage.keys) if outage is not None else 0,
            len(self.memory),
            self.client.figures(),
            self.l1,
            near_entries,
        )

    def figures(self) -> dict[str, int]:
        """Totals of this open time."""
        fallback, near = self.fallback, self.near
        return {
            "outages": fallback.outages if fallback is not None else 0,
            "fallback_answers": fallback.answers if fallback is not None else 0,
            "memory_entries": len(self.memory),
            "memory_bytes": self.memory.bytes,
            "evictions": self.memory.evictions,
            "l1_entries": len(near.entries) if near is not None else 0,
            "l1_bytes": near.entries.bytes if near is not None else 0,
            "l1_evictions": near.entries.evictions if near is not None else 0,
            "l1_bypassed": near.bypassed if near is not None else 0,
            "l1_late": near.late if near is not None else 0,
            "invalidations": near.invalidations if near is not None else 0,
        }


def _tracking(max_staleness: float) -> TrackingOptions:
    """Pings often enough for the bound."""
    interval = min(1.0, max_staleness / 2)
    silence = max(2.0, max_staleness)
    return TrackingOptions(ping_interval=interval, silence_limit=silence, reconnect_after=silence * 3)
