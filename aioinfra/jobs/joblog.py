"""The log lines of a service's jobs: one when a run starts, one when it ends."""

from __future__ import annotations

import logging

from aioinfra.jobs.finish import outcome_name
from aioinfra.jobs.job import Claim, Failed, Job, Outcome, Retried
from aioinfra.jobs.payload import error_record

logger = logging.getLogger("aioinfra.jobs")


class ServiceLog:
    """Writes to the logger ``aioinfra.jobs``. Arguments and results never appear: they may be secrets."""

    __slots__ = ()

    def started(self, claim: Claim, job: Job) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "job started", extra={"job_id": claim.job_id, "task": job.function, "attempt": claim.attempt}
            )

    def ended(self, claim: Claim, job: Job, outcome: Outcome, seconds: float) -> None:
        if isinstance(outcome, Failed):
            self._failed(claim, job, outcome, seconds)
        elif isinstance(outcome, Retried) and outcome.error is not None:
            record = error_record(outcome.error)
            logger.warning(
                "job will be retried in %.1f s after %s",
                outcome.delay,
                record.type,
                extra=_fields(claim, job),
            )
        elif logger.isEnabledFor(logging.INFO):
            fields = {**_fields(claim, job), "seconds": round(seconds, 6)}
            logger.info("job %s", outcome_name(outcome), extra=fields)

    def _failed(self, claim: Claim, job: Job, outcome: Failed, seconds: float) -> None:
        error = outcome.error
        fields = {**_fields(claim, job), "seconds": round(seconds, 6)}
        told = (type(error), error, error.__traceback__) if error.__traceback__ is not None else None
        logger.error("job failed: %s", error_record(error).type, extra=fields, exc_info=told)


def _fields(claim: Claim, job: Job) -> dict[str, object]:
    return {"job_id": claim.job_id, "task": job.function, "attempt": claim.attempt}
