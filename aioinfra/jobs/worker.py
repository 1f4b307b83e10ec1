"""The engine's run loop: claim, start, wait to be woken; and an orderly end.

Collaborators by lifetime
    JobWorker     the process's worker: owns all below, from `run` to its end
    Wake          when to look                  (a task)
    Claimer       what to take                  (one call at a time)
    JobRunner     one claim from payload to finish  (a task a job)
    Finisher      what has ended                (one batch in flight)
    LeaseKeeper   proof of life                 (a thread)

While runs are short, as many claims again as there are slots are taken ahead, so that the next jobs start while
the claim call for the ones after them is on its way. Claims that wait for a slot for longer than a housekeeping
turn are given back: one long job must not keep others from a worker that is idle.

A slot is taken when a claim is started and free when its run has ended; that its finish is still on the way does
not hold the slot, but claims pause while more finishes wait than there are slots, so that an outage of the store
cannot pile them up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aioinfra.backoff import Backoff
from aioinfra.errors import InvalidArgument, StoreError
from aioinfra.jobs.claim import Claimer
from aioinfra.jobs.execute import Cancel
from aioinfra.jobs.finish import Finisher
from aioinfra.jobs.job import Action, Claim, ClaimReply, Finish, Outcome
from aioinfra.jobs.lease import LeaseKeeper, LeaseOptions
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.run import JobRunner
from aioinfra.jobs.wake import Wake

logger = logging.getLogger("aioinfra.jobs")

_STORE_RETRY = Backoff(tries=1_000_000, base=0.05, cap=0.5)
_HOUSEKEEPING = 0.5
_SIZES_EVERY = 5.0
_CANCEL_GRACE = 5.0
_SHORT_RUN = 0.005
_SMOOTHING = 0.05


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
        concurrency: jobs that run here at once.
        lease: how long a silent worker keeps its jobs.
        safety_poll: seconds after which the queues are looked at although nothing was heard.
        grace: seconds that running jobs get when the worker stops; then they are given back.
    """

    concurrency: int = 100
    lease: LeaseOptions = field(default_factory=LeaseOptions)
    safety_poll: float = 1.0
    grace: float = 15.0

    def __post_init__(self) -> None:
        if (
            isinstance(self.concurrency, bool)
            or not isinstance(self.concurrency, int)
            or self.concurrency < 1
        ):
            raise InvalidArgument("concurrency", "must be a whole number of at least 1")
        for name, least in (("safety_poll", 0.05), ("grace", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 86_400:
                raise InvalidArgument(name, f"must be {least:g} to 86,400 seconds")


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """The collaborators of one worker, made by whoever composes it."""

    claimer: Claimer
    runner: JobRunner
    finisher: Finisher
    wake: Wake
    leases: LeaseKeeper
    observer: JobObserver


class JobWorker:
    """Claims and runs jobs until it is stopped.

    Args:
        parts: the collaborators.
        options: see `WorkerOptions`.
        on_ended: told of every run's outcome.
    """

    def __init__(
        self,
        parts: WorkerParts,
        options: WorkerOptions,
        *,
        on_ended: Callable[[Claim, Outcome], None] | None = None,
    ) -> None:
        self._parts = parts
        self._options = options
        self._on_ended = on_ended
        self.tasks: dict[str, asyncio.Task[None]] = {}  # by job id, for whoever wants to look or abort
        self._runs: dict[str, asyncio.Task[None]] = {}  # by token: every slot that is taken
        self._begun: dict[str, str] = {}  # job id to token, once a run's first line was reached
        self._running: Counter[str] = Counter()
        self._cancels: dict[str, Cancel] = {}
        self._ahead: deque[Claim] = deque()  # claimed, waiting for a slot
        self._ahead_since = 0.0
        self._run_time = 1.0  # seconds, moving average over runs
        self._slot_freed = asyncio.Event()
        self._look_on_end = False
        self._grace = options.grace
        self._stopping = False
        self._paused = False
        self._started = 0
        self._failures = 0
        self._next_sizes = 0.0

    # What others may do to a running worker

    @property
    def running(self) -> int:
        """Jobs that run here now."""
        return len(self._runs)

    @property
    def started(self) -> int:
        """Jobs that were started here since the beginning."""
        return self._started

    def pause(self) -> None:
        """Claim nothing until `resume`; running jobs go on."""
        self._paused = True

    def resume(self) -> None:
        """Claim again."""
        self._paused = False
        self._slot_freed.set()

    def stop(self, grace: float | None = None) -> None:
        """Claim no more, and let `run` come to its end: running jobs get their grace, then are given back.

        Args:
            grace: seconds instead of the option's.
        """
        if grace is not None:
            self._grace = grace
        self._stopping = True
        self._slot_freed.set()
        self._parts.wake.notify()

    def abort(self, job_id: str) -> bool:
        """Cancel a job that runs here, for good; whether there is one."""
        return self._cancel(job_id, Cancel.ABORT)

    def release_all(self) -> None:
        """Cancel all running jobs and give them back; no try is counted."""
        for job_id in list(self.tasks):
            self._cancel(job_id, Cancel.RELEASE)

    # The run

    async def run(self, *, burst: bool = False, burst_limit: int = -1) -> None:
        """Work until `stop`, or with ``burst`` until the queues are empty or ``burst_limit`` jobs were started.

        A cancellation gives running jobs back at once, records what has ended, and is raised again.
        """
        wake = asyncio.create_task(self._parts.wake.run(), name="aioinfra-wake")
        beat = asyncio.create_task(self._keep_house(), name="aioinfra-housekeeping")
        self._parts.leases.start()
        grace = 0.0
        try:
            await self._work(burst=burst, burst_limit=burst_limit)
            grace = self._grace
        finally:
            self._stopping = True
            ending = asyncio.create_task(self._end(grace, wake, beat), name="aioinfra-worker-end")
            await _uncancelled(ending)

    async def _work(self, *, burst: bool, burst_limit: int) -> None:
        wake = self._parts.wake
        limit = burst_limit if burst else -1
        self._look_on_end = burst or self._parts.claimer.has_limits
        idle_looks = 0
        while not self._stopping:
            free = self._free(limit)
            if free <= 0:
                if burst and 0 <= limit <= self._started:
                    return
                await self._slot(limit)
                continue
            wake.clear()
            reply = await self._claim(free, sizes=burst)
            if reply is None:
                continue
            for claim in reply.claims:
                self._take(claim)
            if len(reply.claims) == free:
                idle_looks = 0
                continue
            if burst and not reply.claims and not self._runs:
                if self._parts.finisher.outstanding:
                    await self._parts.finisher.flush(self._options.safety_poll)
                    continue
                if not sum(reply.sizes.values()):
                    return
            idle_looks = 0 if reply.claims else idle_looks + 1
            await self._rest(reply, idle_looks)

    async def _slot(self, limit: int) -> None:
        """Wait until a slot may be free. Finishes that pile up free none until the store has them."""
        self._slot_freed.clear()
        if self._free(limit) > 0 or self._stopping:
            return
        if self._parts.finisher.outstanding > 2 * self._options.concurrency:
            await self._parts.finisher.flush(self._options.safety_poll)
            return
        await self._slot_freed.wait()

    async def _rest(self, reply: ClaimReply, idle_looks: int) -> None:
        """Wait for the next reason to look. Wakes that found nothing are answered later and later, up to 4 ms:
        a busy neighbour's own claims and finishes also change the queue."""
        pause = self._options.safety_poll
        if reply.next_due_ms is not None:
            pause = min(pause, reply.next_due_ms / 1000)
        if pause <= 0:
            # A due time within this very millisecond.
            pause = 0.001
        woken = await self._parts.wake.wait(pause)
        if woken and idle_looks > 1 and not self._stopping:
            await asyncio.sleep(min(0.004, 0.0005 * 2 ** min(idle_looks, 4)))

    def _free(self, burst_limit: int) -> int:
        if self._paused:
            return 0
        if self._parts.finisher.outstanding > 2 * self._options.concurrency:
            return 0
        free = self._options.concurrency - len(self._runs) - len(self._ahead)
        if self._run_time < _SHORT_RUN and not self._parts.claimer.has_limits and burst_limit < 0:
            free += self._options.concurrency
        return min(free, burst_limit - self._started) if burst_limit >= 0 else free

    async def _claim(self, free: int, *, sizes: bool) -> ClaimReply | None:
        """One claim call; None after an error of the store, which was waited out for a moment."""
        now = asyncio.get_running_loop().time()
        sample = now >= self._next_sizes
        try:
            reply = await self._parts.claimer.claim(free, self._running, sizes=sizes or sample)
        except StoreError as error:
            self._failures += 1
            self._parts.observer.store_error("claim")
            if self._failures == 1:
                logger.warning("cannot claim jobs (%s: %s); trying again", type(error).__name__, error)
            await asyncio.sleep(_STORE_RETRY.delay(self._failures))
            return None
        if self._failures:
            logger.warning("claiming jobs again after %d failures", self._failures)
            self._failures = 0
        if sample:
            self._next_sizes = now + _SIZES_EVERY
            for queue, size in reply.sizes.items():
                self._parts.observer.depth(queue, size)
            for queue in reply.wrong:
                logger.error("the key of queue %r is not a sorted set; the queue is skipped", queue)
        return reply

    # One job

    def _take(self, claim: Claim) -> None:
        self._parts.leases.hold(claim)
        if len(self._runs) < self._options.concurrency:
            self._start(claim)
            return
        if not self._ahead:
            self._ahead_since = asyncio.get_running_loop().time()
        self._ahead.append(claim)

    def _give_back_ahead(self) -> None:
        """Return what was taken ahead to its queue, as it was."""
        while self._ahead:
            claim = self._ahead.pop()
            self._parts.leases.drop(claim)
            self._parts.finisher.submit(Finish(claim, Action.RELEASE, number=claim.score))

    def _start(self, claim: Claim) -> None:
        self._started += 1
        self._running[claim.queue] += 1
        task = asyncio.create_task(self._run(claim))
        self._runs[claim.token] = self.tasks[claim.job_id] = task

    async def _run(self, claim: Claim) -> None:
        self._begun[claim.job_id] = claim.token
        outcome: Outcome | None = None
        before = time.monotonic()
        try:
            outcome = await self._parts.runner.run(claim, self._cancels)
        except Exception:
            # Not the job's error (that is an outcome) but the engine's: the lease ends, and the job runs again.
            logger.exception("job %s could not be run here", claim.job_id)
        finally:
            self._run_time += (time.monotonic() - before - self._run_time) * _SMOOTHING
            self._ended(claim)
        if outcome is not None and self._on_ended is not None:
            self._on_ended(claim, outcome)

    def _ended(self, claim: Claim) -> None:
        token, job_id = claim.token, claim.job_id
        self._parts.leases.drop(claim)
        self._cancels.pop(token, None)
        self._running[claim.queue] -= 1
        task = self._runs.pop(token)
        if self.tasks.get(job_id) is task:  # not when the job was claimed here again after a lapsed lease
            del self.tasks[job_id]
            del self._begun[job_id]
        if self._ahead and not self._stopping:
            self._start(self._ahead.popleft())
            self._ahead_since = asyncio.get_running_loop().time()
        self._slot_freed.set()
        if self._look_on_end:
            self._parts.wake.notify()

    def _cancel(self, job_id: str, cause: Cancel) -> bool:
        task = self.tasks.get(job_id)
        if task is None or task.done():
            return False
        token = next(token for token, run in self._runs.items() if run is task)
        self._cancels[token] = cause
        # A task that is cancelled before its first step never runs a line, and so could not finish its claim:
        # it is left to start, and finds the cause before it calls the user's code.
        if self._begun.get(job_id) == token:
            task.cancel()
        return True

    # The end

    async def _end(self, grace: float, wake: asyncio.Task[None], beat: asyncio.Task[None]) -> None:
        """Wait for running jobs, give back the rest, record everything, then stop the helpers."""
        try:
            self._give_back_ahead()
            await self._wait_for_tasks(grace)
            self.release_all()
            await self._wait_for_tasks(_CANCEL_GRACE)
            if self._runs:
                logger.error(
                    "%d jobs do not end when cancelled; they run again after their lease", len(self._runs)
                )
            await self._parts.finisher.aclose()
        finally:
            wake.cancel()
            beat.cancel()
            await asyncio.wait([wake, beat])
            await self._parts.leases.aclose()

    async def _wait_for_tasks(self, timeout: float) -> None:
        tasks = list(self._runs.values())
        if tasks and timeout > 0:
            await asyncio.wait(tasks, timeout=timeout)

    async def _keep_house(self) -> None:
        while True:
            self._parts.leases.beat()
            if self._ahead and asyncio.get_running_loop().time() - self._ahead_since > _HOUSEKEEPING:
                self._run_time = 1.0
                self._give_back_ahead()
            self._parts.observer.slots(len(self._runs), self._options.concurrency)
            await asyncio.sleep(_HOUSEKEEPING)


async def _uncancelled(task: asyncio.Task[None]) -> None:
    """Await a task to its end although the caller is being cancelled; a cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
