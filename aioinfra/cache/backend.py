"""Where the bytes of one open cache are: builds the stores of its mode, closes them, says how they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aioinfra.cache.fallback import FallbackOptions, FallbackStore
from aioinfra.cache.glob import escape
from aioinfra.cache.local import LocalCache
from aioinfra.cache.memory_store import MemoryStore
from aioinfra.cache.observer import CacheObserver
from aioinfra.cache.options import CacheHealth, CacheOptions
from aioinfra.cache.redis_store import RedisStore
from aioinfra.cache.store import Store
from aioinfra.clock import Clock
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import StoreError, StoreUnavailable


@dataclass(frozen=True, slots=True)
class BackendPlan:
    """What a backend is built from.

    Attributes:
        client: shared, so not closed; it wins over ``url``. With neither the values are in memory only.
        memory_entries, memory_ttl: most entries in memory, and their longest life during an outage (seconds).
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


class Backend:
    """The stores of one open time of a cache. Made open, ended by `aclose`. One event loop."""

    def __init__(self, plan: BackendPlan) -> None:
        self._plan = plan
        self.memory = LocalCache[bytes](plan.memory_entries, plan.options.memory_bytes, plan.clock)
        self.fallback: FallbackStore | None = None
        self._owned = (
            RedisClient(plan.url, plan.pool) if plan.url is not None and plan.client is None else None
        )
        self.client = plan.client or self._owned
        self.store: Store = MemoryStore(self.memory) if self.client is None else self._over(self.client)

    def _over(self, client: RedisClient) -> Store:
        plan, options = self._plan, self._plan.options
        server = RedisStore(client, options.redis)
        if not options.fallback:
            return server
        self.fallback = FallbackStore(
            server,
            MemoryStore(self.memory),
            escape(plan.namespace) + "*",
            FallbackOptions(options.max_remembered, plan.memory_ttl),
            observer=plan.observer,
            clock=plan.clock,
        )
        return self.fallback

    async def start(self) -> None:
        """Ask the server once. With a fallback an unavailable one begins an outage, and that is all.

        Raises:
            StoreError: the server refuses us, or is unavailable and there is no fallback; all is closed.
        """
        try:
            await self.store.ping()
        except StoreUnavailable:
            if self.fallback is None:
                await self.aclose()
                raise
        except BaseException:
            await self.aclose()
            raise

    async def health(self) -> CacheHealth:
        """The state now; one PING."""
        if self.client is None:
            return CacheHealth("healthy", "memory", entries=len(self.memory))
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
        )

    def figures(self) -> dict[str, int]:
        """Totals of this open time."""
        fallback = self.fallback
        return {
            "outages": fallback.outages if fallback is not None else 0,
            "fallback_answers": fallback.answers if fallback is not None else 0,
            "memory_entries": len(self.memory),
            "memory_bytes": self.memory.bytes,
            "evictions": self.memory.evictions,
        }

    async def aclose(self) -> None:
        """Close the stores, and the client if it is ours."""
        try:
            await self.store.aclose()
        finally:
            if self._owned is not None:
                await self._owned.aclose()
