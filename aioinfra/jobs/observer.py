"""What the engine tells whoever measures it. Calls come from the event loop and must not block."""

from __future__ import annotations

import logging
from typing import Any, Protocol

logger = logging.getLogger("aioinfra.jobs")


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


class GuardedObserver:
    """Passes everything on to another observer, whose failures are logged, once a kind, and end here.

    Args:
        observer: whoever measures.
    """

    __slots__ = ("_failed", "_observer")

    def __init__(self, observer: JobObserver) -> None:
        self._observer = observer
        self._failed: set[str] = set()

    def enqueued(self, queue: str, task: str) -> None:
        self._tell("enqueued", queue, task)

    def claimed(self, queue: str, count: int) -> None:
        self._tell("claimed", queue, count)

    def started(self, queue: str, task: str, waited: float) -> None:
        self._tell("started", queue, task, waited)

    def finished(self, queue: str, task: str, outcome: str, seconds: float) -> None:
        self._tell("finished", queue, task, outcome, seconds)

    def recorded(self, count: int, seconds: float) -> None:
        self._tell("recorded", count, seconds)

    def store_error(self, step: str) -> None:
        self._tell("store_error", step)

    def depth(self, queue: str, waiting: int) -> None:
        self._tell("depth", queue, waiting)

    def slots(self, running: int, limit: int) -> None:
        self._tell("slots", running, limit)

    def _tell(self, name: str, *told: Any) -> None:
        try:
            getattr(self._observer, name)(*told)
        except Exception:
            if name not in self._failed:
                self._failed.add(name)
                logger.exception("the observer's %s failed; further failures are not logged", name)


def guarded(observer: JobObserver | None) -> JobObserver:
    """An observer whose failures fail nothing else; one that is silent for None."""
    if observer is None or isinstance(observer, SilentObserver):
        return SilentObserver()
    return GuardedObserver(observer)
