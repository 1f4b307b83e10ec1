"""The thread that looks at an event loop's stack while the loop is blocked.

    tick (the loop's thread)                     watchdog (its own thread)
    due = when the next tick should run   <----  sleeps until due + threshold; a loop that ticks moves it on
    a late tick: (due, lag) -> ended, wake ---->  names what it saw while that tick was late

Nothing is locked: `Beat.due` is one float that only the tick writes, and a deque is safe to hand over.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Final

from aioinfra.clock import SYSTEM_CLOCK
from aioinfra.metrics.loop_lag_stack import UNKNOWN, Stack, stack_of

STILL_BLOCKED_AFTER: Final = 1.0
"""Seconds after which a block is told of although it has not ended: it may be for ever."""
_MOST_ENDED: Final = 100

logger = logging.getLogger("aioinfra.loop")


@dataclass(frozen=True, slots=True)
class Blocked:
    """A time in which the event loop did not run what was due.

    Attributes:
        seconds: how late it became. The block itself was up to one tick's interval longer.
        stack: what it was doing.
        ended: False while it goes on.
    """

    seconds: float
    stack: Stack
    ended: bool


@dataclass(slots=True)
class Beat:
    """What the tick and the watchdog share.

    Attributes:
        due: when the next tick should run; `Clock.monotonic`. Written by the tick alone.
        caller: what calls the loop's callbacks; written by the tick alone.
        not_running: the ``due`` at which the loop was found to be stopped; written by the watchdog alone.
        ended: ``due`` and lag of ticks that were late, for the watchdog.
    """

    due: float
    caller: CodeType
    not_running: float | None = None
    ended: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_ENDED))
    wake: threading.Event = field(default_factory=threading.Event)
    stopping: bool = False


class Watchdog:
    """Looks at a loop's thread whenever a tick is late. A daemon: it never keeps a process from its end.

    Args:
        beat: of the loop's tick.
        threshold: seconds of lag from which the loop is blocked.
        frames: most frames in a stack.
        tell: called in this thread, of a block that has lasted for long and of each one that has ended.
    """

    def __init__(self, beat: Beat, threshold: float, frames: int, tell: Callable[[Blocked], None]) -> None:
        self._beat = beat
        self._threshold = threshold
        self._frames = frames
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._seen: tuple[float, Stack] | None = None
        self._told_still = False
        self._thread = threading.Thread(target=self._run, name="aioinfra-loop-watchdog", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Tell of what has ended, and end the thread; wait for it, at most ``timeout`` seconds."""
        self._beat.stopping = True
        self._beat.wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        beat = self._beat
        while not beat.stopping and not self._loop.is_closed():
            SYSTEM_CLOCK.wait(beat.wake, self._until())
            beat.wake.clear()
            try:
                self._turn()
            except Exception:
                logger.exception("the watchdog of the event loop failed at a turn")
        self._tell_ended()

    def _until(self) -> float:
        """Seconds to the next turn; a late tick wakes it before."""
        late = SYSTEM_CLOCK.monotonic() - self._beat.due
        if late < self._threshold:
            return self._threshold - late
        return max(
            self._threshold, STILL_BLOCKED_AFTER - late
        )  # and again, lest a closed loop keep the thread

    def _turn(self) -> None:
        self._tell_ended()
        due = self._beat.due
        late = SYSTEM_CLOCK.monotonic() - due
        if late < self._threshold or self._beat.stopping:
            return
        if not self._loop.is_running():  # between two `run_until_complete`, nothing is due
            self._beat.not_running = due
            return
        is_new = self._seen is None or self._seen[0] != due
        if is_new or (late >= STILL_BLOCKED_AFTER and not self._told_still):
            self._look(due, late)

    def _look(self, due: float, late: float) -> None:
        stack = stack_of(self._watched, self._beat.caller, self._frames)
        if self._beat.due != due:  # it went on meanwhile: this is of whatever came after
            return
        self._seen = (due, stack)
        self._told_still = late >= STILL_BLOCKED_AFTER
        if self._told_still:
            self._tell(Blocked(late, stack, ended=False))

    def _tell_ended(self) -> None:
        ended = self._beat.ended
        while ended:
            due, lag = ended.popleft()
            stack = self._seen[1] if self._seen is not None and self._seen[0] == due else Stack(UNKNOWN)
            self._tell(Blocked(lag, stack, ended=True))
