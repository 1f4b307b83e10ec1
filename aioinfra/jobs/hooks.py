"""Functions that are told of a worker's and its jobs' beginning and end. Their failures are reported, not obeyed.

    startup -> (job start -> run -> job end)* -> shutdown

A hook is told; a middleware takes part. So a job that ended counts as it ended, whatever its hooks do.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.context import JobContext
from aioinfra.jobs.job import Outcome
from aioinfra.jobs.limits import limited
from aioinfra.jobs.records import printable

logger = logging.getLogger("aioinfra.jobs")

LIMIT: Final = 10.0
"""Seconds after which a hook is cancelled: it holds a job's slot, or the process' end. A startup has no limit."""

LifeHook = Callable[[], Coroutine[Any, Any, object]]
StartHook = Callable[[JobContext], Coroutine[Any, Any, object]]
EndHook = Callable[[JobContext, Outcome], Coroutine[Any, Any, object]]


@dataclass(frozen=True, slots=True)
class JobHooks:
    """What is called when; each list in its order, ``shutdown`` in reverse.

    Attributes:
        startup: before a worker's first claim. An error ends the worker: jobs would fail without what was to be
            opened.
        shutdown: when a worker has ended and its jobs with it; also after a startup hook has failed.
        start: a job's task is called next. Not for jobs that end before, as those whose arguments do not fit.
        end: a job that was started has ended, and its end was handed in to be recorded.
    """

    startup: list[LifeHook] = field(default_factory=list)
    shutdown: list[LifeHook] = field(default_factory=list)
    start: list[StartHook] = field(default_factory=list)
    end: list[EndHook] = field(default_factory=list)

    @property
    def of_jobs(self) -> bool:
        """Whether anything is to be told of single jobs."""
        return bool(self.start or self.end)

    async def starting(self) -> None:
        """Call the startup hooks. Raises what they raise."""
        for hook in self.startup:
            await hook()

    async def stopping(self) -> None:
        """Call the shutdown hooks, last one first, each whatever the others do."""
        for hook in reversed(self.shutdown):
            await _told(hook, "shutdown", "the worker")

    async def started(self, job: JobContext) -> None:
        """Call the job start hooks."""
        for hook in self.start:
            await _told(hook, "job start", job.job_id, job)

    async def ended(self, job: JobContext, outcome: Outcome) -> None:
        """Call the job end hooks."""
        for hook in self.end:
            await _told(hook, "job end", job.job_id, job, outcome)


NO_HOOKS: Final = JobHooks()
"""Nobody adds to it."""


def check_hook(argument: str, hook: object) -> None:
    """Raise InvalidArgument unless it is a coroutine function."""
    if not inspect.iscoroutinefunction(hook):
        raise InvalidArgument(argument, "must be given a coroutine function: async def")


async def _told(hook: Callable[..., Coroutine[Any, Any, object]], event: str, what: str, *told: Any) -> None:
    """Call a hook whose failure undoes nothing. A cancellation passes."""
    try:
        await limited(hook(*told), LIMIT)
    except Exception:
        name = getattr(hook, "__qualname__", type(hook).__name__)
        logger.exception("%s hook %s failed, at %r", event, name, printable(what))
