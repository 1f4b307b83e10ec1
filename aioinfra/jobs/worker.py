"""The engine's run loop: claim, start, wait to be woken; and an orderly end.

Collaborators by lifetime
    JobWorker     the process's worker: owns all below, from `run` to its end
    Wake          when to look                  (a task)
    Intake        what to take                  (one claim call at a time)
    Slots         who runs, and who waits for a slot
    JobRunner     one claim from payload to finish  (a task a job)
    Finisher      what has ended                (one batch in flight)
    LeaseKeeper   proof of life                 (a thread)

A slot is taken when a claim is started and free when its run has ended. That its finish is still on the way does
not hold the slot, but its lease is kept until the store knows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.forks import watch_forks
from aioinfra.jobs.intake import Intake
from aioinfra.jobs.job import Action, Cancel, Claim, ClaimReply, Finish, Outcome, Run
from aioinfra.jobs.lease import LeaseOptions
from aioinfra.jobs.parts import WorkerParts
from aioinfra.jobs.slots import Slots
from aioinfra.jobs.uncancelled import uncancelled

logger = logging.getLogger("aioinfra.jobs")

_HOUSEKEEPING = 0.5
_CANCEL_GRACE = 5.0
_RECORD_GRACE = 5.0
_LOOK_DISTANCE = 0.004
_ECHO = 0.002


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
        count: object = self.concurrency
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidArgument("concurrency", "must be a whole number of at least 1")
        for name, least in (("safety_poll", 0.05), ("grace", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 86_400:
                raise InvalidArgument(name, f"must be {least:g} to 86,400 seconds")


class JobWorker:
    """Claims and runs jobs until it is stopped.

    Args:
        parts: the collaborators; the finisher's ``on_settled`` is the worker's.
        options: see `WorkerOptions`.
        on_ended: told of every run's outcome.
    """

    def __init__(
        self,
        parts: WorkerParts,
        options: WorkerOptions,
        *,
        on_ended: Callable[[Run, Outcome], None] | None = None,
    ) -> None:
        self._parts = parts
        self._options = options
        self._on_ended = on_ended
        self._slots = Slots(options.concurrency, self._run)
        self.tasks = self._slots.tasks
        self._intake = Intake(parts, self._slots)
        self._changed = asyncio.Event()  # a slot became free, a batch was recorded, the worker is to stop
        self._look_on_change = False
        self._stopping = False
        self._hurried = False
        self._grace = options.grace
        self._task: asyncio.Task[object] | None = None
        parts.finisher.on_settled = self._settled

    # What others may do to a running worker

    @property
    def running(self) -> int:
        """Jobs that run here now."""
        return self._slots.running

    @property
    def started(self) -> int:
        """Jobs that were started here since the beginning."""
        return self._slots.started

    def pause(self) -> None:
        """Claim nothing until `resume`; running jobs go on."""
        self._intake.pause()

    def resume(self) -> None:
        """Claim again."""
        self._intake.resume()
        self._changed.set()

    def stop(self, grace: float | None = None) -> None:
        """Claim no more, and let `run` come to its end: running jobs get their grace, then are given back.

        Args:
            grace: seconds instead of the option's.
        """
        if grace is not None:
            self._grace = grace
        self._stopping = True
        self._intake.close()
        self._changed.set()
        self._parts.wake.notify()

    def hurry(self) -> None:
        """As `stop`, but whatever still runs is given back at once."""
        self._hurried = True
        self.stop()

    def abort(self, job_id: str) -> bool:
        """Cancel a job that runs here, for good; whether there is one."""
        return self._slots.cancel(job_id, Cancel.ABORT)

    # The run

    async def run(self, *, burst: bool = False, burst_limit: int = -1) -> None:
        """Work until `stop`, or with ``burst`` until the queues are empty or ``burst_limit`` jobs were started.

        A cancellation gives running jobs back at once, records what has ended, and is raised again.
        """
        self._task = asyncio.current_task()
        watch_forks(asyncio.get_running_loop())
        helpers = [
            asyncio.create_task(self._parts.wake.run(), name="aioinfra-wake"),
            asyncio.create_task(self._keep_house(), name="aioinfra-housekeeping"),
        ]
        for helper in helpers:
            helper.add_done_callback(_report_death)
        try:
            self._parts.leases.start()
            await self._work(burst_limit if burst else None)
        except BaseException:
            self.hurry()
            raise
        finally:
            self.stop()
            ending = asyncio.create_task(self._end(helpers), name="aioinfra-worker-end")
            await uncancelled(ending, self.hurry)

    async def _work(self, burst: int | None) -> None:
        """Claim and start until told to stop. ``burst``: the most jobs to start, -1 for all; None: no burst."""
        limit = -1 if burst is None else burst
        self._look_on_change = burst is not None or self._parts.claimer.has_limits
        idle_looks = 0
        while not self._stopping:
            if 0 <= limit <= self._slots.started:
                await self._until_idle()
                return
            room = self._intake.room(limit)
            if room <= 0:
                await self._until_changed(limit)
                continue
            self._parts.wake.clear()
            reply = await self._intake.claim(room, sizes=burst is not None)
            if reply is None:
                continue
            if burst is not None and self._is_drained(reply):
                return
            idle_looks = 0 if reply.claims else idle_looks + 1
            if len(reply.claims) < room and not self._stopping:
                await self._rest(reply, idle_looks)

    async def _until_changed(self, limit: int) -> None:
        self._changed.clear()
        if self._intake.room(limit) <= 0 and not self._stopping:
            await self._changed.wait()

    async def _until_idle(self) -> None:
        while self._slots.running and not self._hurried:
            self._changed.clear()
            await self._changed.wait()

    async def _rest(self, reply: ClaimReply, idle_looks: int) -> None:
        """Wait for the next reason to look.

        Looks keep a distance. After one that found jobs it is 2 ms: the claims, and soon the finishes, change the
        queue themselves, and what they would have the worker look for is in the way of the jobs. After looks that
        found nothing it grows to 4 ms: a busy neighbour's own claims and finishes also change the queue. Else a
        change after a quiet while is answered at once.
        """
        looked = time.monotonic()
        pause = self._options.safety_poll
        if reply.next_due_ms is not None:
            # At least a millisecond, the resolution of due times.
            pause = min(pause, max(0.001, reply.next_due_ms / 1000))
        woken = await self._parts.wake.wait(pause)
        if woken and idle_looks != 1 and not self._stopping:
            distance = min(_LOOK_DISTANCE, 0.0005 * 2 ** min(idle_looks, 4)) if idle_looks else _ECHO
            early = looked + distance - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)

    def _is_drained(self, reply: ClaimReply) -> bool:
        busy = reply.claims or self._slots.running or self._parts.finisher.outstanding
        return not busy and not any(reply.sizes[queue] for queue in reply.sizes.keys() - set(reply.paused))

    # One job

    async def _run(self, run: Run) -> None:
        run.begun, run.worker = True, self._task
        outcome: Outcome | None = None
        began = time.monotonic()
        try:
            outcome = await self._parts.runner.run(run)
        except Exception:
            logger.exception("job %r could not be run here", run.claim.job_id)
        finally:
            self._ended(run, began)
        if outcome is not None and self._on_ended is not None:
            self._on_ended(run, outcome)

    def _ended(self, run: Run, began: float) -> None:
        if not run.settled:
            # The engine's failure, not the job's, which is an outcome: the lease ends, and the job runs again.
            self._parts.leases.drop([run.claim])
        self._intake.ended(time.monotonic() - began)
        self._slots.ended(run)
        self._changed.set()
        if self._look_on_change:
            self._parts.wake.notify()

    def _settled(self, claims: Sequence[Claim]) -> None:
        """The store knows how these claims ended."""
        self._parts.leases.drop(claims)
        self._changed.set()
        if self._look_on_change:
            self._parts.wake.notify()

    # The end

    async def _end(self, helpers: Sequence[asyncio.Task[None]]) -> None:
        """Wait for running jobs, give back the rest, record everything, then stop the helpers."""
        try:
            await self._intake.give_back_last()
            await self._until_idle_within(0.0 if self._hurried else self._grace)
            self._slots.cancel_all(Cancel.RELEASE)
            self._hurried = False
            await self._until_idle_within(_CANCEL_GRACE)
            self._abandon()
            await self._parts.finisher.aclose(_RECORD_GRACE)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)
            await self._parts.leases.aclose()

    def _abandon(self) -> None:
        """Give back in their name the jobs that do not end when cancelled; how they end counts no more."""
        if self._slots.running:
            logger.error(
                "%d jobs do not end when cancelled: they are given back as they are", self._slots.running
            )
        for claim in self._slots.abandon():
            self._parts.finisher.submit(Finish(claim, Action.RELEASE, number=claim.score))

    async def _until_idle_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._until_idle()
        except TimeoutError:
            return

    async def _keep_house(self) -> None:
        while True:
            self._parts.leases.beat()
            self._parts.observer.slots(self._slots.running, self._slots.capacity)
            await asyncio.sleep(_HOUSEKEEPING)


def _report_death(helper: asyncio.Task[None]) -> None:
    """Without its helpers a worker goes on, slower or without leases: worth more than a line at exit."""
    if not helper.cancelled() and helper.exception() is not None:
        logger.critical("%s ended; restart this worker", helper.get_name(), exc_info=helper.exception())
