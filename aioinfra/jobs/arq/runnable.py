"""arq's functions and cron jobs as the engine runs them, hooks included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.utils import ms_to_datetime
from arq.worker import Function, JobExecutionFailed, RetryJob, Worker
from arq.worker import Retry as ArqRetry

from aioinfra.errors import EncodeError
from aioinfra.jobs.job import Failed, Outcome, Retried, Run
from aioinfra.jobs.limits import limited
from aioinfra.jobs.retry import Retry

logger = logging.getLogger("arq.worker")

_HOOK_RETRY = 1.0
"""Seconds after which a job is tried again whose ``on_job_start`` failed."""

Hook = Callable[[dict[Any, Any]], Awaitable[Any]]


class HookFailedError(Exception):
    """``on_job_start`` raised, so the job was not run. The cause is what it raised."""


@dataclass(slots=True)
class _Local:
    """What a run keeps: its ctx, once it has one."""

    ctx: dict[Any, Any]


class ArqRunnable:
    """One function or cron job.

    Args:
        worker: read for its settings, hooks and ctx; at run time, since applications change them.
        function: as arq wraps it.
    """

    def __init__(self, worker: Worker, function: Function | CronJob) -> None:
        self._worker = worker
        self._function = function
        self.name = function.name
        self.keep_lease = float(keep_cronjob_progress) if isinstance(function, CronJob) else 0.0
        forever = function.keep_result_forever
        forever = worker.keep_result_forever if forever is None else forever
        kept = worker.keep_result_s if function.keep_result_s is None else function.keep_result_s
        self.keep_result = None if forever else float(kept or 0)
        self._timeout = worker.job_timeout_s if function.timeout_s is None else function.timeout_s
        self._max_tries = worker.max_tries if function.max_tries is None else function.max_tries

    @property
    def finishes_later(self) -> bool:
        return self._worker.after_job_end is not None

    def refuse(self, run: Run) -> Outcome | None:
        if run.claim.attempt <= self._max_tries:
            return None
        return Failed(JobExecutionFailed(f"max {self._max_tries} retries exceeded"), bury=False)

    async def call(self, run: Run) -> object:
        worker, job, claim = self._worker, run.job, run.claim
        ctx = {
            **worker.ctx,
            "job_id": claim.job_id,
            "job_try": claim.attempt,
            "enqueue_time": ms_to_datetime(job.enqueued_ms),
            "score": claim.score,
        }
        if worker.on_job_start:
            try:
                await worker.on_job_start(ctx)
            except Exception as error:
                raise HookFailedError from error
        run.local = _Local(ctx)
        try:
            # The timeout is the function's alone, as in arq: hooks are not cancelled by it.
            return await limited(self._function.coroutine(ctx, *job.args, **job.kwargs), self._timeout)
        finally:
            if worker.on_job_end:
                await _guarded(worker.on_job_end, ctx, "on_job_end", claim.job_id)

    def judge(self, error: BaseException, run: Run) -> Outcome:
        if isinstance(error, HookFailedError):
            cause = error.__cause__ or error
            logger.error("on_job_start of job %s failed", run.claim.job_id, exc_info=cause)
            if run.claim.attempt < self._max_tries:
                return Retried(_HOOK_RETRY, cause)
            return Failed(cause, bury=False)
        if self._worker.retry_jobs:
            if isinstance(error, ArqRetry):
                return Retried((error.defer_score or 0) / 1000)
            if isinstance(error, Retry):
                return Retried(error.delay or 0.0)
            if isinstance(error, asyncio.CancelledError | RetryJob):
                return Retried(0.0, error)
        return Failed(error, bury=False)

    def altered(self, value: object) -> EncodeError | None:  # noqa: ARG002 - the protocol's
        return None  # arq promises no more than its serialiser does

    async def after(self, run: Run) -> None:
        hook = self._worker.after_job_end
        if hook is not None and isinstance(run.local, _Local):
            await _guarded(hook, run.local.ctx, "after_job_end", run.claim.job_id)


async def _guarded(hook: Hook, ctx: dict[Any, Any], name: str, job_id: str) -> None:
    """Run a hook whose failure must not undo what the job has done."""
    try:
        await hook(ctx)
    except Exception:
        logger.exception("%s of job %s failed", name, job_id)
