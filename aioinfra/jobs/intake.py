"""What a worker takes in: as many due jobs as it has room for, each into a slot or ahead of one.

While runs are short, as many claims again as there are slots are taken ahead, so that the next jobs start while
the claim call for the ones after them is on its way. Claims that wait for a slot without any run ending are given
back soon: one long job must not keep others from a worker that is idle.

No claims are made while the store does not take finishes: after an outage the results of what has run are
recorded before anything is run again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

from aioinfra.backoff import Backoff
from aioinfra.errors import StoreError
from aioinfra.jobs.eager import start
from aioinfra.jobs.job import Action, Claim, ClaimReply, Finish
from aioinfra.jobs.parts import WorkerParts
from aioinfra.jobs.slots import Slots

logger = logging.getLogger("aioinfra.jobs")

_STORE_RETRY = Backoff(tries=1_000_000, base=0.05, cap=0.5)
_SIZES_EVERY = 5.0
_SHORT_RUN = 0.005
_SMOOTHING = 0.05
_AHEAD_PATIENCE = 0.05


class Intake:
    """Claims jobs for a worker's slots. Owned by the worker; one claim call at a time.

    Args:
        parts: of the worker.
        slots: of the worker.
    """

    def __init__(self, parts: WorkerParts, slots: Slots) -> None:
        self._parts = parts
        self._slots = slots
        self._paused = False
        self._closed = False
        self._claiming: asyncio.Future[ClaimReply] | None = None
        self._run_time = 1.0  # seconds, moving average over runs
        self._moved = 0.0  # monotonic; when a run ended, or claims began to wait
        self._ahead_timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._next_sizes = 0.0
        self._wrong: tuple[str, ...] = ()

    def pause(self) -> None:
        """Take nothing until `resume`, and give back what waits for a slot."""
        self._paused = True
        self._give_back(self._slots.take_back())

    def resume(self) -> None:
        """Take again."""
        self._paused = False

    def close(self) -> None:
        """As `pause`, for good."""
        self._closed = True
        self.pause()

    def room(self, limit: int) -> int:
        """How many jobs may be claimed now; ``limit`` bounds the runs in all, -1 does not."""
        finisher, slots = self._parts.finisher, self._slots
        if self._paused or finisher.troubled or finisher.outstanding > 2 * slots.capacity:
            return 0
        room = slots.free
        if limit >= 0:
            return min(room, limit - slots.started)
        if self._run_time < _SHORT_RUN and not self._parts.claimer.has_limits:
            room += slots.capacity
        return room

    async def claim(self, room: int, *, sizes: bool) -> ClaimReply | None:
        """One claim call, and what it brings is taken; None after an error, which was waited out for a moment.

        Cancelled while the call is on its way, `give_back_last` returns what it brings.
        """
        now = time.monotonic()
        sample = now >= self._next_sizes
        # Sent at once: while the server works at it, the claims that were taken ahead run.
        self._claiming = start(self._parts.claimer.claim(room, self._slots.per_queue, sizes=sizes or sample))
        try:
            reply = await asyncio.shield(self._claiming)
        except Exception as error:  # noqa: BLE001 - whatever it was, the jobs need the next attempt
            self._claiming = None
            await self._wait_out(error)
            return None
        self._claiming = None
        if self._failures:
            logger.warning("claiming jobs again after %d failures", self._failures)
            self._failures = 0
        if sample:
            self._next_sizes = now + _SIZES_EVERY
            self._report_sizes(reply)
        self._take(reply.claims)
        return reply

    def ended(self, seconds: float) -> None:
        """A run has ended, after so many seconds."""
        self._moved = time.monotonic()
        self._run_time += (seconds - self._run_time) * _SMOOTHING

    async def give_back_last(self) -> None:
        """Return what a claim call brings that was cancelled under way."""
        claiming, self._claiming = self._claiming, None
        if self._ahead_timer is not None:
            self._ahead_timer.cancel()
        if claiming is None:
            return
        try:
            self._give_back((await claiming).claims)
        except Exception as error:  # noqa: BLE001 - the end goes on
            logger.debug("the last claim call failed (%s)", type(error).__name__)

    async def _wait_out(self, error: Exception) -> None:
        self._failures += 1
        self._parts.observer.store_error("claim")
        if self._failures == 1:
            known = isinstance(error, StoreError)
            logger.warning(
                "cannot claim jobs (%s%s); trying again",
                type(error).__name__,
                f": {error}" if known else "",
                exc_info=None if known else error,
            )
        if not self._closed:
            await asyncio.sleep(_STORE_RETRY.delay(self._failures))

    def _report_sizes(self, reply: ClaimReply) -> None:
        for queue, size in reply.sizes.items():
            self._parts.observer.depth(queue, size)
        if reply.wrong != self._wrong:
            self._wrong = reply.wrong
            for queue in reply.wrong:
                logger.error("the key of queue %r is not a sorted set; the queue is skipped", queue)

    def _take(self, claims: Sequence[Claim]) -> None:
        if not claims:
            return
        for queue, count in Counter([claim.queue for claim in claims]).items():
            self._parts.observer.claimed(queue, count)
        if self._paused:  # since the call was sent
            self._give_back(claims)
            return
        self._parts.leases.hold(claims)
        for claim in claims:
            replaced = self._slots.take(claim)
            if replaced is not None:
                logger.warning("the lease of job %r had lapsed while it was held here", claim.job_id)
                self._parts.leases.drop([replaced])
        if self._slots.waiting and self._ahead_timer is None:
            self._moved = time.monotonic()
            self._watch_ahead()

    def _give_back(self, claims: Sequence[Claim]) -> None:
        """Return claims that were not started to their queues, as they were."""
        for claim in claims:
            self._parts.finisher.submit(Finish(claim, Action.RELEASE, number=claim.score))

    def _watch_ahead(self) -> None:
        """Give claims back that wait although no run ends."""
        self._ahead_timer = None
        if not self._slots.waiting:
            return
        if time.monotonic() - self._moved >= _AHEAD_PATIENCE:
            self._run_time = 1.0
            self._give_back(self._slots.take_back())
        else:
            loop = asyncio.get_running_loop()
            self._ahead_timer = loop.call_later(_AHEAD_PATIENCE, self._watch_ahead)
