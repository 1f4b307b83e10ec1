"""Time as a value that can be handed in: everything that waits or stamps asks a Clock."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic, time
from typing import Protocol, runtime_checkable


class Clock(Protocol):
    """Two readings and a wait. Implementations: SystemClock, and the virtual clock of the test kit."""

    def time(self) -> float:
        """Seconds since the epoch. May jump; only for stamps that leave the process."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back. For every duration, TTL and deadline inside the process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; at once (but through the loop) when it is not positive."""
        ...


class ThreadClock(Clock, Protocol):
    """A clock that threads can wait by, too."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block the thread until the event is set, at most ``seconds``; whether it is set."""
        ...


@runtime_checkable
class ServerClock(Protocol):
    """A clock that also rules a server's time: what the server's own clock would say is asked of it."""

    def server_ms(self) -> int:
        """Unix milliseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    # Bound directly: a TTL check on the cache's hot path pays for no extra call.
    time = staticmethod(time)
    monotonic = staticmethod(monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


SYSTEM_CLOCK: ThreadClock = SystemClock()
