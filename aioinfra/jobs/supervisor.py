"""Keeps a number of worker processes running: spawned, watched, replaced, and ended together.

A worker says on its socket when it begins to work and when it should be replaced (`aioinfra.jobs.supervised`); the
end of that socket is the worker's end. Whoever is to leave gets one SIGTERM and its grace; its place is filled at
once, so that a worker that finishes long jobs costs no throughput.

    crashed                    a new one after a pause that grows from 0.5 to 30 s
    over max_jobs, max_rss,
    a thread over its limit    SIGTERM, and a new one at once
    restart()                  one after the other: the new one is ready before the old one gets its SIGTERM; a new
                               one that does not get ready ends the restart, and the old ones stay
    stop()                     SIGTERM to all; SIGKILL when their grace is over
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from aioinfra.backoff import Backoff
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.jobs.spawned import how_it_ended
from aioinfra.jobs.supervised import Orders
from aioinfra.jobs.worker_handle import WorkerHandle

logger = logging.getLogger("aioinfra.supervisor")

MARGIN = 12.0
"""Seconds beyond their grace that workers get to give back jobs and to record what has ended."""
MISCONFIGURED = 2
"""Exit status of a worker whose settings are wrong: another start would end the same way."""
_LOOK_EVERY = 1.0
_READY_LIMIT = 60.0
_STEADY = 30.0
"""Seconds after which a worker's crash is not taken for the last one's repetition."""


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """How a supervisor keeps its workers.

    Attributes:
        processes: workers at once.
        max_jobs: jobs after which a worker is replaced, or None.
        max_rss: bytes of resident memory above which it is, or None.
        grace: seconds that the workers' jobs get at their end; the workers know it by themselves.
        burst: workers end by themselves when the queues are empty, and are not replaced then.
        backoff: pauses before the replacement of a worker that crashed.
    """

    processes: int = 1
    max_jobs: int | None = None
    max_rss: int | None = None
    grace: float = 15.0
    burst: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.5, cap=30.0, jitter=False))

    def __post_init__(self) -> None:
        check_whole("processes", self.processes, 1, 10_000)
        if self.max_jobs is not None:
            check_whole("max_jobs", self.max_jobs, 1, 1 << 53)
        if self.max_rss is not None:
            check_whole("max_rss", self.max_rss, 1, 1 << 53)
        check_number("grace", self.grace, 0, 86_400)


@dataclass(slots=True)
class _Place:
    """One of the supervisor's places, and who has it."""

    index: int
    worker: WorkerHandle | None = None
    successor: WorkerHandle | None = None


class Supervisor:
    """Runs one command as several worker processes, until it is stopped.

    Args:
        command: of one worker, which calls `Supervised.from_environment`.
        options: see `SupervisorOptions`.
    """

    def __init__(self, command: Sequence[str], options: SupervisorOptions = SupervisorOptions()) -> None:
        self._command = list(command)
        self._options = options
        self._places = [_Place(index) for index in range(options.processes)]
        self._workers: set[WorkerHandle] = set()
        self._stopping = asyncio.Event()
        self._restart_wanted = asyncio.Event()
        self._anyone_ready = False
        self._status = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that exist, those that are leaving included."""
        return [worker.process.pid for worker in self._workers]

    def stop(self) -> None:
        """End all workers with their grace, and then `run`. Said again: their jobs are given back at once."""
        again = self._stopping.is_set()
        self._stopping.set()
        for worker in list(self._workers):
            if again:
                worker.process.send(signal.SIGTERM)
            else:
                worker.leave("the supervisor ends")

    def restart(self) -> None:
        """Replace the workers, one after the other. A burst has its workers to the end."""
        self._restart_wanted.set()

    async def run(self) -> int:
        """Keep the workers running until `stop`, or in a burst until all have ended.

        Returns:
            0 when all ended in order; 2 when the first ones are misconfigured; else 1.
        """
        duties = [asyncio.create_task(self._restart_when_told(), name="aioinfra-restart")]
        if self._options.max_rss is not None:
            duties.append(asyncio.create_task(self._look_at_memory(), name="aioinfra-memory"))
        keepers = [asyncio.create_task(self._keep(place)) for place in self._places]
        try:
            await asyncio.gather(*keepers)
            await self._until_alone()
        finally:
            for task in (*duties, *keepers):
                task.cancel()
            await asyncio.gather(*duties, *keepers, return_exceptions=True)
            for worker in list(self._workers):
                worker.process.kill()
            await self._until_alone()
        return self._status

    async def _until_alone(self) -> None:
        while self._workers:
            await asyncio.wait([worker.end for worker in self._workers])

    # One place

    async def _keep(self, place: _Place) -> None:
        """Have somebody in the place until the supervisor stops, or in a burst until the work is done."""
        crashes = 0
        while not self._stopping.is_set():
            worker = place.worker = place.successor or self._start(place)
            place.successor = None
            await worker.over.wait()
            if worker.leaving:
                crashes = 0
                continue
            if self._is_final(worker.status):
                return
            crashes = 1 if worker.age > _STEADY else crashes + 1
            pause = self._options.backoff.delay(crashes)
            told = how_it_ended(worker.status)
            logger.error("worker %d has ended (%s): a new one in %.1f s", worker.process.pid, told, pause)
            await self._rest(pause)

    def _is_final(self, status: int) -> bool:
        """Whether nobody takes the place of a worker that has ended by itself."""
        if status == 0 and self._options.burst:
            return True
        if status == MISCONFIGURED and not self._anyone_ready:
            self._status = MISCONFIGURED
            self.stop()
        return self._stopping.is_set()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _start(self, place: _Place) -> WorkerHandle:
        options = self._options
        orders = Orders(-1, options.max_jobs, options.max_rss, options.grace + MARGIN, place.index)
        worker = WorkerHandle(self._command, orders, self._hear)
        self._workers.add(worker)
        worker.end.add_done_callback(lambda _: self._ended(worker))
        logger.info("worker %d starts", worker.process.pid)
        return worker

    def _ended(self, worker: WorkerHandle) -> None:
        self._workers.discard(worker)
        unheard = worker.status == -signal.SIGTERM and not worker.ready.is_set()  # it was only starting
        if self._stopping.is_set() and worker.status and not unheard and not self._status:
            self._status = 1

    def _hear(self, worker: WorkerHandle, line: str) -> None:
        word, _, reason = line.partition(" ")
        if word == "ready":
            self._anyone_ready = True
            worker.ready.set()
        elif word == "leave":
            worker.leave(reason)

    # Duties beside the places

    async def _look_at_memory(self) -> None:
        """A worker looks at its own memory, and far more often; this is for one that has no time to."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for worker in list(self._workers):
                try:
                    rss = psutil.Process(worker.process.pid).memory_info().rss
                except psutil.Error:
                    continue
                if self._options.max_rss is not None and rss > self._options.max_rss:
                    worker.leave(f"it has {rss >> 20} MiB of memory")

    async def _restart_when_told(self) -> None:
        while True:
            await self._restart_wanted.wait()
            self._restart_wanted.clear()
            if self._options.burst:
                continue
            logger.info("the workers are replaced, one after the other")
            for place in self._places:
                if self._stopping.is_set():
                    return
                if not await self._renew(place) and not self._stopping.is_set():
                    logger.error("a new worker did not get ready: the restart ends, and the others stay")
                    break

    async def _renew(self, place: _Place) -> bool:
        """Replace who is in a place by somebody who is ready; whether there is one."""
        old, new = place.worker, self._start(place)
        if not await new.is_ready(_READY_LIMIT):
            new.process.kill()
            return False
        if place.worker is not old or old is None or old.over.is_set():
            if place.worker is not None and not place.worker.over.is_set():
                new.leave("its place has been filled meanwhile")
            else:
                place.successor = new  # the place rests after a crash
            return True
        place.successor = new
        old.leave("it is replaced")
        await asyncio.wait([old.end])
        return True
