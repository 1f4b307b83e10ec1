"""What the engine tells whoever measures it. Calls come from the event loop and must not block or raise."""

from __future__ import annotations

from typing import Protocol


class JobObserver(Protocol):
    """Satisfied structurally by the metrics."""

    def enqueued(self, queue: str, task: str) -> None:
        """A job was stored."""
        ...

    def claimed(self, queue: str, count: int) -> None:
        """One claim call brought this many jobs of a queue."""
        ...

    def started(self, queue: str, task: str, waited: float) -> None:
        """A job starts, ``waited`` seconds after it was due."""
        ...

    def finished(self, queue: str, task: str, outcome: str, seconds: float) -> None:
        """A run ended: succeeded, failed, retried, dead, aborted or released."""
        ...

    def recorded(self, count: int, seconds: float) -> None:
        """One finish batch was stored; its round trip in seconds."""
        ...

    def store_error(self, step: str) -> None:
        """The store failed at a step: enqueue, claim, finish, lease or wake."""
        ...

    def depth(self, queue: str, waiting: int) -> None:
        """Members that a queue was seen to have."""
        ...

    def slots(self, running: int, limit: int) -> None:
        """How many jobs run here, and how many may."""
        ...


class SilentObserver:
    """Observes nothing."""

    __slots__ = ()

    def enqueued(self, queue: str, task: str) -> None: ...

    def claimed(self, queue: str, count: int) -> None: ...

    def started(self, queue: str, task: str, waited: float) -> None: ...

    def finished(self, queue: str, task: str, outcome: str, seconds: float) -> None: ...

    def recorded(self, count: int, seconds: float) -> None: ...

    def store_error(self, step: str) -> None: ...

    def depth(self, queue: str, waiting: int) -> None: ...

    def slots(self, running: int, limit: int) -> None: ...
