"""Time limits of coroutines: the soft one is raised inside, where the job can clean up; the hard one ends it.

A soft limit is thrown in where the coroutine waits. It is a kind of CancelledError, because that is what code that
waits is prepared for: task groups, timeouts and `asyncio.wait_for` end what they have started when one comes, and
``except Exception`` lets it through.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from aioinfra.jobs.eager import resumed

_AGAIN = 0.05
"""Seconds after which a soft limit is tried again that met another cancellation."""


class SoftTimeLimit(asyncio.CancelledError):
    """Raised inside a job that is over its soft limit: catch it to clean up before the hard limit.

    A job that lets it out ends with TimeoutError, which its retry policy judges as any other error.
    """


def soft_timeout(seconds: float) -> TimeoutError:
    """What a job ends with that lets a `SoftTimeLimit` out."""
    return TimeoutError(f"the soft limit of {seconds:g} s is over")


def hard_timeout(seconds: float) -> TimeoutError:
    """What a job ends with that is over its hard limit."""
    return TimeoutError(f"the hard limit of {seconds:g} s is over")


async def limited(call: Coroutine[Any, Any, Any], hard: float | None, soft: float | None = None) -> Any:
    """Await a coroutine under its limits, in seconds.

    The timers are set when the coroutine waits for the first time: many jobs end without waiting, and a timer
    costs more than they do.

    Raises:
        TimeoutError: a limit is over; its cause shows where the coroutine was.
    """
    if hard is None and soft is None:
        return await call
    began = asyncio.get_running_loop().time()
    try:
        waiting = call.send(None)
    except StopIteration as ended:
        return ended.value
    rest = resumed(call, waiting) if soft is None else _softly(call, waiting, soft, began + soft)
    if hard is None:
        return await rest
    timer = asyncio.timeout_at(began + hard)
    try:
        async with timer:
            return await rest
    except TimeoutError as error:
        if timer.expired():
            raise hard_timeout(hard) from error.__cause__
        raise


@types.coroutine
def _softly(call: Coroutine[Any, Any, Any], waiting: Any, soft: float, at: float) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that waits for ``waiting``, throwing the limit in at its time."""
    timer = _SoftTimer(at)
    try:
        while not timer.raised:
            thrown: BaseException | None = None
            try:
                yield waiting
            except BaseException as error:  # noqa: BLE001 - thrown in by the loop, meant for the coroutine
                thrown = error
            if timer.is_due():
                thrown = SoftTimeLimit(f"the soft limit of {soft:g} s is over")
            waiting = call.send(None) if thrown is None else call.throw(thrown)
        return (yield from resumed(call, waiting))
    except StopIteration as ended:
        return ended.value
    except SoftTimeLimit as error:
        raise soft_timeout(soft) from error
    finally:
        timer.close()


class _SoftTimer:
    """Wakes the current task by cancelling it, and takes that cancellation back.

    A cancellation of somebody else's goes first, be it the worker's or a timeout's inside the job; the limit
    comes when that one is over.
    """

    __slots__ = ("_fired", "_handle", "_loop", "_task", "raised")

    def __init__(self, at: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type
        self._task = task
        self._loop = task.get_loop()
        self._handle = self._loop.call_at(at, self._fire)
        self._fired = False
        self.raised = False

    def _fire(self) -> None:
        if self._task.cancelling():
            self._handle = self._loop.call_later(_AGAIN, self._fire)
        else:
            self._fired = True
            self._task.cancel()

    def is_due(self) -> bool:
        """Whether the limit is to be raised now; True once."""
        if not self._fired:
            return False
        self._fired = False
        if self._task.uncancel():
            self._handle = self._loop.call_later(_AGAIN, self._fire)
            return False
        self.raised = True
        return True

    def close(self) -> None:
        self._handle.cancel()
