"""Seconds since the epoch by the server's clock, so that what one process stamps another can judge.

The offset is asked for once per connection to the server and kept against the monotonic clock: a jump of this
machine's clock changes nothing.
"""

from __future__ import annotations

from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.connection.pool import RedisClient


class Epoch:
    """This machine's time, until `learn` has asked a server.

    Args:
        clock: a clock other than the system's is never corrected: a virtual one rules.
    """

    __slots__ = ("_clock", "_offset")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        offset = self._offset
        return self._clock.time() if offset is None else self._clock.monotonic() + offset

    async def learn(self, client: RedisClient, deadline: float) -> None:
        """Ask the server; one round trip, half of which is taken for the way back. Raises StoreError."""
        if self._clock is not SYSTEM_CLOCK:
            return
        before = self._clock.monotonic()
        seconds, microseconds = await client.execute("TIME", deadline=deadline)
        middle = (before + self._clock.monotonic()) / 2
        self._offset = int(seconds) + int(microseconds) / 1e6 - middle
