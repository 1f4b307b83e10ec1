"""One run of one job: call the task, and say how it ended. No I/O but the task's own.

A cancellation has one of three causes: somebody aborted the job or the worker is shutting down, which the run's
`Cancel` tells; everything in the process is being cancelled, the worker included, by a loop at its end, and the job
is given back; or it is the task's own doing, raised or by cancelling itself, and an error like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from aioinfra.errors import EncodeError
from aioinfra.jobs.forks import end_if_forked
from aioinfra.jobs.job import Aborted, Cancel, Failed, Outcome, Released, Run, Succeeded
from aioinfra.jobs.threads import TaskExitError

_CANCELLED: dict[Cancel, Outcome] = {Cancel.ABORT: Aborted(), Cancel.RELEASE: Released()}


class Runnable(Protocol):
    """A task as the engine sees it. Implementations: `TaskRunnable`, and arq's functions in the adapter."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def keep_result(self) -> float | None:
        """Seconds for which the result is kept; 0 not at all, None for ever."""
        ...

    @property
    def keep_lease(self) -> float:
        """Seconds for which the id stays taken after the end (arq's cron jobs); usually 0."""
        ...

    @property
    def finishes_later(self) -> bool:
        """Whether `after` wants to be called once the result is recorded."""
        ...

    def refuse(self, run: Run) -> Outcome | None:
        """An outcome that stands before the start (too many tries, arguments that do not fit), or None to run."""
        ...

    def call(self, run: Run) -> Awaitable[object]:
        """Run the task under its limits. What it raises goes to `judge`."""
        ...

    def judge(self, error: BaseException, run: Run) -> Outcome:
        """What becomes of the job after an error."""
        ...

    def altered(self, value: object) -> EncodeError | None:
        """Why a result would be read from JSON as something else than was returned, or None."""
        ...

    async def after(self, run: Run) -> None:
        """Called when the end is recorded, if `finishes_later`."""
        ...


def refuse(run: Run, runnable: Runnable) -> Outcome | None:
    """An outcome that stands before the start, or None to execute. Never raises."""
    if run.cause is not None:
        return _CANCELLED[run.cause]
    try:
        return runnable.refuse(run)
    except Exception as error:  # noqa: BLE001 - restoring arguments runs a user's constructors
        return _judged(runnable, error, run)


async def execute(run: Run, runnable: Runnable, begin: Awaitable[None] | None = None) -> Outcome:
    """Run a job that was not refused to its outcome. Raises nothing, unless its loop has ended.

    ``begin`` is awaited before the task is called; it raises nothing but a cancellation.
    """
    try:
        if begin is not None:
            await begin
        value = await runnable.call(run)
        end_if_forked()
    except asyncio.CancelledError as error:
        if run.cause is not None:
            return _CANCELLED[run.cause]
        if run.worker is not None and run.worker.cancelling():
            return Released()
        return _judged(runnable, error, run)
    except BaseException as error:
        end_if_forked(_status_of(error))
        if isinstance(error, GeneratorExit) and not _in_loop():
            raise  # the coroutine is being thrown away
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            # The task's own doing: a worker hears of Ctrl-C by its signal handler.
            ended = TaskExitError(f"the task raised {type(error).__name__}")
            ended.__cause__ = error
            error = ended
        return _judged(runnable, error, run)
    return Succeeded(value)


def _status_of(error: BaseException) -> int:
    """The exit status of a forked child that leaves with an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _judged(runnable: Runnable, error: BaseException, run: Run) -> Outcome:
    try:
        return runnable.judge(error, run)
    except Exception as broken:  # noqa: BLE001 - a user's policy may raise; the task's own error is what counts
        broken.__cause__ = error
        return Failed(broken)
