"""Cancels a coroutine at each of its suspensions in turn, and lets you look what is left behind.

::

    async def check(run: CancelledRun) -> None:
        assert pool.figures().in_use == 0

    report = await cancel_at_each_suspension(lambda: fetch(7), check)
    assert not report.findings

A cancellation can reach a task at two moments of one suspension, and code that survives one may not survive the
other. While what it waits for is pending (`Moment.WAITING`), the cancellation ends the wait. When it is done but
the task has not run yet (`Moment.READY`), what was waited for has happened: the lock is taken, the item has left
the queue, and the task that was to have it gets CancelledError instead. Both are real ``Task.cancel()`` calls on
the running loop, so that ``asyncio.timeout``, task groups and ``Task.cancelling()`` see what they see in
production, and awaits at any depth count.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Generic, TypeVar

from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import InvalidArgument

T = TypeVar("T")

_SECOND_CHANCE: Final = 1.0  # seconds for a hung run to end once it was cancelled again


class Moment(enum.Enum):
    """When a cancellation meets a suspended task."""

    WAITING = "waiting"  # what it waits for is pending
    READY = "ready"  # what it waits for is done; the task has not run yet


class CancelOutcome(enum.Enum):
    """How a cancelled run ended."""

    CANCELLED = "cancelled"  # as it should
    SWALLOWED = "swallowed"  # it returned as if nothing had happened
    RAISED = "raised"  # it turned the cancellation into another exception
    HUNG = "hung"  # it went on, and did not end in time


@dataclass(frozen=True, slots=True)
class CancelledRun:
    """One run and its cancellation.

    Attributes:
        suspension: at which suspension it was cancelled, counted from 1.
        moment: at which moment of it.
        stack: where it was suspended, ``file:line function``, outermost first.
        outcome: how it ended.
        error: what it raised instead, for RAISED.
        tasks_left: names of tasks that were started during the run and outlived it. A detached call or a
            shielded release is one for a moment; a check may wait for it.
    """

    suspension: int
    moment: Moment
    stack: tuple[str, ...]
    outcome: CancelOutcome
    error: BaseException | None = None
    tasks_left: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.stack[-1] if self.stack else "?"
        return f"suspension {self.suspension} ({self.moment.value}) at {where}: {self.outcome.value}"


@dataclass(frozen=True, slots=True)
class CancellationReport(Generic[T]):
    """All runs, in order, and what the last one, which nobody cancelled, returned."""

    runs: tuple[CancelledRun, ...]
    result: T

    @property
    def suspensions(self) -> int:
        """How many suspensions were met."""
        return max((run.suspension for run in self.runs), default=0)

    @property
    def findings(self) -> tuple[CancelledRun, ...]:
        """The runs that did not end as cancelled."""
        return tuple(run for run in self.runs if run.outcome is not CancelOutcome.CANCELLED)


Check = Callable[[CancelledRun], Any]
"""Asserts what must hold after a run; a plain function or one that returns an awaitable."""


async def cancel_at_each_suspension(
    make: Callable[[], Coroutine[Any, Any, T]],
    check: Check | None = None,
    *,
    moments: Sequence[Moment] = (Moment.WAITING, Moment.READY),
    max_suspensions: int = 1_000,
    timeout: float = 10.0,
) -> CancellationReport[T]:
    """Run a coroutine again and again, cancelled at its 1st, 2nd, ... suspension, until a run gets through.

    A run's number of suspensions may differ from the one before (a warm pool needs fewer): the first run that
    ends before its cancellation is the last.

    Args:
        make: gives a new coroutine for each run. What happens in tasks that it starts is not counted.
        check: called after each cancelled run. What it raises is raised, with the run as a note.
        moments: which moments to try at each suspension.
        max_suspensions: bound of runs per moment.
        timeout: seconds for one run, from which a run is HUNG.

    Raises:
        InvalidArgument: ``max_suspensions`` were not enough.
        TimeoutError: a run did not end although it was cancelled twice; it is still running.
        Exception: what the coroutine raised without being cancelled, or ``check``.
    """
    check_whole("max_suspensions", max_suspensions, 1, 1 << 31)
    check_number("timeout", timeout, 0.001, 86_400)
    if not moments:
        raise InvalidArgument("moments", "must not be empty")
    runs: list[CancelledRun] = []
    for suspension in range(1, max_suspensions + 1):
        for moment in moments:
            stepped = _Stepped(make(), suspension, moment)
            task, tasks_left = await _finish(stepped, timeout)
            if not stepped.stack:  # never cancelled
                return CancellationReport(tuple(runs), task.result())
            run = _judged(stepped, task, tasks_left)
            runs.append(run)
            await _checked(check, run)
            if not stepped.has_two_moments:
                break
    raise InvalidArgument("max_suspensions", f"the coroutine suspends more than {max_suspensions} times")


class _Stepped(Generic[T]):
    """Drives a coroutine inside its task and cancels that task at one suspension.

    Attributes:
        stack: where it was cancelled; empty until then.
        has_two_moments: whether it waited for a future there, and did not just give way to the loop.
        hung: whether it had to be cancelled twice.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], suspension: int, moment: Moment) -> None:
        self.suspension = suspension
        self.moment = moment
        self.stack: tuple[str, ...] = ()
        self.has_two_moments = False
        self.hung = False
        self._coroutine = coroutine
        self._left = suspension

    async def run(self) -> T:
        """For the task."""
        return await self

    def __await__(self) -> Generator[Any, Any, T]:
        # By hand instead of `yield from`, to see every suspension of everything that is awaited below.
        coroutine, thrown = self._coroutine, None
        while True:
            try:
                waits_for = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                result: T = end.value
                return result
            self._suspended(waits_for)
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the coroutine
                thrown = error
            else:
                thrown = None

    def _suspended(self, waits_for: Any) -> None:
        self._left -= 1
        if self._left:
            return
        self.stack = _stack(self._coroutine)
        self.has_two_moments = asyncio.isfuture(waits_for)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - `run` is a task's
        if self.moment is Moment.READY and self.has_two_moments:
            # Added before the task adds its own wake-up, so it is called before that.
            waits_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()  # takes effect when the task has handed over what it waits for


async def _finish(stepped: _Stepped[T], timeout: float) -> tuple[asyncio.Task[T], tuple[str, ...]]:
    """Run to the end; the ended task, and the tasks that outlived it."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(stepped.run(), name=f"cancelled at suspension {stepped.suspension}")
    try:
        done, _ = await asyncio.wait([task], timeout=timeout)
        if not done:
            stepped.hung = True
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=_SECOND_CHANCE)
    except asyncio.CancelledError:  # whoever rehearses is cancelled
        task.cancel()
        await asyncio.wait([task], timeout=_SECOND_CHANCE)
        raise
    if not done:
        raise TimeoutError(
            f"a run does not end, cancelled at suspension {stepped.suspension}: {stepped.stack}"
        )
    left = asyncio.all_tasks() - before - {task}
    return task, tuple(sorted(other.get_name() for other in left))


def _judged(stepped: _Stepped[T], task: asyncio.Task[T], tasks_left: tuple[str, ...]) -> CancelledRun:
    error = None if task.cancelled() else task.exception()
    if stepped.hung:
        outcome = CancelOutcome.HUNG
    elif task.cancelled():
        outcome = CancelOutcome.CANCELLED
    else:
        outcome = CancelOutcome.SWALLOWED if error is None else CancelOutcome.RAISED
    return CancelledRun(stepped.suspension, stepped.moment, stepped.stack, outcome, error, tasks_left)


async def _checked(check: Check | None, run: CancelledRun) -> None:
    if check is None:
        return
    try:
        answer = check(run)
        if inspect.isawaitable(answer):
            await answer
    except BaseException as error:
        error.add_note(f"after {run}")
        raise


def _stack(coroutine: Any) -> tuple[str, ...]:
    """Where a suspended coroutine and what it awaits stand."""
    found: list[str] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            found.append(f"{PurePath(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return tuple(found)
