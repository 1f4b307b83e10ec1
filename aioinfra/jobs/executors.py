"""Where a task's function runs: on the loop when it is async, in a thread when it is not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from aioinfra.errors import DecodeError
from aioinfra.jobs.context import JobContext, ProgressSink
from aioinfra.jobs.eager import resumed
from aioinfra.jobs.job import Cancel, Failed, Outcome, Run
from aioinfra.jobs.task import Task


async def limited(call: Coroutine[Any, Any, Any], seconds: float | None) -> Any:
    """Await a coroutine under its hard limit.

    The timer is set when the coroutine waits for the first time: many jobs end without waiting, and a timer
    costs more than they do.

    Raises:
        TimeoutError: the limit is over; its cause shows where the coroutine was.
    """
    if seconds is None:
        return await call
    ends = asyncio.get_running_loop().time() + seconds
    try:
        waiting = call.send(None)
    except StopIteration as ended:
        return ended.value
    timer = asyncio.timeout_at(ends)
    try:
        async with timer:
            return await resumed(call, waiting)
    except TimeoutError as error:
        if timer.expired():
            raise TimeoutError(f"the hard limit of {seconds:g} s is over") from error.__cause__
        raise


class TaskRunnable:
    """A `Task` as the engine runs it.

    Args:
        task: the task.
        threads: bounds the threads of sync functions; shared by a worker's tasks.
        progress: takes the jobs' progress.
    """

    finishes_later = False
    keep_lease = 0.0

    def __init__(self, task: Task[..., Any], threads: anyio.CapacityLimiter, progress: ProgressSink) -> None:
        self.task = task
        self.name = task.name
        self.keep_result = task.task_options.keep_result
        self._policy = task.task_options.retry
        self._limit = task.task_options.hard_limit
        self._plan = task.plan()
        self._is_async = task.is_async
        self._threads = threads
        self._progress = progress

    def refuse(self, run: Run) -> Outcome | None:
        """Restore the arguments; a job whose arguments do not fit fails without a try."""
        job = run.job
        try:
            run.local = self._plan.restore(job.args, job.kwargs)
        except DecodeError as error:
            return Failed(error, reason="undecodable")
        return None

    def call(self, run: Run) -> Awaitable[object]:
        args, kwargs = run.local
        function: Callable[..., Coroutine[Any, Any, Any]] = (
            self.task.function if self._is_async else partial(self._in_thread, run)
        )
        if self.task.context_parameter is None:
            return limited(function(*args, **kwargs), self._limit)
        claim, job = run.claim, run.job
        context = JobContext(
            claim.job_id, claim.queue, job.function, claim.attempt, claim.stalls,
            job.enqueued_ms / 1000, job.headers, self._progress,
        )  # fmt: skip
        return limited(self.task.call_with_context(function, context, args, kwargs), self._limit)

    def judge(self, error: BaseException, run: Run) -> Outcome:
        return self._policy.judge(error, run.claim.attempt)

    async def after(self, run: Run) -> None: ...

    async def _in_thread(self, run: Run, /, *args: Any, **kwargs: Any) -> Any:
        call = partial(_without_exit, partial(self.task.function, *args, **kwargs))
        # A task of its own holds the thread's place in the limiter: a thread cannot be stopped, so the run keeps
        # its slot until it returns, over its limit or not.
        thread = asyncio.ensure_future(anyio.to_thread.run_sync(call, limiter=self._threads))
        try:
            value = await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.wait([thread])
            if thread.cancelled():
                raise
            thread.exception()  # seen, also where the cancellation is what counts
            if run.cause is not Cancel.RELEASE:
                raise
            value = (
                thread.result()
            )  # the worker only wanted to stop: what was done in time need not be done again
        if inspect.isawaitable(value):  # a plain function that wraps an async one
            return await value
        return value


class TaskExitError(RuntimeError):
    """A sync task called `sys.exit`, or raised KeyboardInterrupt: that ends the run, not the worker."""


def _without_exit(call: Callable[[], Any]) -> Any:
    """Run in the thread: asyncio would carry these two out of the event loop, and the worker with them."""
    try:
        return call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise TaskExitError(f"the task raised {type(error).__name__}") from error
