"""A clock for promises about time, on a machine that may have none left for the test."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from weakref import WeakKeyDictionary

_TICK: Final = 0.005


class _Lateness:
    """How late the timers of a loop fire, in sum.

    What the thread itself has computed meanwhile is not counted, so that code which holds up its loop by computing
    still fails its promise. The timer ends with its loop.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._arm()

    def sum(self) -> float:
        return self._sum + max(0.0, time.monotonic() - self._due - (time.thread_time() - self._computed))

    def _arm(self) -> None:
        self._due = time.monotonic() + _TICK
        self._computed = time.thread_time()
        asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._sum = self.sum()
        self._arm()


# A value must not refer to its loop, which would keep both for ever.
_LATENESS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lateness] = WeakKeyDictionary()


def fair_time() -> float:
    """Seconds since some point, less those in which the machine did not let the running loop run.

    For upper bounds: compare two answers within one test. Lower bounds are for `time.monotonic`.
    """
    loop = asyncio.get_running_loop()
    if loop not in _LATENESS:
        _LATENESS[loop] = _Lateness()
    return time.monotonic() - _LATENESS[loop].sum()


class Stopwatch:
    """How long something takes, from here on."""

    def __init__(self) -> None:
        self._real = time.monotonic()
        self._fair = fair_time()

    def shows(self, least: float, below: float) -> bool:
        """Whether so many seconds have passed: at least, and without what the machine kept from the loop, below."""
        return time.monotonic() - self._real >= least and fair_time() - self._fair < below
