"""What stands around the runs of a worker's tasks when its service has middleware or hooks, and else does not.

JobRunner.run
  refuse                  arguments restored; a job that ends here meets neither middleware nor hooks
  job start hooks
  middleware -> task
  the end is handed in    from here on nothing changes it
job end hooks
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from aioinfra import context
from aioinfra.jobs.context import JobContext, ProgressSink
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.hooks import JobHooks
from aioinfra.jobs.job import Outcome, Run
from aioinfra.jobs.middleware import JobMiddleware, RunNext
from aioinfra.jobs.run import scope_of


class Runner(Protocol):
    """Runs a claim to its outcome. Implementations: `JobRunner`, and `HookedRunner` around it."""

    async def run(self, run: Run) -> Outcome: ...


class SurroundedRunnable:
    """A task's runnable with the job start hooks before its call, and middleware around it.

    Args:
        inner: the task's.
        layers: middlewares that have a ``run`` of their own, outermost first.
        hooks: those of job starts are called.
        progress: takes the jobs' progress.
    """

    def __init__(
        self, inner: Runnable, layers: Sequence[JobMiddleware], hooks: JobHooks, progress: ProgressSink
    ) -> None:
        self._inner = inner
        self._layers = tuple(reversed(layers))
        self._hooks = hooks
        self._progress = progress
        self.name = inner.name
        self.keep_result = inner.keep_result
        self.keep_lease = inner.keep_lease
        self.refuse = inner.refuse
        self.judge = inner.judge
        self.altered = inner.altered
        self.after = inner.after

    @property
    def finishes_later(self) -> bool:
        return self._inner.finishes_later

    async def call(self, run: Run) -> object:
        claim, job = run.claim, run.job
        seen = run.seen = JobContext(
            claim.job_id, claim.queue, job.function, claim.attempt, claim.stalls,
            job.enqueued_ms / 1000, job.headers, self._progress,
        )  # fmt: skip
        await self._hooks.started(seen)
        call_next: RunNext = partial(self._call_task, run)
        for layer in self._layers:
            call_next = partial(layer.run, seen, call_next)
        return await call_next()

    async def _call_task(self, run: Run) -> object:
        return await self._inner.call(run)


class HookedRunner:
    """Calls the job end hooks when a run's end has been handed in.

    Args:
        inner: runs the claims.
        hooks: those of job ends are called.
    """

    def __init__(self, inner: Runner, hooks: JobHooks) -> None:
        self._inner = inner
        self._hooks = hooks

    async def run(self, run: Run) -> Outcome:
        outcome = await self._inner.run(run)
        seen: JobContext | None = run.seen
        if seen is not None:
            scope = context.open_scope(scope_of(run))
            try:
                await self._hooks.ended(seen, outcome)
            except asyncio.CancelledError:
                pass  # the worker ends, and with it the hook; the job's end stands
            finally:
                context.close_scope(scope)
        return outcome
