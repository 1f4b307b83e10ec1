"""Time as a value that can be handed in: everything that waits or stamps asks a Clock."""

from __future__ import annotations

import asyncio
from time import monotonic, time
from typing import Protocol


class Clock(Protocol):
    """Two readings and one wait. Implementations: SystemClock, and the virtual clock of the test kit."""

    def time(self) -> float:
        """Seconds since the epoch. May jump; only for stamps that leave the process."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back. For every duration, TTL and deadline inside the process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; at once (but through the loop) when it is not positive."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    # Bound directly: a TTL check on the cache's hot path pays for no extra call.
    time = staticmethod(time)
    monotonic = staticmethod(monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


SYSTEM_CLOCK: Clock = SystemClock()
