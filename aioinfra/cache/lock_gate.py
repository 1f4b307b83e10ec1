"""Who of this process may ask for a lock: one at a time, in order of coming."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator


class Gate:
    """The waiters of this process for one lock: one asks the store, the others wait for their turn."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def enter(self, deadline: float | None) -> bool:
        """Wait for one's turn until the loop's time ``deadline``; whether it came. Then `leave`."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._turn.acquire()  # does not suspend when nobody is before us
        except TimeoutError:
            return False

    def leave(self) -> None:
        """Let the next one have its turn."""
        self._turn.release()


class Gates:
    """The gates of all locks that somebody is taking. One event loop.

    Attributes:
        idle: set while nobody takes a lock.
    """

    __slots__ = ("_gates", "idle")

    def __init__(self) -> None:
        self._gates: dict[str, tuple[Gate, int]] = {}  # with the number of their users
        self.idle = asyncio.Event()
        self.idle.set()

    def __iter__(self) -> Iterator[str]:
        """The keys of the locks that somebody is taking."""
        return iter(list(self._gates))

    def take(self, key: str) -> Gate:
        """The gate of a lock, for one more user, who calls `drop`."""
        gate, users = self._gates.get(key) or (Gate(), 0)
        self._gates[key] = gate, users + 1
        self.idle.clear()
        return gate

    def drop(self, key: str) -> None:
        """One user less."""
        gate, users = self._gates.pop(key)
        if users > 1:
            self._gates[key] = gate, users - 1
        elif not self._gates:
            self.idle.set()
