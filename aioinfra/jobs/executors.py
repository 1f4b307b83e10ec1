"""Where a task's function runs: on the loop when it is async, in a thread when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from aioinfra.jobs.context import JobContext, ProgressSink
from aioinfra.jobs.job import Claim, Job, Outcome
from aioinfra.jobs.task import Task


async def limited(call: Awaitable[Any], seconds: float | None) -> Any:
    """Await a call under its hard limit; TimeoutError when it is over."""
    if seconds is None:
        return await call
    async with asyncio.timeout(seconds):
        return await call


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
        self._threads = threads
        self._progress = progress
        self._function: Callable[..., Awaitable[Any]] = task.function if task.is_async else self._in_thread

    def refuse(self, claim: Claim) -> Outcome | None:  # noqa: ARG002 - the engine's signature
        return None

    def call(self, claim: Claim, job: Job) -> Awaitable[object]:
        args, kwargs = job.args, job.kwargs
        if args or kwargs:
            args, kwargs = self._plan.restore(args, kwargs)
        parameter = self.task.context_parameter
        if parameter is None:
            return limited(self._function(*args, **kwargs), self._limit)
        context = JobContext(
            claim.job_id, claim.queue, job.function, claim.attempt, claim.stalls,
            job.enqueued_ms / 1000, job.headers, self._progress,
        )  # fmt: skip
        return limited(self.task.call_with_context(self._function, context, args, kwargs), self._limit)

    def judge(self, error: BaseException, claim: Claim) -> Outcome:
        return self._policy.judge(error, claim.attempt)

    async def after(self, claim: Claim, job: Job) -> None: ...

    async def _in_thread(self, *args: Any, **kwargs: Any) -> Any:
        # Not abandoned on cancellation: a thread over its limit keeps its slot, since it still runs.
        call = partial(self.task.function, *args, **kwargs)
        return await anyio.to_thread.run_sync(call, limiter=self._threads)
