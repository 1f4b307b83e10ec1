"""What a running job knows of itself: injected where a task's parameter is annotated `JobContext`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aioinfra import context as correlation
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.job import Progress


class ProgressSink(Protocol):
    """Where progress goes; the worker provides it."""

    async def __call__(self, job_id: str, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job's own particulars.

    Attributes:
        job_id: the id.
        queue: where it was claimed from.
        task: name of the task.
        attempt: 1 for the first try; stalls and releases do not count.
        stalls: runs before this one whose worker died.
        enqueued_at: unix seconds by the producer's clock.
        headers: what travelled beside the arguments.
        sink: takes the progress.
    """

    job_id: str
    queue: str
    task: str
    attempt: int
    stalls: int
    enqueued_at: float
    headers: Mapping[str, str]
    sink: ProgressSink

    @property
    def request_id(self) -> str | None:
        """The correlation id of whoever enqueued the job."""
        return correlation.request_id()

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the job is; readable through `JobHandle.progress`. One round trip.

        Best effort: while the server does not answer, progress is dropped and the job goes on.

        From a sync task's thread: ``anyio.from_thread.run(context.progress, 3, 10)``.

        Raises:
            InvalidArgument: a number is not one or is whole and beyond 63 bits, or ``message`` is longer than
                1,000 characters or holds a lone surrogate.
        """
        for name, value in (("done", done), ("total", 0 if total is None else total)):
            if not _is_number(value):
                raise InvalidArgument(name, "must be a finite number, of at most 63 bits if it is whole")
        if not isinstance(message, str) or len(message) > 1_000 or not _is_unicode(message):
            raise InvalidArgument(
                "message", "must be text of at most 1,000 characters, without lone surrogates"
            )
        await self.sink(self.job_id, Progress(done, total, message))


def _is_number(value: object) -> bool:
    """Whether JSON can hold it: isfinite fails on large whole numbers, and so does the encoder."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
