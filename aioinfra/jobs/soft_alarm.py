"""The soft limit of a process job: SIGALRM, raised as an exception in the main thread."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from aioinfra.jobs.limits import SoftTimeLimit


class SoftAlarm:
    """Raises `SoftTimeLimit` in the main thread, by SIGALRM; never in the middle of a message to the worker."""

    def __init__(self) -> None:
        self._armed = False
        self._held = False
        self._owed = False

    @contextlib.contextmanager
    def after(self, seconds: float | None) -> Iterator[None]:
        """Raise within the block after so many seconds."""
        if seconds is None:
            yield
            return
        signal.signal(signal.SIGALRM, self._ring)
        self._armed, self._owed = True, False
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the limit wait for the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._owed:
            self._owed = False
            raise SoftTimeLimit("the soft limit is over")

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._held:
            self._owed = True
        else:
            raise SoftTimeLimit("the soft limit is over")
