"""The log lines of a service's jobs: one when a run starts, one when it ends."""

from __future__ import annotations

import logging

from aioinfra.jobs.job import Failed, Outcome, Released, Retried, Run
from aioinfra.jobs.records import error_record, printable
from aioinfra.jobs.settle import outcome_name

logger = logging.getLogger("aioinfra.jobs")


class ServiceLog:
    """Writes to the logger ``aioinfra.jobs``. Arguments and results never appear: they may be secrets."""

    __slots__ = ()

    def started(self, run: Run) -> None:
        stalls = run.claim.stalls
        if stalls:
            extra = _fields(run) | {"stalls": stalls}
            logger.warning("job started again: an earlier worker ended without a word", extra=extra)
        elif logger.isEnabledFor(logging.INFO):
            logger.info("job started", extra=_fields(run))

    def ended(self, run: Run, outcome: Outcome, seconds: float | None) -> None:
        if isinstance(outcome, Failed):
            error = outcome.error
            told = (type(error), error, error.__traceback__) if error.__traceback__ is not None else None
            extra = _fields(run, seconds) | {"reason": outcome.reason}
            logger.error("job failed: %s", error_record(error).type, extra=extra, exc_info=told)
        elif isinstance(outcome, Retried) and outcome.error is not None:
            record = error_record(outcome.error)
            extra = _fields(run) | {"error": f"{record.type}: {record.message}"}
            logger.warning("job will be retried in %.1f s after %s", outcome.delay, record.type, extra=extra)
        elif isinstance(outcome, Released) and seconds is None:
            logger.debug("job left to other workers", extra=_fields(run))  # every second, and said already
        elif logger.isEnabledFor(logging.INFO):
            logger.info("job %s", outcome_name(outcome), extra=_fields(run, seconds))


def _fields(run: Run, seconds: float | None = None) -> dict[str, object]:
    fields: dict[str, object] = {
        "job_id": printable(run.claim.job_id),
        "task": run.job.function,
        "queue": run.claim.queue,
        "attempt": run.claim.attempt,
    }
    if seconds is not None:
        fields["seconds"] = round(seconds, 6)
    return fields
