"""Making a value that is not there: under a lease, within a time, stored unless it is late.

ask for the lease      found: read it      held: wait until it ends, ask again      none: go on alone
  tags and generation as they are now
  loader, at most for the hard timeout, its lease kept
  seal -> store under the lease: late when the key, the lease, a tag or the generation has changed meanwhile
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

from aioinfra.cache.completed import completed
from aioinfra.cache.dictionaries import CacheDictionaries
from aioinfra.cache.entries import Entry
from aioinfra.cache.epoch import Epoch
from aioinfra.cache.figures import Figures
from aioinfra.cache.flight import Flight
from aioinfra.cache.kind import FAILED, Kind, class_name
from aioinfra.cache.lease import Asked, Lease, Leases, new_token
from aioinfra.cache.near import Near
from aioinfra.cache.store import Store
from aioinfra.cache.tags import TagBook
from aioinfra.clock import Clock
from aioinfra.codec.envelope import Generation
from aioinfra.codec.layout import Stamp, Tags
from aioinfra.errors import (
    EncodeError,
    InvalidArgument,
    LoadTimeout,
    Overloaded,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

Load = Callable[[], Awaitable[Any]]
"""Makes a value."""
Find = Callable[[], Awaitable["Found"]]
"""Looks again whether the value is there."""

_MOST_REMEMBERED: Final = 10_000


async def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Layers:
    """What the parts of one open cache work on together.

    Attributes:
        generation: the current one of the namespace.
        near: L1; None without.
        leases: None when each process loads for itself.
        certain: makes the generation that of the server as of now.
        copies: every reader gets an object of its own from L1.
        dictionaries: of the server; None without one.
    """

    store: Store
    epoch: Epoch
    clock: Clock
    tags: TagBook
    generation: Generation
    near: Near | None = None
    leases: Leases | None = None
    certain: Callable[[], Awaitable[object]] = _nothing
    copies: bool = False
    dictionaries: CacheDictionaries | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a look brought.

    Attributes:
        entry: the value; None when there is none that can be used.
        mark: bytes 8 to 23 of what is stored, readable or not.
    """

    entry: Entry | None = None
    mark: bytes = b""


NOTHING: Final = Found()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A value that is to be made.

    Attributes:
        kind: how it is kept.
        tags: names; a value is sealed with what stands for them.
        mark: of the stored value that is not wanted; `ANYTHING` replaces whatever is there.
        find: looks for it once more, before it is made.
        stale: an older value is at hand, so waiting for another process is not worth it.
    """

    key: str
    load: Load
    kind: Kind
    find: Find
    tags: Sequence[str] = ()
    mark: bytes = b""
    stale: bool = False


class StillOldError(Exception):
    """Another process makes the value, and an older one is at hand."""


@dataclass(slots=True)
class Failures:
    """When loads of keys have failed, so that they are not tried again at once. Bounded."""

    clock: Clock
    until: dict[str, float] = field(default_factory=dict)

    def remember(self, key: str, seconds: float) -> None:
        """Not again before so many seconds."""
        self.until.pop(key, None)
        while len(self.until) >= _MOST_REMEMBERED:
            del self.until[next(iter(self.until))]
        if seconds > 0:
            self.until[key] = self.clock.monotonic() + seconds

    def recent(self, key: str) -> bool:
        """Whether it is too early to try again."""
        until = self.until.get(key)
        return until is not None and self.clock.monotonic() < until


class Loading:
    """Makes values in flights, and stores them. One open cache, one event loop."""

    def __init__(self, layers: Layers, figures: Figures) -> None:
        self._layers = layers
        self._figures = figures
        self.failures = Failures(layers.clock)

    async def fly(self, flight: Flight[Any], wanted: Wanted) -> Any:
        """The body of a flight: the value, made here or found to have been made elsewhere.

        Raises:
            StillOldError: another process is making it, or has failed lately; only with ``wanted.stale``.
            LoadTimeout: beyond the hard timeout.
            Exception: what the loader raised.
        """
        leases = self._layers.leases
        if leases is None:
            return await self._made(flight, wanted, None)
        token, patience = new_token(), self._layers.clock.monotonic() + leases.seconds
        with leases.listen(wanted.key) as waiter:
            while True:
                asked = await leases.ask(wanted.key, token, wanted.mark, patient=wanted.stale)
                if asked.answer == "leads":
                    return await self._made(flight, wanted, leases.lease(wanted.key, token, asked))
                if asked.answer == "none":
                    return await self._made(flight, wanted, None)
                if asked.answer == "found":
                    found = await wanted.find()
                    if found.entry is not None:
                        return found.entry.value
                    wanted = replace(wanted, mark=found.mark)  # it went again, or cannot be read
                    continue
                if wanted.stale:
                    self._still_old(wanted, asked)
                if flight.nested and self._layers.clock.monotonic() >= patience:
                    # Two processes whose loaders need each other's values would wait for ever. Who has the lease
                    # stores; of what is made without it nobody would know whether it is late.
                    flight.current = False
                    return await self._made(flight, wanted, None)
                self._figures.lease_waits += 1
                await waiter.wait(min(asked.seconds, leases.seconds))

    def _still_old(self, wanted: Wanted, asked: Asked) -> NoReturn:
        if asked.answer == "failed":
            self.failures.remember(wanted.key, asked.seconds)
        raise StillOldError

    async def _made(self, flight: Flight[Any], wanted: Wanted, lease: Lease | None) -> Any:
        if lease is None:
            return await self._load(flight, wanted, None)
        keeping = asyncio.create_task(lease.keep(), name="aioinfra-cache-lease")
        try:
            return await self._load(flight, wanted, lease)
        finally:
            await completed(self._end(keeping, lease, wanted))

    async def _end(self, keeping: asyncio.Task[None], lease: Lease, wanted: Wanted) -> None:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        failed_for = wanted.kind.freshness.retry_after if self.failures.recent(wanted.key) else 0.0
        await lease.release(failed_for)

    async def _load(self, flight: Flight[Any], wanted: Wanted, lease: Lease | None) -> Any:
        figures, kind, layers = self._figures, wanted.kind, self._layers
        era, generation = layers.store.era, kind.envelope.generation.value
        tags: Tags = await layers.tags.ensure(wanted.tags, kind.longest) if wanted.tags else ()
        created, started = layers.epoch.now(), layers.clock.monotonic()
        figures.loads += 1
        try:
            value = await self._within(wanted)
        except BaseException as error:
            figures.load_errors += 1
            figures.done("load", "error", started)
            if isinstance(error, kind.errors) and flight.current:
                stamp = kind.stamp(FAILED, created, 0.0, tags, generation)
                await self._remember(wanted.key, error, kind, stamp, lease)
            elif isinstance(error, Exception):
                self.failures.remember(wanted.key, kind.freshness.retry_after)
            raise
        self.failures.remember(wanted.key, 0.0)
        figures.done("load", "ok", started)
        took = layers.clock.monotonic() - started
        if not flight.current:
            figures.late += 1
            return value
        stamp = kind.stamp(value, created, took, tags, generation)
        data = kind.envelope.seal(value, stamp)
        await self._store(wanted.key, data, kind.keep_for(stamp), lease, era)
        return value

    async def _within(self, wanted: Wanted) -> Any:
        """The loader's value, within the hard timeout."""
        limit = wanted.kind.freshness.hard_timeout
        if limit is None:
            return await begun(wanted.load)
        try:
            async with asyncio.timeout(limit) as scope:
                return await begun(wanted.load)
        except TimeoutError:
            if not scope.expired():
                raise
            raise LoadTimeout(f"the loader took longer than its hard timeout of {limit:g} s") from None

    async def _store(
        self, key: str, data: bytes, ttl: float | None, lease: Lease | None, era: int | None
    ) -> None:
        """Store what was made; its caller has the value in any case."""
        now = self._layers.store.era
        try:
            if now is not None and lease is not None:
                await self._store_leased(key, data, ttl, lease)
            elif (now is None and not self._layers.store.returning) or (now is not None and now == era):
                await self.put(key, data, ttl)
            else:  # made in an outage that is over, or about to be: nobody knows what others changed meanwhile
                self._figures.late += 1
                await self._forsake(key)
        except (StoreError, Overloaded):
            self._figures.not_stored += 1

    async def _store_leased(self, key: str, data: bytes, ttl: float | None, lease: Lease) -> None:
        near = self._layers.near
        if near is not None:
            near.changed([key])
        try:
            if await lease.store(data, ttl):
                self._figures.sets += 1
            else:
                self._figures.late += 1
        except StoreFull:
            await self.put(key, data, ttl)  # which knows what to do then
        except StoreUnavailable:
            # Unknown whether it is stored, or late. Never again without the lease, unless memory is to keep it.
            with contextlib.suppress(StoreUnavailable):
                await self._layers.store.ping()
            if self._layers.store.era is not None or self._layers.store.returning:
                await self._forsake(key)
                raise
            await self.put(key, data, ttl)
        finally:
            if near is not None:
                near.changed([key])

    async def _forsake(self, key: str) -> None:
        """Remove what is stored: it may be older than what the load's caller gets, and a miss never is.

        Its lease goes too, so that a store that is still under way comes to nothing.
        """
        near, leases = self._layers.near, self._layers.leases
        if near is not None:
            near.changed([key])
        try:
            await self._layers.store.delete([key], [] if leases is None else [leases.lease_key(key)])
        finally:
            if near is not None:
                near.changed([key])

    async def put(self, key: str, data: bytes, ttl: float | None) -> None:
        """Write sealed bytes.

        Raises:
            StoreFull: the server takes no more; an older value under the key is gone too.
            StoreError: not stored, or perhaps.
        """
        store, near = self._layers.store, self._layers.near
        if near is not None:
            near.changed([key])
        try:
            await store.set(key, data, ttl)
        except StoreFull:
            await store.delete([key])  # the older value would live on as if it were current
            raise
        finally:
            if near is not None:
                near.changed([key])
        self._figures.sets += 1

    async def _remember(
        self, key: str, error: Exception, kind: Kind, stamp: Stamp, lease: Lease | None
    ) -> None:
        """Store a failure; one whose arguments are not plain JSON is only counted."""
        try:
            data = kind.envelope.seal_failure(class_name(type(error)), error.args, stamp)
        except EncodeError:
            self._figures.not_stored += 1
        else:
            await self._store(key, data, kind.error_ttl, lease, self._layers.store.era)


def begun(load: Load) -> Awaitable[Any]:
    """What a loader gives to await.

    Raises:
        InvalidArgument: not an async function.
    """
    if not callable(load):
        raise InvalidArgument("load", f"must be an async function, not {type(load).__name__}")
    loading: object = load()
    if not inspect.isawaitable(loading):
        raise InvalidArgument("load", "must be an async function: what it gave cannot be awaited")
    return loading
