"""A worker's slots: the runs that hold one, and the claims that wait for one.

Invariants
    not more runs than slots
    claims wait only while every slot is taken, unless the worker is stopping
    a job runs here once at a time: a claim of a job that runs here already (its lease had lapsed) goes to that run
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from aioinfra.jobs.job import Cancel, Claim, Run


class Slots:
    """Starts runs in tasks of their own. Whoever owns it calls `ended` as the last act of each run.

    Args:
        capacity: runs at once.
        start: the coroutine of one run.
    """

    def __init__(self, capacity: int, start: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
        self.capacity = capacity
        self._start = start
        self._runs: set[Run] = set()
        self._by_id: dict[str, Run] = {}
        self._ahead: dict[str, Claim] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        """Tasks by job id, for whoever wants to look."""
        self.per_queue: Counter[str] = Counter()
        """Runs of each queue."""
        self.started = 0
        """Runs since the beginning."""

    @property
    def running(self) -> int:
        """Slots that are taken."""
        return len(self._runs)

    @property
    def waiting(self) -> int:
        """Claims that wait for a slot."""
        return len(self._ahead)

    @property
    def free(self) -> int:
        """Slots that neither a run nor a waiting claim needs; below 0 when more claims wait."""
        return self.capacity - len(self._runs) - len(self._ahead)

    def take(self, claim: Claim) -> Claim | None:
        """Run a claim, now or when a slot is free; answers the earlier claim of the same job that it replaces."""
        run = self._by_id.get(claim.job_id)
        if run is not None and not run.settled and run.claim.queue == claim.queue:
            earlier, run.claim = run.claim, claim
            if claim.aborted:  # the claim call has used the request up
                _cancel(run, Cancel.ABORT)
            return earlier
        if claim.job_id in self._ahead or len(self._runs) >= self.capacity:
            waiting, self._ahead[claim.job_id] = self._ahead.get(claim.job_id), claim
            return waiting
        self._begin(claim)
        return None

    def _begin(self, claim: Claim) -> None:
        self.started += 1
        self.per_queue[claim.queue] += 1
        run = Run(claim)
        self._runs.add(run)
        self._by_id[claim.job_id] = run
        run.task = self.tasks[claim.job_id] = asyncio.create_task(self._start(run))

    def ended(self, run: Run) -> None:
        """Give the run's slot to the next claim that waits."""
        self._runs.discard(run)
        job_id = run.claim.job_id
        self.per_queue[run.claim.queue] -= 1
        if self._by_id.get(job_id) is run:
            del self._by_id[job_id], self.tasks[job_id]
        if self._ahead:
            self._begin(self._ahead.pop(next(iter(self._ahead))))

    def take_back(self) -> list[Claim]:
        """Withdraw the claims that wait."""
        claims = list(self._ahead.values())
        self._ahead.clear()
        return claims

    def cancel(self, job_id: str, cause: Cancel) -> bool:
        """Cancel a job that runs here and has not ended; whether there is one."""
        run = self._by_id.get(job_id)
        if run is None or run.settled:
            return False
        _cancel(run, cause)
        return True

    def cancel_all(self, cause: Cancel) -> None:
        """Cancel every run."""
        for run in list(self._runs):
            _cancel(run, cause)

    def abandon(self) -> list[Claim]:
        """Settle the runs that have not ended, whatever they go on to do; answers their claims."""
        abandoned = [run for run in self._runs if not run.settled]
        for run in abandoned:
            run.settled = True
        return [run.claim for run in abandoned]


def _cancel(run: Run, cause: Cancel) -> None:
    if run.cause is None:
        run.cause = cause
    # A task that is cancelled before its first step never runs a line, and so could not finish its claim: it is
    # left to start, and finds the cause before it calls the user's code.
    if run.begun and run.task is not None:
        run.task.cancel()
