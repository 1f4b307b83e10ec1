"""Reading through the cache: the stored value, else the loader's, loaded once for all who wait.

    the key is being loaded      join that flight
    store.get: found             open the envelope and return, or raise the failure that was stored
    store.get: not found         start a flight: loader -> seal -> store.set, unless it was invalidated meanwhile

An error of the store is raised to the caller of a read (there is no fallback, or it is no outage). An error
of storing what was loaded is counted and the value returned: the caller asked for the value.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from aioinfra.cache.figures import Figures
from aioinfra.cache.flight import Flight, Flights
from aioinfra.cache.kind import Kind, class_name
from aioinfra.cache.store import MISS, Store
from aioinfra.clock import Clock
from aioinfra.codec.envelope import StoredFailureError
from aioinfra.codec.layout import Stamp
from aioinfra.errors import (
    DecodeError,
    EncodeError,
    InvalidArgument,
    Overloaded,
    StoreError,
    StoreFull,
    WrongType,
)

Load = Callable[[], Awaitable[Any]]


class ReadThrough:
    """Reads, loads and writes single values of one open cache. Owns its flights."""

    def __init__(self, store: Store, figures: Figures, clock: Clock) -> None:
        self.store = store
        self._figures = figures
        self._clock = clock
        self._now = clock.monotonic
        self.flights = Flights()

    async def get(self, key: str, kind: Kind) -> Any:
        """The stored value, or MISS. One round trip, shared with whoever reads at the same time.

        Raises:
            StoreError: the store could not answer.
            Exception: one of ``kind.errors``, stored by an earlier load.
        """
        figures = self._figures
        started = self._now() if figures.observer is not None else 0.0
        try:
            data = await self.store.get(key)
        except WrongType:
            figures.wrong_type += 1
            data = None
        except StoreError:
            figures.done("get", "error", started)
            raise
        try:
            value = MISS if data is None else self.opened(data, kind)
        except kind.errors:
            figures.hits += 1
            figures.read_one(hit=True, started=started)
            raise
        if value is MISS:
            figures.misses += 1
        else:
            figures.hits += 1
        if figures.observer is not None:
            figures.read_one(hit=value is not MISS, started=started)
        return value

    def opened(self, data: bytes, kind: Kind) -> Any:
        """The value in stored bytes; MISS, counted, when they cannot be read. Raises a stored failure."""
        try:
            return kind.envelope.open(data)
        except StoredFailureError as failure:
            error = kind.rebuilt(failure)
            if error is None:
                return MISS
            raise error from None
        except DecodeError:
            self._figures.undecodable += 1
            return MISS

    async def get_or_load(self, key: str, load: Load, kind: Kind) -> Any:
        """The stored value, else the value of ``load``.

        Raises:
            StoreError: the store could not be read.
            EncodeError: the loaded value cannot be stored.
            InvalidArgument: ``load`` is no async function.
            Exception: what ``load`` raised.
        """
        flights = self.flights
        if key not in flights:
            landed = flights.landed
            value = await self.get(key, kind)
            if value is not MISS:
                return value
            if flights.landed != landed:
                return await flights.run(key, lambda flight: self._look_again(flight, key, load, kind))
        return await flights.run(key, lambda flight: self._load(flight, key, load, kind))

    async def refresh(self, key: str, load: Load, kind: Kind) -> Any:
        """Load anew whatever is stored, in a flight of its own; raises as `get_or_load`."""
        self.flights.forget(key)
        return await self.flights.run(key, lambda flight: self._load(flight, key, load, kind))

    async def set(self, key: str, value: Any, kind: Kind, compute_time: float = 0.0) -> None:
        """Seal and store.

        Raises:
            EncodeError: before any I/O.
            StoreFull: the server takes no more; an older value under the key is gone too.
            StoreError: otherwise not stored, or perhaps.
        """
        data = self.sealed(value, kind, compute_time)
        await self._put(key, data, kind.ttl if value is not None else kind.none_ttl)

    async def _put(self, key: str, data: bytes, ttl: float | None) -> None:
        try:
            await self.store.set(key, data, ttl)
        except StoreFull:
            await self.store.delete([key])  # the older value would live on as if it were current
            raise
        self._figures.sets += 1

    def sealed(self, value: Any, kind: Kind, compute_time: float = 0.0) -> bytes:
        """The stored form of a value, created now. Raises EncodeError."""
        ttl = kind.ttl if value is not None else kind.none_ttl
        now = self._clock.time()
        return kind.envelope.seal(value, Stamp(now, 0.0 if ttl is None else now + ttl, compute_time))

    async def _look_again(self, flight: Flight[Any], key: str, load: Load, kind: Kind) -> Any:
        """Another flight ended while this reader waited for its answer: it may have stored the value."""
        value = await self.get(key, kind)
        return value if value is not MISS else await self._load(flight, key, load, kind)

    async def _load(self, flight: Flight[Any], key: str, load: Load, kind: Kind) -> Any:
        figures = self._figures
        started = self._now()
        figures.loads += 1
        try:
            value = await _begun(load)
        except BaseException as error:
            figures.load_errors += 1
            figures.done("load", "error", started)
            if isinstance(error, kind.errors) and flight.current:
                await self._remember(key, error, kind)
            raise
        figures.done("load", "ok", started)
        if flight.current:
            try:
                await self.set(key, value, kind, self._now() - started)
            except (StoreError, Overloaded):
                figures.not_stored += 1
        return value

    async def _remember(self, key: str, error: Exception, kind: Kind) -> None:
        """Store a failure; one whose arguments are not plain JSON is only counted."""
        now = self._clock.time()
        ttl = kind.error_ttl
        try:
            expires = 0.0 if ttl is None else now + ttl
            data = kind.envelope.seal_failure(class_name(type(error)), error.args, Stamp(now, expires))
            await self._put(key, data, ttl)
        except (EncodeError, StoreError, Overloaded):
            self._figures.not_stored += 1


def _begun(load: Load) -> Awaitable[Any]:
    if not callable(load):
        raise InvalidArgument("load", f"must be an async function, not {type(load).__name__}")
    loading: object = load()
    if not inspect.isawaitable(loading):
        raise InvalidArgument("load", "must be an async function: what it gave cannot be awaited")
    return loading
