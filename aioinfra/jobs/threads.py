"""The threads of sync tasks. A thread cannot be stopped: over its limit, its run ends and its slot stays taken."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from aioinfra.jobs.job import Cancel, Run
from aioinfra.jobs.limits import hard_timeout
from aioinfra.jobs.records import printable

logger = logging.getLogger("aioinfra.jobs")


class TaskExitError(RuntimeError):
    """A sync task called `sys.exit`, or raised KeyboardInterrupt: that ends the run, not the worker."""


class Threads:
    """Runs functions in threads, and keeps those that do not return in time.

    Args:
        limiter: bounds the threads.
        on_stuck: told, in words, that a thread is over its limit, so that this process should be replaced; None
            when nobody replaces it.
    """

    def __init__(self, limiter: anyio.CapacityLimiter, on_stuck: Callable[[str], None] | None = None) -> None:
        self._limiter = limiter
        self._on_stuck = on_stuck
        self._stuck: dict[Run, tuple[str, asyncio.Future[Any]]] = {}

    async def run(self, call: Callable[[], Any], run: Run, limit: float | None) -> Any:
        """Call in a thread. A cancellation waits for the thread, which nothing can stop, up to the limit.

        Raises:
            TimeoutError: the limit in seconds is over, and the thread goes on; see `returned`.
            TaskExitError: the function wanted to end the process.
        """
        # A task of its own holds the thread's place in the limiter for as long as the thread goes on.
        thread = asyncio.ensure_future(
            anyio.to_thread.run_sync(partial(_without_exit, call), limiter=self._limiter)
        )
        began = time.monotonic()
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.wait([thread], timeout=limit)
        except asyncio.CancelledError as error:
            cancelled = error
            left = None if limit is None else max(0.0, began + limit - time.monotonic())
            await asyncio.wait([thread], timeout=left)
        if not thread.done():
            assert limit is not None  # noqa: S101 - without one, it was waited for
            self._keep(run, thread, limit)
            raise cancelled or hard_timeout(limit)
        if cancelled is not None and (thread.cancelled() or run.cause is not Cancel.RELEASE):
            _ = thread.cancelled() or thread.exception()  # seen; the cancellation is what counts
            raise cancelled
        # The worker only wanted to stop: what was done in time need not be done again.
        return thread.result()

    @property
    def stuck(self) -> int:
        """Threads that go on although their run has ended."""
        return len(self._stuck)

    def holds(self, task: str) -> bool:
        """Whether a thread of a task goes on although its run has ended."""
        return any(name == task for name, _ in self._stuck.values())

    async def returned(self, run: Run) -> None:
        """Wait for the thread of a run that has ended without it; nothing for any other run.

        The first cancellation is not heeded: a worker that ends waits a little, and then leaves the process to
        whoever ends it.
        """
        if run not in self._stuck:
            return
        thread = self._stuck[run][1]
        try:
            try:
                await asyncio.wait([thread])
            except asyncio.CancelledError:
                await asyncio.wait([thread])
            _ = thread.cancelled() or thread.exception()  # nobody waits for it any more
            logger.warning("the thread of job %s has returned, late", printable(run.claim.job_id))
        finally:
            del self._stuck[run]

    def _keep(self, run: Run, thread: asyncio.Future[Any], limit: float) -> None:
        self._stuck[run] = (run.job.function, thread)
        what = f"the thread of job {printable(run.claim.job_id)} is over its hard limit of {limit:g} s"
        if self._on_stuck is None:
            logger.error(
                "%s and cannot be stopped: it keeps its slot until it returns. A worker under a supervisor "
                "(aioinfra worker --processes) would be replaced; a task with run_in='process' can be stopped",
                what,
            )
        else:
            logger.error("%s and cannot be stopped: this process is to be replaced", what)
            self._on_stuck(what)


def _without_exit(call: Callable[[], Any]) -> Any:
    """Run in the thread: asyncio would carry these two out of the event loop, and the worker with them."""
    try:
        return call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise TaskExitError(f"the task raised {type(error).__name__}") from error
