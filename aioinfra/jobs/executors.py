"""Where a task's function runs: on the loop when it is async; else in a thread, or in a process of its own."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from aioinfra import context as correlation
from aioinfra.errors import DecodeError, EncodeError
from aioinfra.jobs.arguments import restore
from aioinfra.jobs.context import JobContext, ProgressSink
from aioinfra.jobs.job import Failed, Outcome, Progress, Run
from aioinfra.jobs.limits import limited
from aioinfra.jobs.payload import check_result
from aioinfra.jobs.process_messages import Call
from aioinfra.jobs.processes import JudgedElsewhere, ProcessPool
from aioinfra.jobs.task import Task
from aioinfra.jobs.threads import Threads


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tasks of one worker run, apart from its event loop.

    Attributes:
        threads: for sync functions.
        processes: for those that are to have a process, or None when there are none.
    """

    threads: Threads
    processes: ProcessPool | None = None

    async def aclose(self) -> None:
        """Kill the processes. Threads cannot be ended."""
        if self.processes is not None:
            await self.processes.aclose()


class TaskRunnable:
    """A `Task` as the engine runs it.

    Args:
        task: the task.
        places: where it may run; shared by a worker's tasks.
        progress: takes the jobs' progress.
    """

    keep_lease = 0.0

    def __init__(self, task: Task[..., Any], places: Places, progress: ProgressSink) -> None:
        options = task.task_options
        self.task = task
        self.name = task.name
        self.keep_result = options.keep_result
        self.finishes_later = False
        """True while a thread of the task goes on although its run has ended; see `after`."""
        self._policy = options.retry
        self._hard, self._soft = options.hard_limit, options.soft_limit
        self._plan = task.plan()
        self._is_async = task.is_async
        self._threads = places.threads
        self._processes = places.processes if options.run_in == "process" else None
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
        if self._processes is not None:
            return self._in_process(run, self._processes)
        args, kwargs = run.local
        function: Callable[..., Coroutine[Any, Any, Any]] = (
            self.task.function if self._is_async else partial(self._in_thread, run)
        )
        if self.task.context_parameter is not None:
            call = self.task.call_with_context(function, self._context(run), args, kwargs)
        else:
            call = function(*args, **kwargs)
        # A thread keeps its limit by itself: it cannot be cancelled.
        return limited(call, self._hard, self._soft) if self._is_async else call

    def judge(self, error: BaseException, run: Run) -> Outcome:
        if type(error) is JudgedElsewhere:  # isinstance would ask a class that may answer by raising
            return error.with_origin()
        return self._policy.judge(error, run.claim.attempt)

    def altered(self, value: object) -> EncodeError | None:
        if self._processes is not None:
            return None  # checked in the process, where what was returned is
        try:
            check_result(value, self.task.returns)
        except EncodeError as error:
            return error
        return None

    async def after(self, run: Run) -> None:
        """Keep the slot of a run whose thread goes on."""
        await self._threads.returned(run)
        self.finishes_later = self._threads.holds(self.name)

    def _context(self, run: Run) -> JobContext:
        claim, job = run.claim, run.job
        return JobContext(
            claim.job_id, claim.queue, job.function, claim.attempt, claim.stalls,
            job.enqueued_ms / 1000, job.headers, self._progress,
        )  # fmt: skip

    async def _in_thread(self, run: Run, /, *args: Any, **kwargs: Any) -> Any:
        ends = None if self._hard is None else time.monotonic() + self._hard
        try:
            value = await self._threads.run(partial(self.task.function, *args, **kwargs), run, self._hard)
        finally:
            self.finishes_later = self.finishes_later or self._threads.holds(self.name)
        if inspect.isawaitable(value):  # a plain function that wraps an async one
            left = None if ends is None else max(0.001, ends - time.monotonic())
            return await limited(_awaited(value), left)
        return value

    async def _in_process(self, run: Run, processes: ProcessPool) -> Any:
        job_id = run.claim.job_id

        async def tell(progress: Progress) -> None:
            await self._progress(job_id, progress)

        value = await processes.run(self._message(run), self._hard, tell)
        try:
            return restore(
                value, "result", self._plan.returns
            )  # as the task returned it, for whoever is around
        except DecodeError:
            return value  # it does not fit its annotation: no more than a thread's would

    def _message(self, run: Run) -> Call:
        claim, job = run.claim, run.job
        args, kwargs = _as_json(run)
        plain = {
            name: value
            for name, value in correlation.current().items()
            if isinstance(value, str | int | float | bool)
        }
        return Call(
            self.task.target, self.name, claim.job_id, claim.queue, claim.attempt, claim.stalls, job.enqueued_ms,
            dict(job.headers), plain, args, kwargs, self._soft, self.keep_result != 0,
        )  # fmt: skip


def _as_json(run: Run) -> tuple[bytes, bytes]:
    """The arguments in JSON: as they came, or written again where another codec has read them."""
    job = run.job
    if isinstance(job.raw, tuple) and all(isinstance(part, msgspec.Raw) for part in job.raw):
        args, kwargs = job.raw
        return bytes(args), bytes(kwargs)
    return msgspec.json.encode(job.args), msgspec.json.encode(job.kwargs)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
