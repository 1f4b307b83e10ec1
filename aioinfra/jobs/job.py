"""The values that travel through the engine: what is asked for, what is claimed, how it ended.

JobRequest -> (stored) -> Claim -> Run of a Job -> Outcome -> Finish -> (recorded)

All are immutable but `Run`, which lives as long as one run on one worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from aioinfra.jobs.arguments import ArgumentPlan

R_co = TypeVar("R_co", covariant=True)

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

REPLY_HEADER: Final = "reply"
"""Header that names the channel on which the producer waits to hear that the job has ended."""
REPLY_PREFIX: Final = "aioinfra:reply:"
"""What such a channel's name begins with."""
NONCE_HEADER: Final = "nonce"
"""Header that makes an enqueue recognise its own job when it is repeated after a lost reply."""

QUEUE_HEADER: Final = "queue"
"""Header that names the queue of a job whose id was chosen, for whoever meets the id on another queue."""


class JobStatus(StrEnum):
    """Where a job is in its life."""

    DEFERRED = "deferred"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NOT_FOUND = "not_found"


class StoredRequest(NamedTuple):
    """A job on its way to the store, encoded.

    Attributes:
        queue: name of the queue.
        job_id: unique among all queues of the server, as in arq.
        chosen: True when the caller chose the id, which may then be taken by another job.
        due_ms: unix milliseconds, or None for now by the server's clock.
        offset_ms: added to the due time: a delay, or a negative offset for a higher priority.
        lives_ms: how long the payload is kept after the job is due.
        nonce: stands in the payload; lets a repeated enqueue find its own job.
        payload: the encoded job.
    """

    queue: str
    job_id: str
    chosen: bool
    due_ms: int | None
    offset_ms: int
    lives_ms: int
    nonce: str
    payload: bytes

    def __repr__(self) -> str:  # a payload may hold secrets
        return f"<StoredRequest {self.job_id} on {self.queue}, {len(self.payload)} bytes>"


class Claim(NamedTuple):
    """A job that this worker alone may finish until its lease ends.

    Attributes:
        queue: name of the queue that it came from.
        job_id: the id; undecodable bytes appear as lone surrogates.
        score: due time in unix milliseconds before the claim, earlier by its priority.
        attempt: 1 for the first try.
        stalls: how many runs ended without a word (a killed worker); they cost no try. The first one is counted
            although it may only have been about to begin.
        aborted: an abort was requested before the start.
        token: names this claim; a finish with another token is refused.
        payload: the encoded job, or None when it has expired.
        claimed_ms: the server's time of the claim, unix milliseconds.
        oversized: the payload was too large to be read, and is None.
    """

    queue: str
    job_id: str
    score: int
    attempt: int
    stalls: int
    aborted: bool
    token: str
    payload: bytes | None
    claimed_ms: int
    oversized: bool = False


class ClaimReply(NamedTuple):
    """What one claim call brought.

    Attributes:
        claims: the jobs.
        next_due_ms: milliseconds until the next job is due that is not yet, or None.
        sizes: members of each queue, when asked for.
        wrong: queues whose key holds another type.
        paused: queues from which nothing is claimed for now.
    """

    claims: list[Claim]
    next_due_ms: float | None
    sizes: Mapping[str, int]
    wrong: tuple[str, ...]
    paused: tuple[str, ...] = ()


class Job(NamedTuple):
    """A decoded job.

    Attributes:
        function: name of the task.
        args, kwargs: its arguments, as the codec gives them.
        enqueued_ms: unix milliseconds by the producer's clock.
        first_attempt: arq's ``_job_try``: the attempt to start counting from, or None.
        headers: what travels beside the arguments: correlation id, reply channel.
        raw: the parts of the payload that a result repeats, in the codec's own form.
    """

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int
    first_attempt: int | None = None
    headers: Mapping[str, str] = NO_HEADERS
    raw: Any = None

    def __repr__(self) -> str:  # arguments may be secrets
        return f"<Job of {self.function}, {len(self.args)} + {len(self.kwargs)} arguments>"


UNREADABLE = Job("", (), {}, 0)
"""Stands in for a job whose payload cannot be read."""


class Cancel(Enum):
    """Why the worker cancelled a run. A cancellation without a cause is the task's own doing."""

    ABORT = "abort"
    RELEASE = "release"


@dataclass(slots=True, eq=False)
class Run:
    """One run of one claim on this worker, passed down the steps from its start to its recorded end.

    Attributes:
        claim: replaced when the worker claims its own running job anew, after a lease that lapsed.
        job: set when the payload has been read.
        task: the asyncio task that runs it.
        worker: the asyncio task of the worker that owns it.
        begun: the task has reached its first line, so a cancellation will pass through its handlers.
        cause: why the worker cancelled it, if it did.
        settled: its finish was handed in; the claim may not change any more.
        started_ms, finished_ms: unix milliseconds by this machine's clock.
        local: whatever the runnable keeps from one step to the next.
        seen: the JobContext that hooks and middleware were given, if there are some.
    """

    claim: Claim
    job: Job = UNREADABLE
    task: asyncio.Task[None] | None = None
    worker: asyncio.Task[Any] | None = None
    begun: bool = False
    cause: Cancel | None = None
    settled: bool = False
    started_ms: int = 0
    finished_ms: int = 0
    local: Any = None
    seen: Any = None


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An exception as data: what is kept of a failure.

    Attributes:
        type: class name, qualified by its module unless built in.
        message: its text, bounded.
        traceback: frames, outermost first: (file, line, function). Never local variables.
    """

    type: str
    message: str
    traceback: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned."""

    value: Any = field(repr=False)  # may be secret


@dataclass(frozen=True, slots=True)
class Failed:
    """The task ended with an error and will not run again; ``bury`` moves it to the dead letters.

    ``reason`` is the dead letter's: see `DeadLetter`.
    """

    error: BaseException
    bury: bool = True
    reason: str = "failed"


@dataclass(frozen=True, slots=True)
class Retried:
    """The task runs again after ``delay`` seconds; the try counts. ``error`` is None for a plain Retry."""

    delay: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Aborted:
    """Someone asked for the job to be aborted."""


@dataclass(frozen=True, slots=True)
class Released:
    """The worker gives the job back, to its old place or to be due in ``delay`` seconds. No try is counted."""

    delay: float = 0.0


Outcome = Succeeded | Failed | Retried | Aborted | Released


class Action(StrEnum):
    """What the store does with a finished claim; the letters of finish.lua."""

    DONE = "d"
    RETRY = "r"
    RELEASE = "l"
    BURY = "x"
    PARK = "p"


class Finish(NamedTuple):
    """How a claim ended, encoded for the store.

    Attributes:
        claim: what is finished.
        action: what becomes of the job.
        result: the encoded result, empty when none is kept.
        result_ttl_ms: how long it is kept; 0 not at all, -1 for ever. RETRY: the number of tries made.
        number: RETRY: delay in ms from now; RELEASE: the score to return to; DONE: ms to keep the lease key;
            PARK: ms for which the job is left to other workers before it is buried.
        reply_to: channel to tell, or ''.
        record: the encoded error record of a dead letter, else empty.
    """

    claim: Claim
    action: Action
    result: bytes = b""
    result_ttl_ms: int = 0
    number: int = 0
    reply_to: str = ""
    record: bytes = b""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How full a queue is: jobs that are due, that are due later, and that run under a lease."""

    queued: int
    deferred: int
    running: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job says it is. ``total`` may be None when it does not know."""

    done: float
    total: float | None = None
    message: str = ""


@dataclass(frozen=True)  # no slots: with them, JobRequest[int](...) fails in typing's bookkeeping
class JobRequest(Generic[R_co]):
    """What a producer asks for: a task, its arguments, and where, when and as what it runs.

    Its repr leaves out what may be secret: arguments and headers.

    Attributes:
        task: registered name.
        args, kwargs: the task's own arguments; options never mix with them.
        queue: name of the queue, or None: the client's routes decide, else its default queue.
        job_id: an id of the caller's choice; a second job with it is not stored.
        delay: seconds from now.
        at: unix seconds; not together with ``delay``.
        priority: 0 to 100; higher starts earlier within its queue among jobs that were due at once. A job
            that is deferred or retried takes its place by its due time.
        expires: seconds after it is due in which it must start.
        headers: travel beside the arguments.
        returns: the type of the result.
        plan: how the task restores its arguments, where that is known.

    What arrives are JSON's types: a tuple or set is a list, a datetime, UUID, Decimal or enum member text, a
    model or dataclass a dict, unless the task's annotation says what to restore. Dict keys that are not text are
    refused unless an annotation restores them: as text they could fall together.
    """

    task: str
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    queue: str | None = None
    job_id: str | None = None
    delay: float | None = None
    at: float | None = None
    priority: int = 0
    expires: float | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, repr=False)
    returns: Any = Any
    plan: ArgumentPlan | None = field(default=None, repr=False, compare=False)

    def with_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> JobRequest[R_co]:
        """The same for other arguments: a third of what the constructor takes, which sets field by field."""
        other: JobRequest[R_co] = object.__new__(type(self))
        fields = other.__dict__  # frozen for whoever has it, not yet for whoever makes it
        fields.update(self.__dict__)
        fields["args"], fields["kwargs"] = args, kwargs
        return other
