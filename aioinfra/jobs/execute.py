"""One run of one job: call the task, and say how it ended. No I/O but the task's own.

A cancellation has one of three causes, told apart by the run's `Cancel`: somebody aborted the job, the worker is
shutting down, or the task's own code raised CancelledError, which is an error like any other.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable
from typing import Protocol

from aioinfra.jobs.job import Aborted, Claim, Failed, Job, Outcome, Released, Succeeded


class Cancel(enum.Enum):
    """Why the worker cancelled a run."""

    ABORT = "abort"
    RELEASE = "release"


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

    def refuse(self, claim: Claim) -> Outcome | None:
        """An outcome that stands before the start (too many tries), or None to run."""
        ...

    def call(self, claim: Claim, job: Job) -> Awaitable[object]:
        """Run the task under its limits. What it raises goes to `judge`."""
        ...

    def judge(self, error: BaseException, claim: Claim) -> Outcome:
        """What becomes of the job after an error."""
        ...

    async def after(self, claim: Claim, job: Job) -> None:
        """Called when the result is recorded, if `finishes_later`."""
        ...


async def execute(claim: Claim, job: Job, runnable: Runnable, cancels: dict[str, Cancel]) -> Outcome:
    """Run a job to its outcome. Raises nothing but KeyboardInterrupt and the like.

    Args:
        claim: what is run.
        job: its decoded form.
        runnable: the task.
        cancels: causes of the worker's own cancellations, by token.
    """
    cause = cancels.get(claim.token)
    if cause is not None:
        return _CANCELLED[cause]
    refused = runnable.refuse(claim)
    if refused is not None:
        return refused
    try:
        value = await runnable.call(claim, job)
    except asyncio.CancelledError as error:
        cause = cancels.get(claim.token)
        if cause is not None:
            return _CANCELLED[cause]
        return _judged(runnable, error, claim)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's task raises becomes an outcome
        return _judged(runnable, error, claim)
    return Succeeded(value)


def _judged(runnable: Runnable, error: BaseException, claim: Claim) -> Outcome:
    try:
        return runnable.judge(error, claim)
    except Exception as broken:  # noqa: BLE001 - a user's policy may raise; the task's own error is what counts
        broken.__cause__ = error
        return Failed(broken)
