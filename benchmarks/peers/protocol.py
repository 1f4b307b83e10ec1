"""What a contestant's module provides: a class per benchmark family. Called only inside its own process."""

from __future__ import annotations

from collections.abc import Mapping
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

    async def close(self) -> None: ...


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
