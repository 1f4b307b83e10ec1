"""Single flight: while a value is being loaded, everyone who wants it waits for that one load.

The flight owns its task. Its callers wait behind a shield, so a cancelled caller, the first one included,
ends nothing but its own wait: the others get the value of that one load.

An invalidation (`forget`) takes the flight out of the register: later callers start a new one, and the old
one learns from `Flight.current` that its value is late and must not be stored.

Callers of one load share one object. Treat cached values as read-only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from aioinfra.errors import LifecycleError

T = TypeVar("T")


class Flight(Generic[T]):
    """One load under way."""

    __slots__ = ("current", "task")

    def __init__(self) -> None:
        self.current = True
        """Whether the value that comes out is still wanted by the cache."""
        self.task: asyncio.Task[T]


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

    async def run(self, key: str, load: Callable[[Flight[T]], Awaitable[T]]) -> T:
        """The value of the flight under way for ``key``, else of a new one that runs ``load``.

        Raises:
            LifecycleError: the flight was cancelled by `aclose`, or waits for itself.
            Exception: what ``load`` raised.
        """
        flight = self._by_key.get(key) or self._start(key, load)
        if flight in _inside.get():
            raise LifecycleError("a loader waits for its own value: it asked for the key that it is loading")
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.task.cancelled() and not _being_cancelled():
                raise LifecycleError("the load was cancelled") from None
            raise

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
        flight: Flight[T] = Flight()
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
