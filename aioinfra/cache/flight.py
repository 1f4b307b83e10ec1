"""Single flight: while a value is being loaded, everyone who wants it waits for that one load.

The flight owns its task. Its callers wait behind a shield, so a cancelled caller, the first one included,
ends nothing but its own wait: the others get the value of that one load.

An invalidation (`forget`) takes the flight out of the register: later callers start a new one, and the old
one learns from `Flight.current` that its value is late and must not be stored.

Loads that wait for each other would wait for ever: a loader that asks, through whatever others, for a value that
waits for its own is refused with LifecycleError. Each flight knows for which flights its loader waits now, so a
circle is found before it closes.

Callers of one load share one object. Treat cached values as read-only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextvars import Context, ContextVar
from typing import Any, Generic, TypeVar

from aioinfra.errors import LifecycleError

T = TypeVar("T")


class Flight(Generic[T]):
    """One load under way."""

    __slots__ = ("awaited", "current", "for_readers", "key", "nested", "owner", "task")

    def __init__(self, owner: Flights, key: str) -> None:
        self.owner = owner
        self.key = key
        self.awaited: list[Flight[Any]] = []
        """The flights that its loader waits for now; one several times when several of its tasks wait."""
        self.nested = bool(_inside.get())
        """Whether it is for a loader of another value."""
        self.for_readers = True
        """Whether readers wait for it: there is no older value for them."""
        self.current = True
        """Whether the value that comes out is still wanted by the cache."""
        self.task: asyncio.Task[T]

    def waits_for(self, others: Collection[Flight[Any]]) -> bool:
        """Whether it is one of these, or waits for one through any number of others."""
        met: set[Flight[Any]] = set()
        ahead: list[Flight[Any]] = [self]
        while ahead:
            flight = ahead.pop()
            if flight in others:
                return True
            if flight not in met:
                met.add(flight)
                ahead.extend(flight.awaited)
        return False


_inside: ContextVar[tuple[Flight[Any], ...]] = ContextVar("aioinfra_cache_flights", default=())


class Flights:
    """The loads under way, by key. One event loop."""

    __slots__ = ("_by_key", "_tasks", "landed")

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = (
            set()
        )  # also those that were forgotten: they are ended by aclose
        self.landed = 0
        """Flights that have ended. Who saw this change while reading an absence may have missed a store."""

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def is_awaited(self, key: str) -> bool:
        """Whether a load of the key is under way that readers wait for."""
        flight = self._by_key.get(key)
        return flight is not None and flight.for_readers

    def begin(self, key: str, load: Callable[[Flight[T]], Awaitable[T]], *, awaited: bool) -> None:
        """Start a flight that nobody waits for yet; there must be none for the key."""
        self._start(key, load).for_readers = awaited

    def detach(self, work: Coroutine[Any, Any, object]) -> None:
        """Run something to its end beside its caller; `aclose` cancels it. Its error is dropped."""
        task = asyncio.create_task(work, name="aioinfra-cache-work", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._detached)

    def _detached(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def run(self, key: str, load: Callable[[Flight[T]], Awaitable[T]]) -> T:
        """The value of the flight under way for ``key``, else of a new one that runs ``load``.

        Raises:
            LifecycleError: the flight was cancelled by `aclose`, or waits for itself, or for one that waits for it.
            Exception: what ``load`` raised.
        """
        loading = [flight for flight in _inside.get() if not flight.task.done()]
        flight = self._by_key.get(key)
        if loading:
            self._check(key, flight, loading)
        if flight is None:
            flight = self._start(key, load)
        waiting = loading[-1].awaited if loading else None
        if waiting is not None:
            waiting.append(flight)
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.task.cancelled() and not _being_cancelled():
                raise LifecycleError("the load was cancelled") from None
            raise
        finally:
            if waiting is not None:
                waiting.remove(flight)

    def _check(self, key: str, flight: Flight[Any] | None, loading: Sequence[Flight[Any]]) -> None:
        """Refuse to wait for ``key`` inside of these loads when that wait could not end."""
        # By key: after an invalidation its load would be a new one each time, without an end.
        if any(outer.key == key and outer.owner is self for outer in loading):
            raise LifecycleError("a loader waits for its own value: it asked for the key that it is loading")
        if flight is not None and flight.waits_for(loading):
            raise LifecycleError(
                "loaders wait for each other's values: one asked for a key whose load waits for it"
            )

    def forget(self, key: str) -> None:
        """The value being loaded is late from now on; who waits for it still gets it."""
        flight = self._by_key.pop(key, None)
        if flight is not None:
            flight.current = False

    def forget_all(self) -> None:
        """`forget` for every key."""
        for flight in self._by_key.values():
            flight.current = False
        self._by_key.clear()

    async def aclose(self) -> None:
        """Cancel every load and wait for their ends."""
        self.forget_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: str, load: Callable[[Flight[T]], Awaitable[T]]) -> Flight[T]:
        flight: Flight[T] = Flight(self, key)
        flight.task = asyncio.create_task(self._fly(flight, load), name="aioinfra-cache-load")
        self._by_key[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda task: self._land(key, flight, task))
        return flight

    async def _fly(self, flight: Flight[T], load: Callable[[Flight[T]], Awaitable[T]]) -> T:
        _inside.set((*_inside.get(), flight))  # in the task's own context
        return await load(flight)

    def _land(self, key: str, flight: Flight[T], task: asyncio.Task[T]) -> None:
        self.landed += 1
        self._tasks.discard(task)
        if self._by_key.get(key) is flight:
            del self._by_key[key]
        if not task.cancelled():
            task.exception()  # retrieved: when every caller has gone, nobody else will


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
