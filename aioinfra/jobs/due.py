"""Ending futures at their own times, whatever whoever is to settle them is doing; one timer for all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

Item = TypeVar("Item")

_SLACK: Final = 0.001  # seconds; what is due so soon ends with what is due now
_STALLED: Final = 0.01  # seconds that the timer is late when the loop was blocked, and that it is then given


class DueTimes(Generic[Item]):
    """Futures in the order in which they are due. Belongs to the loop that it is used on; O(1) a future.

    Args:
        error_of: what a future ends with when its item is due.
    """

    __slots__ = ("_error_of", "_loop", "_timer", "_waiting")

    def __init__(self, error_of: Callable[[Item], BaseException]) -> None:
        self._error_of = error_of
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[float, Item, asyncio.Future[Any]]] = deque()

    def add(self, due: float, item: Item, future: asyncio.Future[Any]) -> None:
        """End ``future`` at ``due`` (monotonic), which may not be before what was added last."""
        loop = future.get_loop()
        if loop is not self._loop:  # what is left of another one: it was closed, and nobody waits there
            self._loop, self._timer = loop, None
            self._waiting.clear()
        self._waiting.append((due, item, future))
        if self._timer is None:
            self._timer = loop.call_later(due - time.monotonic(), self._expire)

    def forget_done(self) -> None:
        """Let go of the oldest futures that have ended."""
        waiting = self._waiting
        while waiting and waiting[0][2].done():
            waiting.popleft()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _expire(self) -> None:
        loop, timer = self._loop, self._timer
        if loop is None or timer is None:
            return
        if loop.time() - timer.when() > _STALLED:
            # The loop stood still, so replies may lie in the sockets unread: a slow process is no dead server.
            self._timer = loop.call_later(_STALLED, self._expire)
            return
        now = time.monotonic() + _SLACK
        waiting = self._waiting
        while waiting and (waiting[0][0] <= now or waiting[0][2].done()):
            _, item, future = waiting.popleft()
            if not future.done():
                future.set_exception(self._error_of(item))
                future.exception()  # counts as retrieved: the caller may have gone without cancelling
        self._timer = loop.call_later(max(0.0, waiting[0][0] - now), self._expire) if waiting else None
