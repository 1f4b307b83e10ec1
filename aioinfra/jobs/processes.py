"""A worker's process children: spawned, never forked, each running one job at a time.

No shared pool of `concurrent.futures`: there a child that dies breaks the pool, and no single one can be killed.
Here a run owns its child from the call to the answer. Whatever ends the run otherwise (its hard limit, an abort,
the worker's end) kills that child with all it has started, and its siblings do not notice.

    take an idle child, or spawn one -> Call -> Progressed ... -> Returned | Raised -> put it back
                                             -> anything else                       -> kill it
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from aioinfra.codec.bounds import check_whole
from aioinfra.jobs.job import ErrorRecord, Failed, Outcome, Retried
from aioinfra.jobs.limits import hard_timeout
from aioinfra.jobs.payload import JsonCodec
from aioinfra.jobs.process_handle import JobProcessDied, ProcessHandle, TellProgress
from aioinfra.jobs.process_messages import Call, ChildSetup, Hello, Raised, Returned, frame
from aioinfra.jobs.records import CarriedError

_START_LIMIT = 60.0
"""Seconds for a child to start and import its tasks; on a busy machine that takes some."""
_NO_RECORD = ErrorRecord("builtins.RuntimeError", "the task asked for a retry, and there is none left")


class JudgedElsewhere(Exception):
    """The task raised in its process, where its policy has judged the error.

    Attributes:
        outcome: what becomes of the job.
    """

    def __init__(self, outcome: Failed | Retried) -> None:
        super().__init__("" if outcome.error is None else str(outcome.error))
        self.outcome: Outcome = outcome

    def with_origin(self) -> Outcome:
        """The outcome; its error shows in logs where it came out, and in its notes where it was raised."""
        if isinstance(self.outcome, Failed):
            self.outcome.error.with_traceback(self.__traceback__)
        return self.outcome


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """How a worker keeps its process children.

    Attributes:
        slots: children at once; a job waits for one. None: as many as there are processors.
        max_jobs: jobs after which a child is replaced.
        setup: what a child does first, or None.
        modules: those that a child imports before its first job.
    """

    slots: int | None = None
    max_jobs: int = 1_000
    setup: ChildSetup | None = None
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.slots is not None:
            check_whole("process_slots", self.slots, 1, 1_000)
        check_whole("jobs_per_process", self.max_jobs, 1, 1_000_000_000)


class ProcessPool:
    """The children of one worker, on one event loop. Spawned when they are needed; they stay until `aclose`.

    Args:
        options: see `ProcessOptions`.
    """

    def __init__(self, options: ProcessOptions = ProcessOptions()) -> None:
        self._options = options
        self._idle: list[ProcessHandle] = []
        self._all: set[ProcessHandle] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(options.slots or os.cpu_count() or 1)

    async def run(self, call: Call, hard: float | None, tell: TellProgress) -> Any:
        """Run one job in a child; its value in plain types.

        The limit counts from the moment when a child that is ready gets the job.

        Args:
            call: the job.
            hard: seconds after which the child is killed, or None.
            tell: takes the job's progress.

        Raises:
            JudgedElsewhere: the task raised.
            CarriedError: it raised, and nobody has judged.
            TimeoutError: the hard limit is over.
            JobProcessDied: the child ended, or could not start.
            PayloadTooLarge: the job is too large for a message.
        """
        message = frame(call)
        async with self._places:
            child = await self._take()
            ended = False
            try:
                answer = await _within(hard, child.ask(message, tell))
                ended = True
            finally:
                if ended and child.jobs < self._options.max_jobs:
                    self._idle.append(child)
                else:
                    self._end(child)
        return _value_of(answer)

    async def aclose(self) -> None:
        """Kill all children, and wait until they are gone, which takes milliseconds."""
        self._idle.clear()
        for child in list(self._all):
            self._end(child)
        while self._ending:
            await asyncio.wait(list(self._ending))

    async def _take(self) -> ProcessHandle:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            self._end(child)
        child = ProcessHandle()
        self._all.add(child)
        try:
            options = self._options
            hello = Hello([str(place) for place in sys.path], list(options.modules), options.setup)
            async with asyncio.timeout(_START_LIMIT):
                await child.start(hello)
        except TimeoutError:
            self._end(child)
            raise JobProcessDied(f"no process was ready within {_START_LIMIT:g} s") from None
        except BaseException:
            self._end(child)
            raise
        return child

    def _end(self, child: ProcessHandle) -> None:
        """Kill a child now; it is reaped beside."""
        child.kill()
        if child in self._all:
            self._all.discard(child)
            reaping = asyncio.create_task(child.reap(), name="aioinfra-reap")
            self._ending.add(reaping)
            reaping.add_done_callback(self._ending.discard)


async def _within(seconds: float | None, step: Awaitable[Any]) -> Any:
    """Raises our TimeoutError when the time is over, and leaves one of the step's own alone."""
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            return await step
    except TimeoutError:
        if timer.expired() and seconds is not None:
            raise hard_timeout(seconds) from None
        raise


def _value_of(answer: Returned | Raised) -> Any:
    if isinstance(answer, Returned):
        info = JsonCodec().decode_result(answer.result)
        if info.success:
            return info.value
        raise JudgedElsewhere(Failed(CarriedError(info.value), reason="unencodable-result"))
    error = None if answer.error is None else _carried(answer)
    if not answer.judged and error is not None:
        raise error
    if answer.retry_in is not None:
        raise JudgedElsewhere(Retried(answer.retry_in, error))
    raise JudgedElsewhere(Failed(error or CarriedError(_NO_RECORD), reason=answer.reason))


def _carried(answer: Raised) -> CarriedError:
    assert answer.error is not None  # noqa: S101 - narrows the type
    error = CarriedError(answer.error)
    for file, line, function in answer.error.traceback:
        error.add_note(f'  File "{file}", line {line}, in {function}')
    return error
