"""The controls of a running system: look at queues, jobs and dead letters, and change what happens to them.

A change is one round trip and atomic (see scripts/). They work on any queue of arq's layout,
whoever produces or works there, but for pausing, which plain arq workers do not know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, JobNotFound, StoreError, WrongType
from aioinfra.jobs.checks import check_stored_id
from aioinfra.jobs.claim import check_queue_name
from aioinfra.jobs.job import JobStatus, QueueDepth
from aioinfra.jobs.letters import DeadLetters
from aioinfra.jobs.listing import WHOLE, JobDetails, JobEntry, JobPage, details, entries
from aioinfra.jobs.payload import MAX_PAYLOAD, JobCodec, JsonCodec
from aioinfra.jobs.redis_store import (
    ABORTS_KEY,
    IN_PROGRESS_PREFIX,
    PAUSED_KEY,
    RESULT_PREFIX,
    RedisJobStore,
    job_id_bytes,
    script,
    server_clock,
)
from aioinfra.jobs.store import AbortAnswer

_LOOK: Final = 1_000
_MOST_SHOWN: Final = 10_000
_MOST_PAGES: Final = 20
_LETTERS: Final = {JobStatus.QUEUED: "q", JobStatus.DEFERRED: "d", JobStatus.RUNNING: "r"}
_LOOK_FIRST: Final = 0.02
_LOOK_MOST: Final = 0.5
_LONGEST_WAIT: Final = 1e9


class JobAdmin:
    """Controls the jobs of one server. Holds no state; any number may be used at once.

    Args:
        redis: the jobs server; owned by the caller.
        codec: reads payloads; what it cannot read is shown as such. The default never loads a pickle.
        now_ms: tells the scripts the time, 0 for the server's own clock.

    Every verb raises InvalidArgument before any I/O, naming the argument; WrongType when the queue's key is not a
    sorted set; StoreUnavailable when the server does not answer, and then a change may have been made unless the
    error's ``sent`` is False. All may be repeated.

    Attributes:
        dead: the dead letters; see `DeadLetters`.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        codec: JobCodec | None = None,
        now_ms: Callable[[], int] = server_clock,
    ) -> None:
        self._redis = redis
        self._codec = codec or JsonCodec()
        self._now = now_ms
        self._store = RedisJobStore(redis, now_ms=now_ms)
        self.dead = DeadLetters(redis, self._codec, now_ms)

    # Queues

    async def depth(self, queue: str) -> QueueDepth:
        """How full a queue is."""
        check_queue_name("queue", queue)
        depths = await self._store.depths([queue])
        if queue not in depths:
            raise WrongType(f"the key of queue {queue!r} is not a sorted set")
        return depths[queue]

    async def pause(self, queue: str) -> bool:
        """Let nobody claim from a queue until `resume`; whether it was not paused already.

        Workers ask the server with each claim, so none is made after this returns. Jobs that were claimed before
        go on, those that wait for a slot in their worker included.
        """
        check_queue_name("queue", queue)
        return bool(await self._redis.execute("SADD", PAUSED_KEY, queue))

    async def resume(self, queue: str) -> bool:
        """Let workers claim again, and wake them; whether the queue was paused."""
        check_queue_name("queue", queue)
        return bool(await self._redis.run_script(script("resume"), [queue], []))

    async def paused(self) -> frozenset[str]:
        """The queues that are paused."""
        names: list[bytes] = await self._redis.execute("SMEMBERS", PAUSED_KEY)
        return frozenset(name.decode("utf-8", "surrogateescape") for name in names)

    async def drain(self, queue: str, timeout: float) -> QueueDepth:
        """Wait until nothing on a queue is due or running; what is due later is not waited for.

        Of a paused queue only what runs is waited for. One or two round trips a look, at most every half second.

        Args:
            queue: its name. Jobs that are enqueued meanwhile are waited for too: pause it, or stop its producers.
            timeout: seconds.

        Returns:
            What is left: no job that is due unless the queue is paused, and none that runs.

        Raises:
            TimeoutError: says how many were left.
        """
        check_queue_name("queue", queue)
        check_number("timeout", timeout, 0, _LONGEST_WAIT)
        ends, pause = time.monotonic() + timeout, _LOOK_FIRST
        while True:
            depth = await self.depth(queue)
            if not depth.running and (not depth.queued or await self._is_paused(queue)):
                return depth
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"queue {queue!r} is not drained after {timeout:g} s: {depth.queued} jobs are due, "
                    f"{depth.running} run, {depth.deferred} are due later"
                )
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LOOK_MOST)

    async def _is_paused(self, queue: str) -> bool:
        return bool(await self._redis.execute("SISMEMBER", PAUSED_KEY, queue))

    # Jobs

    async def jobs(
        self,
        queue: str,
        status: JobStatus | str | None = None,
        *,
        limit: int = 100,
        cursor: int | None = None,
    ) -> JobPage:
        """A queue's jobs in the order in which they are due, without their arguments.

        One round trip for each 1,000 members that are looked at, at most 20: on a large queue few may be shown
        of a rare status, and the cursor leads on. Jobs that a plain arq worker runs keep the time when they were
        due, and are met among those that are queued; with ``status="running"`` they are not looked for.

        Args:
            queue: its name.
            status: queued, deferred or running; None shows all.
            limit: at most so many, 1 to 10,000.
            cursor: of the page before.
        """
        check_queue_name("queue", queue)
        check_whole("limit", limit, 1, _MOST_SHOWN)
        letter = _letter_of(status)
        rank = -1 if letter in ("d", "r") else 0
        if cursor is not None:
            check_whole("cursor", cursor, 0, 2**53)
            rank = cursor
        found: dict[str, JobEntry] = {}  # by id: between two calls a job may have moved on
        for _ in range(_MOST_PAGES):
            look = _LOOK if letter else min(_LOOK, limit - len(found))
            args: list[str | int] = [self._now(), rank, look, limit - len(found), letter, WHOLE]
            _, rank, flat = await self._redis.run_script(script("list"), [queue], args)
            found |= {entry.job_id: entry for entry in entries(self._codec, queue, flat)}
            if rank < 0 or len(found) >= limit:
                break
        return JobPage(tuple(found.values()), None if rank < 0 else rank)

    async def inspect(self, queue: str, job_id: str) -> JobDetails:
        """One job with all that is stored of it, its arguments included.

        Raises:
            JobNotFound: it is neither on this queue nor has it a result.
        """
        check_queue_name("queue", queue)
        check_stored_id(job_id)
        name = job_id_bytes(job_id)
        found: list[Any] = await self._redis.pipeline(
            [
                ("ZSCORE", queue, name),
                ("EXISTS", IN_PROGRESS_PREFIX.encode() + name),
                ("ZSCORE", ABORTS_KEY, name),
                ("GET", b"arq:retry:" + name),
                ("GET", b"aioinfra:claim:" + name),
                ("GETRANGE", b"arq:job:" + name, 0, MAX_PAYLOAD),
                ("GET", RESULT_PREFIX.encode() + name),
                ("TIME",),
            ]
        )
        for reply in found:
            if isinstance(reply, StoreError) and (reply is found[0] or not isinstance(reply, WrongType)):
                raise reply
        known = details(self._codec, queue, job_id, found)
        if known is None:
            raise JobNotFound(job_id)
        return known

    async def abort(self, job_id: str, *, queue: str | None = None) -> bool:
        """Ask for a job to be aborted; False when it has ended.

        One that waits ends as aborted when its turn comes, without running: at once if ``queue`` is given, which
        also makes a deferred one due. One that runs is cancelled by its worker within half a second; a function
        that runs in a thread cannot be, and ends as it ends. Workers of a `Service` look for requests, arq's if
        they have ``allow_abort_jobs``.

        Raises:
            JobNotFound: there is no such job. Nothing is written.
        """
        check_stored_id(job_id)
        if queue is not None:
            check_queue_name("queue", queue)
        answer = await self._store.abort(job_id, queue)
        if answer is AbortAnswer.UNKNOWN:
            raise JobNotFound(job_id)
        return answer is not AbortAnswer.ENDED

    async def delete(self, queue: str, job_id: str) -> bool:
        """Delete a job that waits, with all that is kept of it; False when it runs, and was left alone.

        Raises:
            JobNotFound: it is not on this queue.
        """
        answer = await self._on_queue("delete", queue, job_id, [])
        return answer == _DONE

    async def run_now(self, queue: str, job_id: str) -> bool:
        """Make a job that is deferred, or waits to be tried again, due at once; False when it runs.

        Raises:
            JobNotFound: it is not on this queue.
        """
        answer = await self._on_queue("run_now", queue, job_id, [self._now()])
        return answer == _DONE

    async def _on_queue(self, verb: str, queue: str, job_id: str, args: list[int]) -> int:
        check_queue_name("queue", queue)
        check_stored_id(job_id)
        answer: int = await self._redis.run_script(script(verb), [queue], [*args, job_id_bytes(job_id)])
        if not answer:
            raise JobNotFound(job_id)
        return answer


_DONE: Final = 1


def _letter_of(status: JobStatus | str | None) -> str:
    if status is None:
        return ""
    try:
        return _LETTERS[JobStatus(status)]
    except (ValueError, KeyError):
        raise InvalidArgument("status", "must be queued, deferred or running") from None
