"""What a contestant's module provides: a class per benchmark family. Called only inside its own process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol


class CachePeer(Protocol):
    """A client that stores values and gets them back decoded."""

    async def open(self) -> None: ...

    async def store(self, values: Mapping[str, Any]) -> None:
        """Write every value under its key, in this contestant's own encoding."""
        ...

    async def get(self, key: str) -> Any:
        """The decoded value. This is what is measured."""
        ...

    async def put(self, key: str, value: Any) -> None:
        """Write one value for an hour."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        """The decoded values in the order of the keys, in one round trip.

        Raises:
            NotImplementedError: this contestant cannot.
        """
        ...

    async def close(self) -> None: ...


class LocalPeer(Protocol):
    """A cache within the process. A method that raises NotImplementedError is something it does not have."""

    def lookup(self, values: Mapping[str, Any], capacity: int) -> Callable[[str], Any]:
        """A new cache with these values; its own method that returns one. The call is what is measured."""
        ...

    def store(self, capacity: int) -> Callable[[str, Any], Any]:
        """A new cache; its own method that stores a value under a key, making room for it."""
        ...

    async def decorate(
        self, function: Callable[[str], Coroutine[Any, Any, Any]], capacity: int
    ) -> Callable[[str], Coroutine[Any, Any, Any]]:
        """The function with its results kept."""
        ...


class JobPeer(Protocol):
    """A job queue with two jobs.

    ``noop(index)`` calls `report.first` and returns the index. ``stamp(index)`` calls `report.stamp` as its
    first line, then waits if `report.holding` says so, and returns the index.
    """

    def work(self) -> None:
        """Run a worker until SIGTERM, at log level WARNING, keeping results. May replace the process."""
        ...

    async def open(self) -> None: ...

    async def fill(self, count: int) -> None:
        """Enqueue ``noop(0)`` to ``noop(count - 1)``; no worker runs meanwhile."""
        ...

    async def remaining(self) -> int:
        """How many jobs of `fill` have no recorded result yet. One cheap command: it is polled."""
        ...

    async def verify(self, count: int) -> None:
        """Check every result of `fill`.

        Raises:
            WrongAnswerError: one is missing or wrong.
        """
        ...

    async def enqueue(self, index: int) -> Any:
        """Enqueue ``stamp(index)`` and return what `result` needs."""
        ...

    async def result(self, handle: Any) -> int:
        """Wait for a job's result, the fastest way this contestant is configured for."""
        ...

    async def close(self) -> None: ...
