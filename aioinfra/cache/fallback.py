"""A Store over two Stores: the server, and memory that answers while the server does not.

An outage begins with the first call that finds the server unavailable. That call and all later ones are
answered from memory, which starts empty: only what was written during the outage is in it. One task of this
store probes the server. When it answers, every key written or deleted meanwhile is deleted on it (never
replayed: others may have written newer values), the memory is emptied, and calls go to the server again. Writes
that began before the outage, and that their callers have given up, are waited for first.

So that nothing is written in between, writes wait for the last such deletion; then the last look at the remembered
keys, the emptying and the switch happen without an await. A write that has waited for as long as the server may
take for one call is answered from memory and remembered; the outage goes on then.

What is being made under leases is voided before the deletions: stored before that, it is deleted; later, refused.

Remembered keys are bounded. Beyond the bound the whole namespace gets a new generation on recovery. What was
remembered by a process that dies meanwhile is left to the TTLs.

Only StoreUnavailable begins an outage. A server that answers with an error is there: its errors are raised. So
is PoolExhausted, which says that this process keeps all connections busy.

A server whose memory is full (StoreFull) still answers reads and deletes. What it does not take is deleted on it,
kept in memory for some seconds and read where the server has nothing. The first write that it takes ends this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, TypeVar

from aioinfra.backoff import RECONNECT
from aioinfra.cache.memory_store import MemoryStore
from aioinfra.cache.observer import CacheObserver
from aioinfra.cache.outage import Outage
from aioinfra.cache.store import Store
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import AioinfraError, PoolExhausted, StoreFull, StoreUnavailable

T = TypeVar("T")

_log = logging.getLogger("aioinfra.cache")
_KEYS_A_STEP: Final = 1000
_FULL_TTL: Final = 10.0  # seconds that memory keeps what a full server refused: until it is asked again


@dataclass(frozen=True, slots=True)
class FallbackOptions:
    """Bounds during an outage.

    Attributes:
        max_remembered: keys and patterns remembered for deletion; beyond, the namespace is cleared.
        ttl: longest life of an entry in memory, seconds.
        patience: seconds that a write waits for the outage to end when it is about to.
    """

    max_remembered: int = 100_000
    ttl: float = 300.0
    patience: float = 0.25

    def __post_init__(self) -> None:
        check_whole("max_remembered", self.max_remembered, 0, 10_000_000)
        check_number("ttl", self.ttl, 0.001, 86_400 * 366)
        check_number("patience", self.patience, 0.001, 3600)


class Rejoin(Protocol):
    """Knows what of a namespace counts. Called on the way back to the server, which may fail again."""

    async def renew(self, store: Store) -> None:
        """Nothing that was stored so far counts any more; one write."""
        ...

    async def end_loads(self) -> None:
        """What is being made anywhere by what was known before is not stored any more."""
        ...

    async def rejoin(self, store: Store) -> None:
        """Learn what others have decided meanwhile."""
        ...


class FallbackStore:
    """See the module. Owns its probe task; `aclose` closes both stores.

    Args:
        primary: the server's store.
        memory: what answers during an outage; empty, and nobody else's.
        namespace: the glob of all keys of this cache.
        rejoin: ends the whole namespace where it is too much to delete; None clears it key by key.
    """

    def __init__(
        self,
        primary: Store,
        memory: MemoryStore,
        namespace: str,
        options: FallbackOptions = FallbackOptions(),
        *,
        rejoin: Rejoin | None = None,
        observer: CacheObserver | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._rejoin = rejoin
        self._changes = 0  # of where answers come from
        self._primary = primary
        self._memory = memory
        self._namespace = namespace
        self._options = options
        self._observer = observer
        self._clock = clock
        self._probe: asyncio.Task[None] | None = None
        self._gate: asyncio.Event | None = None  # set when writes may go on; there only while they may not
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._closed = False
        self.outage: Outage | None = None
        """The outage under way."""
        self.outages = 0
        """Outages so far."""
        self.answers = 0
        """Calls answered from memory so far."""
        self.full: str | None = None
        """Why memory keeps what is written: the server is there, and takes no more."""

    @property
    def era(self) -> int | None:
        """See `Store.era`."""
        return self._changes if self.outage is None and self.full is None else None

    @property
    def returning(self) -> bool:
        """See `Store.returning`."""
        return self._gate is not None

    # Reads

    async def get(self, key: str) -> bytes | None:
        if self.outage is None:  # spelt out: this is the hot path, see _read
            try:
                value = await self._primary.get(key)
            except StoreUnavailable as error:
                self._begin(error)
            else:
                if value is not None or self.full is None:
                    return value
        return await self._answer("get", self._memory.get(key))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await self._read("mget", lambda store: store.get_many(keys), _filled)

    async def exists(self, key: str) -> bool:
        return await self._read("exists", lambda store: store.exists(key), max)

    async def ping(self) -> float:
        """Seconds that the server took to answer. An error begins an outage as in any call, and is raised."""
        try:
            return await self._primary.ping()
        except StoreUnavailable as error:
            self._begin(error)
            raise

    # Writes

    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        await self._write("set", lambda store, ttl: store.set(key, value, ttl), ttl, keys=(key,))

    async def add(self, key: str, value: bytes, ttl: float | None) -> bytes:
        held: list[bytes] = []

        async def call(store: Store, ttl: float | None) -> int:
            held.append(await store.add(key, value, ttl))
            return 1

        await self._write("add", call, ttl, keys=(key,))
        return held[-1]

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        keys = [key for key, _ in items]
        await self._write("mset", lambda store, ttl: store.set_many(items, ttl), ttl, keys=keys)

    async def delete(self, keys: Sequence[str], uncounted: Sequence[str] = ()) -> int:
        # What is not counted is not remembered either: leases, which the way back ends together.
        removed = await self._write("delete", lambda store, _: store.delete(keys, uncounted), keys=keys)
        if self.full is not None and self.outage is None:
            removed += await self._memory.delete(keys)
        return min(removed, len(keys))

    async def clear(self, pattern: str) -> int:
        removed = await self._write("clear", lambda store, _: store.clear(pattern), patterns=(pattern,))
        if self.full is not None and self.outage is None:
            removed += await self._memory.clear(pattern)
        return removed

    # Life

    async def wait_healthy(self) -> None:
        """Return when no outage is under way."""
        await self._healthy.wait()

    async def settled(self) -> None:
        await self._primary.settled()

    async def aclose(self) -> None:
        """End the probing and close both stores. What is still remembered is left to the TTLs."""
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._primary.aclose()
        await self._memory.aclose()

    # How each call goes

    async def _read(
        self, operation: str, call: Callable[[Store], Awaitable[T]], both: Callable[[T, T], T]
    ) -> T:
        """``both`` joins the answers of a full server and of memory."""
        if self.outage is None:
            try:
                answer = await call(self._primary)
            except StoreUnavailable as error:
                self._begin(error)
            else:
                return answer if self.full is None else both(answer, await call(self._memory))
        return await self._answer(operation, call(self._memory))

    async def _write(
        self,
        operation: str,
        call: Callable[[Store, float | None], Awaitable[T]],
        ttl: float | None = None,
        *,
        keys: Sequence[str] = (),
        patterns: Sequence[str] = (),
    ) -> T:
        if self._gate is not None:
            await self._pass_gate()
        outage = self.outage
        if outage is None:
            try:
                answer = await call(self._primary, ttl)
            except StoreUnavailable as error:
                outage = self._begin(error)
            except StoreFull as error:
                return await self._keep(operation, call, ttl, keys, error)
            else:
                if self.full is not None and keys and operation != "delete":
                    self._not_full()
                return answer
        outage.remember(keys, patterns, self._options.max_remembered)
        most = self._options.ttl
        return await self._answer(operation, call(self._memory, most if ttl is None else min(ttl, most)))

    async def _pass_gate(self) -> None:
        """Wait until the outage is over, or goes on; for no longer than ``patience``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.patience):
                while self._gate is not None:
                    await self._gate.wait()

    async def _keep(
        self,
        operation: str,
        call: Callable[[Store, float | None], Awaitable[T]],
        ttl: float | None,
        keys: Sequence[str],
        error: StoreFull,
    ) -> T:
        """The server is full: memory takes the values, for a short time."""
        if self.full is None:
            self.full = str(error)
            self._changes += 1
            _log.warning("the cache server is full, memory keeps what is written: %s", error)
        try:
            await self._primary.delete(keys)  # older values would be read as if they were current
        except StoreUnavailable as lost:
            self._begin(lost).remember(keys, (), self._options.max_remembered)
        most = min(_FULL_TTL, self._options.ttl)
        answer = await self._answer(operation, call(self._memory, most if ttl is None else min(ttl, most)))
        if not self._memory_counts():  # a later write got through
            await self._memory.delete(keys)
        return answer

    def _memory_counts(self) -> bool:
        return self.full is not None or self.outage is not None

    def _not_full(self) -> None:
        """The server takes values again. Its answers are all that counts."""
        self.full = None
        self._changes += 1
        self._memory.local.clear()
        _log.info("the cache server takes values again")

    async def _answer(self, operation: str, memory: Awaitable[T]) -> T:
        answer = await memory  # at once, so that remembering and writing are one step
        self.answers += 1
        if self._observer is not None:
            self._observer.operation(operation, "fallback", 0.0)
        # Callers that yielded to the loop with every call must not block it now: the recovery runs on it.
        await asyncio.sleep(0)
        return answer

    # The outage

    def _begin(self, error: StoreUnavailable) -> Outage:
        """The outage under way, begun now if there is none.

        Raises the error once the store is closed, and back pressure: that says nothing about the server.
        """
        if self._closed or (isinstance(error, PoolExhausted) and self.outage is None):
            raise error
        if self.outage is None:
            self.outage = Outage(self._clock.monotonic(), str(error))
            self.outages += 1
            self._changes += 1
            self._healthy.clear()
            _log.warning("the cache server is unavailable, memory answers: %s", error)
            # A context of its own: the recovery belongs to nobody's request.
            self._probe = asyncio.get_running_loop().create_task(
                self._recover(self.outage), name="aioinfra-cache-recovery", context=Context()
            )
        return self.outage

    async def _recover(self, outage: Outage) -> None:
        attempt = 0
        while self.outage is not None:
            try:
                await self._primary.ping()
                await self._settle(outage)
            except Exception as error:  # noqa: BLE001 - whatever it is, the outage must not outlive the server's
                if not isinstance(error, AioinfraError):  # not of the store, nor a full write queue
                    _log.exception("the recovery failed; trying again")
                attempt += 1
                await self._clock.sleep(RECONNECT.delay(attempt))

    async def _settle(self, outage: Outage) -> None:
        """Delete what was remembered, then end the outage; raises when the server is gone again."""
        await self._primary.settled()  # what was given up would land on what is written after the outage
        await self._end_loads()
        while outage.everything or outage.patterns or len(outage.keys) > _KEYS_A_STEP:
            await self._delete_some(outage)
        self._gate = gate = asyncio.Event()
        try:
            await self._end_loads()
            await self._delete_some(outage)
            if self._rejoin is not None:
                await self._rejoin.rejoin(self._primary)
            # A write that began before the outage may have failed just now, and so been remembered.
            if not outage.pending:
                self._end(outage)
        finally:
            self._gate = None
            gate.set()

    async def _end_loads(self) -> None:
        if self._rejoin is not None:
            await self._rejoin.end_loads()

    async def _delete_some(self, outage: Outage) -> None:
        """One step of the deletions; what fails is remembered again."""
        everything, outage.everything = outage.everything, False
        patterns, outage.patterns = outage.patterns, set()
        keys = list(islice(outage.keys, _KEYS_A_STEP))
        outage.keys.difference_update(keys)
        try:
            if everything and self._rejoin is not None:
                await self._rejoin.renew(self._primary)
            for pattern in [self._namespace] if everything and self._rejoin is None else patterns:
                await self._primary.clear(pattern)
            await self._primary.delete(keys)
        except BaseException:
            outage.remember(keys, patterns, self._options.max_remembered)
            outage.everything |= everything
            raise

    def _end(self, outage: Outage) -> None:
        """Back to the server. No await from the last look at the outage to here."""
        self.outage = self.full = None
        self._changes += 1
        self._memory.local.clear()
        self._healthy.set()
        _log.info("the cache server answers again after %.3f s", self._clock.monotonic() - outage.started)


def _filled(server: Sequence[bytes | None], memory: Sequence[bytes | None]) -> Sequence[bytes | None]:
    """What the server has, and what memory has where it has nothing."""
    return [mine if theirs is None else theirs for theirs, mine in zip(server, memory, strict=True)]
