"""arq's own log messages, which people have alerts on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from arq.cron import CronJob
from arq.utils import args_to_string, truncate
from arq.worker import JobExecutionFailed, RetryJob

from aioinfra.errors import DecodeError, UnknownTask
from aioinfra.jobs.arq.codec import as_arq_says
from aioinfra.jobs.job import Aborted, Failed, Outcome, Released, Retried, Run, Succeeded
from aioinfra.jobs.records import message_of, printable
from aioinfra.jobs.run import JobExpiredError

logger = logging.getLogger("arq.worker")


class ArqLog:
    """Writes to the logger ``arq.worker``, with arguments and results as arq does.

    Args:
        find: the function or cron job of a name, or None.
        log_results: as for `arq.Worker`.
    """

    def __init__(self, find: Callable[[str], Any], log_results: bool) -> None:
        self._find = find
        self._log_results = log_results

    def started(self, run: Run) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        claim, job = run.claim, run.job
        extra = f" try={claim.attempt}" if claim.attempt > 1 else ""
        late = run.started_ms - claim.score
        if late > 1200:
            extra += f" delayed={late / 1000:0.2f}s"
        since = (run.started_ms - job.enqueued_ms) / 1000
        logger.info("%6.2fs → %s(%s)%s", since, self._reference(run), _arguments(run), extra)

    def ended(self, run: Run, outcome: Outcome, seconds: float | None) -> None:
        if isinstance(outcome, Failed) and seconds is None:
            self._refused(run, outcome.error)
        elif isinstance(outcome, Failed):
            error = outcome.error
            logger.error(
                "%6.2fs ! %s failed, %s: %s", seconds, self._reference(run), type(error).__name__,
                message_of(error), exc_info=(type(error), error, error.__traceback__),
                extra={"extra": _extra_of(error)},
            )  # fmt: skip
        elif isinstance(outcome, Aborted) and seconds is None:
            logger.info("%6.2fs ⊘ %s:%s aborted before start", _age(run), *_names(run))
        elif logger.isEnabledFor(logging.INFO):
            logger.info(_line(outcome), seconds or 0.0, self._reference(run), *self._rest(outcome))

    def _refused(self, run: Run, error: BaseException) -> None:
        job_id, function = _names(run)
        if isinstance(error, JobExpiredError):
            logger.warning("job %s expired", job_id)
        elif isinstance(error, UnknownTask):
            logger.warning("job %s, function %r not found", job_id, function)
        elif isinstance(error, DecodeError) and not run.job.function:
            told = (type(error), error, error.__traceback__)
            logger.error("deserializing job %s failed", job_id, exc_info=told)
        elif isinstance(error, JobExecutionFailed):
            _, tries, *_ = message_of(error).split()  # "max 5 retries exceeded"
            logger.warning("%6.2fs ! %s max retries %s exceeded", _age(run), self._reference(run), tries)
        else:
            text = message_of(as_arq_says(error, run.job))
            logger.warning("%6.2fs ! %s failed, %s", _age(run), self._reference(run), text)

    def _reference(self, run: Run) -> str:
        job_id, function = _names(run)
        return function if isinstance(self._find(function), CronJob) else f"{job_id}:{function}"

    def _rest(self, outcome: Outcome) -> tuple[str, ...]:
        if isinstance(outcome, Retried) and not _was_cancelled(outcome):
            return (f"{outcome.delay:0.2f}",)
        if not isinstance(outcome, Succeeded):
            return ()
        if outcome.value is None or not self._log_results:
            return ("",)
        try:
            return (truncate(repr(outcome.value)),)
        except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything; the job has succeeded
            return (f"<repr raised {type(error).__name__}>",)


def _line(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return "%6.2fs ← %s ● %s"
    if isinstance(outcome, Aborted):
        return "%6.2fs ⊘ %s aborted"
    if isinstance(outcome, Released) or (isinstance(outcome, Retried) and _was_cancelled(outcome)):
        return "%6.2fs ↻ %s cancelled, will be run again"
    return "%6.2fs ↻ %s retrying job in %ss"


def _was_cancelled(outcome: Retried) -> bool:
    return isinstance(outcome.error, asyncio.CancelledError | RetryJob)


def _names(run: Run) -> tuple[str, str]:
    return printable(run.claim.job_id), run.job.function or "<unknown>"


def _age(run: Run) -> float:
    return time.time() - run.job.enqueued_ms / 1000


def _arguments(run: Run) -> str:
    try:
        return args_to_string(run.job.args, run.job.kwargs)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything; the job runs all the same
        return f"<repr raised {type(error).__name__}>"


def _extra_of(error: BaseException) -> Any:
    """arq logs an exception's own ``extra`` with it."""
    try:
        extra = getattr(error, "extra", None)
        return extra() if callable(extra) else extra
    except Exception as broken:  # noqa: BLE001 - a user's code, for a log line
        return f"<extra raised {type(broken).__name__}>"
