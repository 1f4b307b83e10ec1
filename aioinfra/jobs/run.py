"""One claim from payload to finish: decode, find the task, run it in its own context, settle the outcome.

    claim -> _outcome_before -> execute -> settle -> Finisher

Every branch ends in a finish: a claim never leaves this module without one, so that no slot and no job is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aioinfra import context
from aioinfra.errors import DecodeError, InvalidArgument, JobError, PayloadTooLarge, StoreError, UnknownTask
from aioinfra.jobs.execute import Runnable, execute, refuse
from aioinfra.jobs.finish import Finisher
from aioinfra.jobs.job import Aborted, Action, Claim, Failed, Outcome, Released, Run
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.records import printable
from aioinfra.jobs.settle import outcome_name, settle
from aioinfra.jobs.store import FinishStatus, JobStore

logger = logging.getLogger("aioinfra.jobs")

_MOST_UNKNOWN = 100
"""Names of unknown tasks that are said; a queue may hold anything."""


class JobExpiredError(JobError):
    """The payload was gone when the job was claimed: it had waited longer than it was kept."""


class PoisonJobError(JobError):
    """The job's workers died too often while running it."""


class JobLog(Protocol):
    """Writes a job's log lines. Implementations: `ServiceLog`, and arq's own wording in the adapter."""

    def started(self, run: Run) -> None: ...

    def ended(self, run: Run, outcome: Outcome, seconds: float | None) -> None:
        """``seconds`` is None when the job was not started."""
        ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a worker does with jobs that it cannot simply run.

    Attributes:
        max_stalls: runs whose worker may die before the job is buried as poison.
        unknown_task_grace: seconds from the first claim for which a job of an unknown task is left to other
            workers, as happens in a rolling deploy; then it is buried. 0 ends it at once.
        bury_unreadable: whether undecodable, expired, poison and unknown jobs become dead letters (else they
            only fail).
    """

    max_stalls: int = 3
    unknown_task_grace: float = 60.0
    bury_unreadable: bool = True

    def __post_init__(self) -> None:
        count: object = self.max_stalls
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidArgument("max_stalls", "must be a whole number of at least 0")
        grace: object = self.unknown_task_grace
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= 86_400:
            raise InvalidArgument("unknown_task_grace", "must be 0 to 86,400 seconds")


class JobRunner:
    """Runs claims. Holds no state of a single run.

    Args:
        runnables: the tasks by name.
        codec: reads jobs and writes results.
        finisher: takes the finishes.
        store: is told that a run begins, where that matters.
        observer, log: told of every run.
        options: see `RunOptions`.
    """

    def __init__(
        self,
        runnables: Mapping[str, Runnable],
        codec: JobCodec,
        finisher: Finisher,
        *,
        store: JobStore,
        observer: JobObserver,
        log: JobLog,
        options: RunOptions,
    ) -> None:
        self._runnables = runnables
        self._codec = codec
        self._finisher = finisher
        self._store = store
        self._observer = observer
        self._log = log
        self._options = options
        self._unknown: set[str] = set()

    async def run(self, run: Run) -> Outcome:
        """Run one claim and hand in its finish; returns the outcome that counts."""
        run.started_ms = int(time.time() * 1000)
        outcome = self._outcome_before(run)
        runnable = self._runnables.get(run.job.function)
        scope = context.open_scope(scope_of(run))
        try:
            seconds = None
            if outcome is None:
                if runnable is None:
                    return await self._end_unknown(run)
                outcome = refuse(run, runnable)
                if outcome is None:
                    self._tell_started(run)
                    before = time.perf_counter()
                    outcome = await execute(
                        run, runnable, self._begin(run.claim) if run.claim.stalls else None
                    )
                    seconds = time.perf_counter() - before
            outcome, recorded = self._end(run, runnable, outcome, seconds)
            if recorded is not None and runnable is not None:
                await recorded
                await runnable.after(run)
            return outcome
        finally:
            context.close_scope(scope)

    def _outcome_before(self, run: Run) -> Outcome | None:
        """Read the payload; the outcome that stands before the task is looked for, or None."""
        bury = self._options.bury_unreadable
        claim = run.claim
        if claim.oversized:
            return Failed(PayloadTooLarge("the payload is too large to be read"), bury, "undecodable")
        if claim.payload is None:
            return Failed(JobExpiredError("the job has expired"), bury, "expired")
        try:
            if not claim.job_id.isascii():
                claim.job_id.encode()
            job = run.job = self._codec.decode_job(claim.payload)
        except UnicodeEncodeError:
            return Failed(DecodeError("the job's id is not UTF-8"), bury, "undecodable")
        except Exception as error:  # noqa: BLE001 - a codec may be anybody's
            return Failed(error, bury, "undecodable")
        if job.first_attempt is not None and job.first_attempt > claim.attempt:
            run.claim = claim._replace(attempt=job.first_attempt)
        if claim.aborted:
            return Aborted()
        if claim.stalls > self._options.max_stalls:
            return Failed(
                PoisonJobError(f"its worker died {claim.stalls} times while running it"), bury, "poison"
            )
        return None

    async def _begin(self, claim: Claim) -> None:
        """A job that has stalled before says that it begins: its worker's death would be its doing."""
        try:
            await self._store.begin(claim)
        except StoreError as error:  # then this run's death would not count, which is the safe side
            logger.warning(
                "job %r: its start was not noted (%s)", printable(claim.job_id), type(error).__name__
            )

    def _tell_started(self, run: Run) -> None:
        claim, job = run.claim, run.job
        # A priority moves the score ahead of the time when the job was due.
        waited = max(0, claim.claimed_ms - max(claim.score, job.enqueued_ms))
        self._observer.started(claim.queue, job.function, waited / 1000)
        try:
            self._log.started(run)
        except Exception:
            logger.exception("job %r: its log failed", claim.job_id)

    def _end(
        self, run: Run, runnable: Runnable | None, outcome: Outcome, seconds: float | None
    ) -> tuple[Outcome, asyncio.Future[FinishStatus] | None]:
        """Hand in the finish; the outcome that counts, and a future if somebody waits for the record.

        Nothing is awaited here: no cancellation comes between a run's end and its finish.
        """
        if run.settled:  # abandoned by a worker that has ended
            return Released(), None
        run.finished_ms = int(time.time() * 1000)
        finish, outcome = settle(run, outcome, runnable, self._codec)
        recorded = None
        if runnable is not None and runnable.finishes_later:
            recorded = self._finisher.submit_and_tell(finish)
        else:
            self._finisher.submit(finish)
        run.settled = True
        self._report(run, outcome, seconds)
        return outcome, recorded

    async def _end_unknown(self, run: Run) -> Outcome:
        """Leave the job to workers that may know the task, for a while; the store keeps the time."""
        options = self._options
        error = UnknownTask(f"no task named {run.job.function!r} is known here")
        failed = Failed(error, options.bury_unreadable, "unknown-task")
        if not options.unknown_task_grace:
            return self._end(run, None, failed, None)[0]
        run.finished_ms = int(time.time() * 1000)
        finish, outcome = settle(run, failed, None, self._codec)
        grace = int(options.unknown_task_grace * 1000)
        told = self._finisher.submit_and_tell(finish._replace(action=Action.PARK, number=grace))
        run.settled = True
        if await told is FinishStatus.PARKED:
            self._say_unknown(run)
            outcome = Released()
        self._report(run, outcome, None)
        return outcome

    def _say_unknown(self, run: Run) -> None:
        """Once a task: its job comes by every second."""
        name = run.job.function
        if name in self._unknown or len(self._unknown) >= _MOST_UNKNOWN:
            return
        self._unknown.add(name)
        logger.warning(
            "no task %r here; is its module included? Its jobs are left to other workers for %.0f s, then buried",
            printable(name),
            self._options.unknown_task_grace,
        )

    def _report(self, run: Run, outcome: Outcome, seconds: float | None) -> None:
        self._observer.finished(run.claim.queue, run.job.function, outcome_name(outcome), seconds or 0.0)
        try:
            self._log.ended(run, outcome, seconds)
        except Exception:
            logger.exception("job %r: its log failed", run.claim.job_id)


def scope_of(run: Run) -> dict[str, str]:
    """What the run's log lines carry: the enqueuer's correlation id, if it is sound, and the job's own.

    A job that nobody's request asked for is the start of its own story: its retries and nested jobs share its id.
    """
    claim, job = run.claim, run.job
    request_id = job.headers.get(context.REQUEST_ID)
    if request_id is None or not context.is_valid_id(request_id):
        request_id = claim.job_id if context.is_valid_id(claim.job_id) else context.new_id()
    scope = {
        context.REQUEST_ID: request_id,
        "job_id": printable(claim.job_id),
        "task": job.function,
        "queue": claim.queue,
    }
    parent = job.headers.get(context.TRACEPARENT)
    if parent is not None and (sound := context.parse_traceparent(parent)) is not None:
        scope[context.TRACEPARENT] = sound
    return scope
