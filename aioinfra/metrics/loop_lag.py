"""How late an event loop runs what is due, and who blocked it.

A tick every 50 ms measures the lag and costs a few microseconds. A thread of its own looks at the loop's stack as
soon as a tick is overdue by 100 ms: so a blocking call is named while it blocks, which the loop never could.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from aioinfra.clock import SYSTEM_CLOCK
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import LifecycleError
from aioinfra.metrics.loop_lag_stack import THE_LOOP, UNKNOWN, Stack
from aioinfra.metrics.loop_lag_watchdog import Beat, Blocked, Watchdog
from aioinfra.metrics.registry import MetricsRegistry

__all__ = ["THE_LOOP", "UNKNOWN", "Blocked", "LoopLag", "LoopLagOptions", "Stack"]

_STOP_TIMEOUT: Final = 1.0

logger = logging.getLogger("aioinfra.loop")


@dataclass(frozen=True, slots=True)
class LoopLagOptions:
    """How an event loop is watched.

    Attributes:
        interval: seconds between two ticks.
        threshold: seconds of lag from which the loop counts as blocked. A call that blocks it for longer than
            ``interval + threshold`` is always noticed, one shorter than ``threshold`` never.
        frames: most frames of a stack that are kept and logged.
        log_interval: least seconds between two lines in the log; 0: a line for each block.

    Raises:
        InvalidArgument: naming the attribute.
    """

    interval: float = 0.05
    threshold: float = 0.1
    frames: int = 10
    log_interval: float = 10.0

    def __post_init__(self) -> None:
        check_number("interval", self.interval, 0.001, 60)
        check_number("threshold", self.threshold, 0.001, 60)
        check_whole("frames", self.frames, 1, 1_000)
        check_number("log_interval", self.log_interval, 0, 86_400)


DEFAULT_OPTIONS: Final = LoopLagOptions()


class LoopLag:
    """Watches the loop in which it is started: ``async with LoopLag(registry): ...``

    A lag goes into ``aioinfra_loop_lag_seconds``; a block into ``aioinfra_loop_blocked_total`` and
    ``aioinfra_loop_blocked_seconds_total`` by culprit, and as a line of the logger ``aioinfra.loop``: a warning, or
    info when there is nobody to blame. Times in which the loop is stopped do not count. In a forked child it does
    nothing; what opens there starts its own.

    Args:
        registry: where the metrics are.
        options: see `LoopLagOptions`.
    """

    def __init__(self, registry: MetricsRegistry, options: LoopLagOptions = DEFAULT_OPTIONS) -> None:
        self._options = options
        self._lag = registry.histogram("aioinfra_loop_lag_seconds").labels()
        self._blocked = registry.counter("aioinfra_loop_blocked_total")
        self._blocked_seconds = registry.counter("aioinfra_loop_blocked_seconds_total")
        self._watchdog: Watchdog | None = None
        self._last: Blocked | None = None
        self._said_at: float | None = None
        self._unsaid = 0

    @property
    def last_blocked(self) -> Blocked | None:
        """The latest block; None when there was none."""
        return self._last

    def start(self) -> None:
        """Watch the running loop.

        Raises:
            LifecycleError: it is started already.
            RuntimeError: no event loop is running.
        """
        if self._watchdog is not None:
            raise LifecycleError("LoopLag: it is started already")
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._beat = Beat(SYSTEM_CLOCK.monotonic(), asyncio.Handle._run.__code__)  # noqa: SLF001 - until a tick knows
        self._handle: asyncio.Handle = self._loop.call_soon(self._tick)
        self._watchdog = Watchdog(self._beat, self._options.threshold, self._options.frames, self._tell)

    async def aclose(self) -> None:
        """Watch no longer; what has ended so far is counted. Waits for the thread, at most a second."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        self._handle.cancel()
        if self._pid == os.getpid():  # a forked child has no such thread, and perhaps its lock, taken
            await asyncio.to_thread(watchdog.stop, _STOP_TIMEOUT)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # In the loop's thread

    def _tick(self) -> None:
        now, beat = SYSTEM_CLOCK.monotonic(), self._beat
        due, lag = beat.due, now - beat.due
        interval = self._options.interval
        beat.due = now + interval  # first: what is seen from now on is not of this lag
        beat.caller = sys._getframe(1).f_code  # noqa: SLF001 - documented; `inspect` reads source files
        self._handle = self._loop.call_later(interval, self._tick)
        if lag >= self._options.threshold:
            self._late(due, lag)
        else:
            self._lag.observe(lag if lag > 0 else 0.0)  # uvloop's timers keep whole milliseconds

    def _late(self, due: float, lag: float) -> None:
        beat = self._beat
        if beat.not_running != due:
            self._lag.observe(lag)
            beat.ended.append((due, lag))
        if self._pid == os.getpid():
            beat.wake.set()

    # In the watchdog's thread

    def _tell(self, blocked: Blocked) -> None:
        self._last = blocked
        if blocked.ended:
            self._blocked.labels(blocked.stack.culprit).inc()
            self._blocked_seconds.labels(blocked.stack.culprit).add(blocked.seconds)
        now = SYSTEM_CLOCK.monotonic()
        if self._said_at is not None and now - self._said_at < self._options.log_interval:
            self._unsaid += 1
            return
        unsaid, self._said_at, self._unsaid = self._unsaid, now, 0
        named = blocked.stack.culprit not in (THE_LOOP, UNKNOWN)
        logger.log(logging.WARNING if named else logging.INFO, "%s", _line(blocked, unsaid))


def _line(blocked: Blocked, unsaid: int) -> str:
    state = "was" if blocked.ended else "has been, and still is,"
    more = f" ({unsaid} more since the last line)" if unsaid else ""
    where = f"; innermost first: {' < '.join(blocked.stack.frames)}" if blocked.stack.frames else ""
    return (
        f"the event loop {state} blocked for {blocked.seconds:.3f} s by {blocked.stack.culprit}{more}{where}"
    )
