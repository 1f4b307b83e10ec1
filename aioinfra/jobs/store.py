"""The seam between the engine and whatever keeps the jobs.

Every method is one round trip. A method that raises StoreUnavailable may or may not have had its effect, unless
the error says ``sent=False``; each docstring says what a repeat does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

from aioinfra.jobs.job import Claim, ClaimReply, Finish, JobStatus, QueueDepth, StoredRequest


class Share(NamedTuple):
    """A queue's part in one claim call: its fair share, and the limit that it may not exceed."""

    queue: str
    share: int
    limit: int


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a worker asks for in one claim call.

    Attributes:
        shares: the queues, most urgent first.
        free: jobs to claim in all.
        worker: unique name of the worker, which has one claim call under way at a time.
        token: prefix of the claims' tokens, never used before.
        lease: seconds for which the claims hold without renewal.
        sizes: whether to report the queues' sizes.
        aborts: whether to look for abort requests.
        repeated: whether this is the worker's last request again, because its reply was lost.
    """

    shares: tuple[Share, ...]
    free: int
    worker: str
    token: str
    lease: float
    sizes: bool = False
    aborts: bool = False
    repeated: bool = False


class Added(IntEnum):
    """What became of a job that was to be stored; the numbers of add.lua."""

    TAKEN = 0
    """Another job has the id."""
    STORED = 1
    FOUND = 2
    """An earlier attempt of this very call had stored it."""
    WRONG_TYPE = 3
    """The queue's key is not a sorted set. Nothing was stored."""
    UNKNOWN = 4
    """The id has a result that does not tell whether it is this job's."""


class FinishStatus(Enum):
    """What became of a finish; the letters of finish.lua, and LOST."""

    RECORDED = "k"
    UNBURIED = "u"
    """Recorded, but its dead letter could not be written."""
    PARKED = "p"
    """Left to other workers, for now."""
    FENCED = "f"
    """Refused: the claim is no longer the current one."""
    LOST = ""
    """The store could not be told. The job runs again when its lease ends."""


class AbortAnswer(IntEnum):
    """What became of a request to abort a job; the numbers of abort.lua."""

    UNKNOWN = 0
    """There is no such job. Nothing was written."""
    WAITING = 1
    RUNNING = 2
    ENDED = 3
    """It has ended. Nothing was written."""


class JobStore(Protocol):
    """Where jobs live. Implementations: `RedisJobStore`."""

    async def add(self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float) -> list[Added]:
        """Store jobs, waiting at most ``deadline`` seconds. Errors of the server mean that none is stored.

        A repeat with ``repeated=True`` finds what an earlier attempt stored.
        """
        ...

    async def claim(self, request: ClaimRequest) -> ClaimReply:
        """Take due jobs. A repeat after a lost reply brings what the lost one would have brought.

        Without one the jobs, if any were taken, come back when their lease ends.
        """
        ...

    async def begin(self, claim: Claim) -> None:
        """Note that a claim's run begins; for jobs that have stalled before. Repeatable."""
        ...

    async def finish(self, worker: str, nonce: str, finishes: Sequence[Finish]) -> list[FinishStatus]:
        """Record how claims ended. A repeat with the same nonce answers the same and changes nothing.

        ``worker`` must have no other finish under way.
        """
        ...

    async def result(self, job_id: str) -> bytes | None:
        """The encoded result, or None."""
        ...

    async def status(self, queue: str, job_id: str) -> tuple[JobStatus, bytes | None]:
        """Where the job is, and its encoded result if it has ended. Repeatable."""
        ...

    async def depths(self, queues: Sequence[str]) -> dict[str, QueueDepth]:
        """How full the queues are. Repeatable."""
        ...

    async def abort(self, job_id: str, queue: str | None) -> AbortAnswer:
        """Ask for a job to be aborted; one that waits is due at once if its queue is given. Repeatable."""
        ...

    async def set_progress(self, job_id: str, progress: bytes) -> None:
        """Remember how far a job is, for a day. Repeatable."""
        ...

    async def progress(self, job_id: str) -> bytes | None:
        """What `set_progress` wrote last, or None."""
        ...


class LeaseStore(Protocol):
    """The synchronous side that the lease thread uses: one connection of its own."""

    def renew(self, claims: Sequence[Claim], lease: float, *, move: bool) -> list[Claim]:
        """Renew leases (seconds); answers the claims that are lost. ``move`` also moves the queue's scores."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
