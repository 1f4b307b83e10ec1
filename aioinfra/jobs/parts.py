"""The collaborators of one worker, made by whoever composes it."""

from __future__ import annotations

from dataclasses import dataclass

from aioinfra.jobs.claim import Claimer
from aioinfra.jobs.finish import Finisher
from aioinfra.jobs.lease import LeaseKeeper
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.surround import Runner
from aioinfra.jobs.wake import Wake


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a `JobWorker` works with, and ends in its `JobWorker.run`."""

    claimer: Claimer
    runner: Runner
    finisher: Finisher
    wake: Wake
    leases: LeaseKeeper
    observer: JobObserver
