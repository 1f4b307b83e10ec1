"""Time on a string: hours of timers, TTLs, leases and schedules in the time that their work takes.

`VirtualClock` drives the running event loop: `asyncio.sleep`, `asyncio.timeout`, ``call_later`` and everything
built on them, and whatever asks an `aioinfra.clock.Clock`, lease threads included. `VirtualClock.advance` visits
each timer in its order, so that what a timer starts, a second timer for one, happens at its own time too.

    async with VirtualClock() as clock:
        cache = CacheManager(url=None, clock=clock)
        ...
        await clock.advance(3600)

What a server counts by its own clock (a key's expiry) is not driven; `aioinfra` hands the time to its scripts, and
keeps its deadlines in scores, so that jobs are due, leases lapse and schedules tick by this clock.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from aioinfra.errors import AioinfraError, InvalidArgument, LifecycleError

_THREAD_PATIENCE = 5.0
_REAL_PAUSE = 0.001
_MOST_TURNS = 10_000


class NeverCameTrueError(AioinfraError):
    """The time that a condition was given is over."""


class VirtualClock:
    """A `aioinfra.clock.Clock` that stands still until it is told to move. One per event loop.

    Args:
        start: the wall clock's first reading, unix seconds; now by default, so that times which a server or
            another process has written fit in.
        flows: real time passes as well; for programs whose short pauses would otherwise wait for `advance`, such
            as a worker on a real server. Without it readings are exact.

    Raises:
        InvalidArgument: ``start`` is no time.
    """

    def __init__(self, start: float | None = None, *, flows: bool = False) -> None:
        start = time.time() if start is None else start
        _check_wall("start", start)
        self._flows = flows
        self._origin = self._now = time.monotonic()
        self._real = self._origin
        self._start = self._wall = float(start)
        self._loop: Any = None
        self._threads = threading.Condition()
        self._waiting: dict[int, float] = {}  # thread to the time at which it wants to go on
        self._due: set[int] = set()  # threads that were told to go on, and have not come back to wait

    # A Clock

    def time(self) -> float:
        """Unix seconds, by the wall clock that `set_wall` may move."""
        return self._wall + (self.monotonic() - self._origin)

    def server_ms(self) -> int:
        """Unix milliseconds as a server's clock would say: advanced with this one, but not moved by `set_wall`."""
        return int((self._start + (self.monotonic() - self._origin)) * 1000)

    def monotonic(self) -> float:
        """Seconds that never go back; also the loop's time while the clock drives it."""
        if self._flows:
            return self._now + time.monotonic() - self._real
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has been advanced by ``seconds``."""
        self._driven()
        await asyncio.sleep(max(0.0, seconds))

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """In a thread: wait until the event is set or the clock has been advanced; whether it is set."""
        me = threading.get_ident()
        due = self.monotonic() + seconds
        with self._threads:
            self._due.discard(me)
            self._waiting[me] = due
            self._threads.notify_all()
            try:
                while not event.is_set() and self.monotonic() < due:
                    self._threads.wait(_REAL_PAUSE)  # nobody notifies for the event
            finally:
                if me in self._waiting:
                    del self._waiting[me]
        return event.is_set()

    # Driving

    async def __aenter__(self) -> Self:
        loop: Any = asyncio.get_running_loop()
        if self._loop is not None or "time" in vars(loop):
            raise LifecycleError("the event loop is driven by a virtual clock already")
        if not hasattr(loop, "_scheduled") or not hasattr(loop, "_ready"):
            raise LifecycleError("only asyncio's own event loop can be driven, not " + type(loop).__name__)
        self._loop = loop
        loop.time = self.monotonic
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Real time again. Timers that wait by the virtual one fire by the real one, as late as they were to."""
        loop, self._loop = self._loop, None
        behind = self.monotonic() - time.monotonic()
        del loop.time
        for timer in loop._scheduled:  # noqa: SLF001 - all keep their order, so the heap stays one
            timer._when -= behind  # noqa: SLF001 - as above

    async def advance(self, seconds: float, *, patience: float = 0.0) -> None:
        """Move on by ``seconds``, stopping at each timer on the way until what it started has come to rest.

        At rest means that no callback is ready: an answer from a server may still be on its way.
        Threads that wait with `wait` and are due have come back to wait, or ended, when this returns.

        Args:
            seconds: virtual ones.
            patience: real seconds that answers of servers get at each stop, before time outs go on.

        Raises:
            InvalidArgument: time does not go back.
            LifecycleError: the clock does not drive a loop.
        """
        self._driven()
        _check_step(seconds)
        end = self.monotonic() + seconds
        await self._rest()
        while (due := self._next_due()) is not None and due <= end:
            await self._go_to(due)
            if patience:
                await self._holds(lambda: False, patience)
        await self._go_to(end)

    async def jump(self, seconds: float) -> None:
        """Move on by ``seconds`` at once, as a machine that was suspended: what became due fires late, in order.

        Where something polls, such as a worker, this is what skips a day; `advance` would visit each poll.

        Raises:
            InvalidArgument: time does not go back.
            LifecycleError: the clock does not drive a loop.
        """
        self._driven()
        _check_step(seconds)
        await self._go_to(self.monotonic() + seconds)

    async def until(
        self,
        condition: Callable[[], object] | Callable[[], Awaitable[object]],
        *,
        within: float = 3600.0,
        patience: float = 0.05,
    ) -> float:
        """Jump from timer to timer until a condition holds; answers how many virtual seconds that took.

        Args:
            condition: a function or coroutine function; asked after each timer.
            within: virtual seconds after which NeverCameTrueError is raised.
            patience: real seconds that answers of servers get before the clock moves on to the next timer.
        """
        self._driven()
        began = self.monotonic()
        while True:
            if await self._holds(condition, patience):
                return self.monotonic() - began
            due = self._next_due()
            if due is None or due > began + within:
                raise NeverCameTrueError(f"the condition did not hold within {within:g} virtual seconds")
            await self._go_to(due)

    def set_wall(self, timestamp: float) -> None:
        """Let the wall clock jump, as an administrator or NTP does; the monotonic one goes on undisturbed.

        Args:
            timestamp: unix seconds.

        Raises:
            InvalidArgument: it is no time.
        """
        _check_wall("timestamp", timestamp)
        self._wall = timestamp - (self.monotonic() - self._origin)

    # Parts

    def _driven(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise LifecycleError("the clock does not drive this event loop: use it in `async with clock:`")

    def _next_due(self) -> float | None:
        timers = [timer.when() for timer in self._loop._scheduled if not timer.cancelled()]  # noqa: SLF001 - asyncio tells nobody else
        with self._threads:
            timers += self._waiting.values()
        return min(timers, default=None)

    async def _go_to(self, moment: float) -> None:
        if moment > self.monotonic():
            self._now, self._real = moment, time.monotonic()
        with self._threads:
            now = self.monotonic()
            for thread in [thread for thread, due in self._waiting.items() if due <= now]:
                del self._waiting[thread]
                self._due.add(thread)
            self._threads.notify_all()
            called = bool(self._due)
        if called:
            await asyncio.to_thread(self._threads_back)
        await self._rest()

    def _threads_back(self) -> None:
        """Wait, in real time, for the threads that were called; one that has ended does not come back."""
        deadline = time.monotonic() + _THREAD_PATIENCE
        with self._threads:
            while self._due and time.monotonic() < deadline:
                alive = {thread.ident for thread in threading.enumerate()}
                self._due &= alive
                self._threads.wait(_REAL_PAUSE)
            self._due.clear()

    async def _rest(self) -> None:
        """Let everything run that is ready, and what that makes ready."""
        for _ in range(_MOST_TURNS):
            await asyncio.sleep(0)
            if not self._loop._ready:  # noqa: SLF001 - asyncio tells nobody else
                return
        raise LifecycleError("the event loop does not come to rest: something runs again and again")

    async def _holds(
        self, condition: Callable[[], object] | Callable[[], Awaitable[object]], patience: float
    ) -> bool:
        deadline = time.monotonic() + patience
        while True:
            await self._rest()
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return True
            if time.monotonic() >= deadline:
                return False
            # A real pause in which the loop's selector is not blocked by a timer that is far away.
            await asyncio.to_thread(time.sleep, _REAL_PAUSE)


def _check_wall(argument: str, moment: object) -> None:
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment < 1e11:
        raise InvalidArgument(argument, "must be unix seconds")


def _check_step(seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e11:
        raise InvalidArgument("seconds", "must be a number of at least 0")
