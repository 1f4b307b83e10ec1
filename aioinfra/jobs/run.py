"""One claim from payload to finish: decode, find the task, run it in its own context, settle the outcome.

    claim -> _decoded -> _runnable -> execute -> settle -> Finisher

Every branch ends in a finish: a claim never leaves this module without one, so that no slot and no job is lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aioinfra import context
from aioinfra.errors import DecodeError, UnknownTask
from aioinfra.jobs.execute import Cancel, Runnable, execute
from aioinfra.jobs.finish import Finisher, outcome_name, settle
from aioinfra.jobs.job import Aborted, Claim, Failed, Job, Outcome, Released
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.payload import JobCodec, Run

UNREADABLE = Job("", (), {}, 0)


class JobExpiredError(DecodeError):
    """The payload was gone when the job was claimed: it had waited longer than it was kept."""


class PoisonJobError(DecodeError):
    """The job's workers died too often while running it."""


class JobLog(Protocol):
    """Writes a job's log lines. Implementations: `ServiceLog`, and arq's own wording in the adapter."""

    def started(self, claim: Claim, job: Job) -> None: ...

    def ended(self, claim: Claim, job: Job, outcome: Outcome, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a worker does with jobs that it cannot simply run.

    Attributes:
        max_stalls: runs whose worker may die before the job is buried as poison.
        unknown_task_grace: seconds since the enqueue for which a job of an unknown task is left to other
            workers, as happens in a rolling deploy; then it is buried.
        bury_unreadable: whether undecodable, expired, poison and unknown jobs become dead letters (else they
            only fail).
    """

    max_stalls: int = 3
    unknown_task_grace: float = 60.0
    bury_unreadable: bool = True


UNKNOWN_TASK_PAUSE_MS = 1_000


class JobRunner:
    """Runs claims. Holds no state of a single run.

    Args:
        runnables: the tasks by name.
        codec: reads jobs and writes results.
        finisher: takes the finishes.
        observer, log: told of every run.
        options: see `RunOptions`.
    """

    def __init__(
        self,
        runnables: Mapping[str, Runnable],
        codec: JobCodec,
        finisher: Finisher,
        *,
        observer: JobObserver,
        log: JobLog,
        options: RunOptions,
    ) -> None:
        self._runnables = runnables
        self._codec = codec
        self._finisher = finisher
        self._observer = observer
        self._log = log
        self._options = options

    async def run(self, claim: Claim, cancels: dict[str, Cancel]) -> Outcome:
        """Run one claim and hand in its finish; returns the outcome that counts."""
        started_ms = int(time.time() * 1000)
        job, outcome, reason = self._decoded(claim)
        if job.first_attempt is not None and job.first_attempt > claim.attempt:
            claim = claim._replace(attempt=job.first_attempt)
        runnable = self._runnables.get(job.function)
        if outcome is None and runnable is None:
            outcome, reason = self._unknown(claim, job), "unknown-task"
        scope = context.open_scope(_context_of(claim, job))
        try:
            if outcome is None and runnable is not None:
                self._observer.started(
                    claim.queue, job.function, max(0, claim.claimed_ms - claim.score) / 1000
                )
                self._log.started(claim, job)
                before = time.perf_counter()
                outcome = await execute(claim, job, runnable, cancels)
                seconds = time.perf_counter() - before
            else:
                seconds = 0.0
            assert outcome is not None  # noqa: S101 - every branch above sets it; this tells the type checker
            run = Run(claim, job, started_ms, int(time.time() * 1000))
            finish, outcome = settle(run, outcome, runnable, self._codec, reason)
            recorded = self._finisher.submit(finish)
            self._observer.finished(claim.queue, job.function, outcome_name(outcome), seconds)
            self._log.ended(claim, job, outcome, seconds)
            if runnable is not None and runnable.finishes_later:
                await recorded
                await runnable.after(claim, job)
        finally:
            context.close_scope(scope)
        return outcome

    def _decoded(self, claim: Claim) -> tuple[Job, Outcome | None, str]:
        """The job, or an outcome that stands before the start, with the reason for a burial."""
        bury = self._options.bury_unreadable
        if claim.payload is None:
            return UNREADABLE, Failed(JobExpiredError("the job has expired"), bury), "expired"
        try:
            claim.job_id.encode()
            job = self._codec.decode_job(claim.payload)
        except UnicodeEncodeError:
            return UNREADABLE, Failed(DecodeError("the job's id is not UTF-8"), bury), "undecodable"
        except DecodeError as error:
            return UNREADABLE, Failed(error, bury), "undecodable"
        if claim.aborted:
            return job, Aborted(), ""
        if claim.stalls > self._options.max_stalls:
            died = PoisonJobError(f"its worker died {claim.stalls} times while running it")
            return job, Failed(died, bury), "poison"
        return job, None, "exhausted"

    def _unknown(self, claim: Claim, job: Job) -> Outcome:
        """Leave it to workers that may know the task, for a while."""
        age = claim.claimed_ms - max(job.enqueued_ms, claim.score)
        if age < self._options.unknown_task_grace * 1000:
            return Released(claim.claimed_ms + UNKNOWN_TASK_PAUSE_MS)
        error = UnknownTask(f"no task named {job.function!r} is known here")
        return Failed(error, self._options.bury_unreadable)


def _context_of(claim: Claim, job: Job) -> dict[str, str]:
    """What the run's log lines carry: the enqueuer's correlation id, if it is sound, and the job's own."""
    request_id = job.headers.get(context.REQUEST_ID)
    if not context.is_valid_id(request_id):
        request_id = context.new_id()
    return {
        context.REQUEST_ID: str(request_id),
        "job_id": claim.job_id,
        "task": job.function,
        "queue": claim.queue,
    }
