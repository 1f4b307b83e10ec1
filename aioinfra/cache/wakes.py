"""Waiting for a change of a key that another process makes, woken by its invalidation instead of by asking.

While invalidations are not heard, a wait is cut into pieces that grow, so that its caller looks again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

FIRST_LOOK: Final = 0.02
LAST_LOOK: Final = 0.5
"""Seconds between two looks while nothing is heard: the first, and the longest."""


class Waiter:
    """One who waits for a key; made by `Wakes.listen` before the look that finds a reason to wait."""

    __slots__ = ("_future", "_key", "_looks", "_wakes")

    def __init__(self, wakes: Wakes, key: str) -> None:
        self._wakes = wakes
        self._key = key
        self._looks = 0
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        self._wakes.waiters.setdefault(self._key, set()).add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waiters = self._wakes.waiters.get(self._key)
        if waiters is not None:
            waiters.discard(self)
            if not waiters:
                del self._wakes.waiters[self._key]

    def wake(self) -> None:
        """End the wait, or the next one."""
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout: float) -> bool:
        """Return when the key may have changed (True), or after ``timeout`` seconds at most."""
        if not self._wakes.heard():
            timeout = min(timeout, LAST_LOOK, FIRST_LOOK * 2**self._looks)
            self._looks = min(self._looks + 1, 10)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._future)
        woken = self._future.done()
        if woken:
            self._future = asyncio.get_running_loop().create_future()
        return woken


class Wakes:
    """Who waits for which key. One event loop.

    Args:
        heard: whether changes that others make are heard now.
    """

    __slots__ = ("heard", "waiters")

    def __init__(self, heard: Callable[[], bool]) -> None:
        self.heard = heard
        self.waiters: dict[str, set[Waiter]] = {}

    def listen(self, key: str) -> Waiter:
        """A context in which every change of ``key`` is remembered for the next `Waiter.wait`."""
        return Waiter(self, key)

    def wake(self, key: str) -> None:
        """The key has changed."""
        for waiter in self.waiters.get(key, ()):
            waiter.wake()

    def wake_all(self) -> None:
        """Any key may have changed."""
        for waiters in self.waiters.values():
            for waiter in waiters:
                waiter.wake()
