"""The dead letters of a queue: look at them, bring them back, delete them.

Many are worked at in slices of `SLICE`, each one call of a script: whenever the caller dies, a job is either a
letter or on its queue. What dies while they are worked at is left for the next time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import msgspec

from aioinfra.codec.bounds import check_whole
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument, JobNotFound, StoreError, WrongType
from aioinfra.jobs.checks import check_name, check_stored_id
from aioinfra.jobs.claim import check_queue_name
from aioinfra.jobs.dead import UNREADABLE, DeadLetter, DeadRecord
from aioinfra.jobs.job import ErrorRecord, Job
from aioinfra.jobs.listing import read_payload, text_of
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.redis_store import DEAD_LETTER_PREFIX, DEAD_PREFIX, job_id_bytes, script

SLICE: Final = 100
"""Letters in one call: bounds how long the server is busy with it."""
MOST_LETTERS: Final = 10_000
"""As many are kept a queue."""
_LIFE_MS: Final = 86_400_000
_FIELDS: Final = 4


class Requeue(IntEnum):
    """What became of a dead letter that was to come back; the numbers of requeue.lua."""

    GONE = 0
    """There is no such letter."""
    REQUEUED = 1
    TAKEN = 2
    """Another job, or the result of one, has the id. The letter stays."""
    EXPIRED = 3
    """The job's payload had expired before it died. The letter stays."""
    WRONG_TYPE = 4
    """The queue's key is not a sorted set. The letter stays."""
    UNREADABLE = 5
    """What is stored is no dead letter. It stays."""


@dataclass(frozen=True, slots=True)
class RequeueReport:
    """How many letters came back, and those that were left alone: id and reason."""

    requeued: int
    kept: tuple[tuple[str, Requeue], ...]


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """A dead letter in a list; the attributes are those of `DeadLetter`.

    ``size`` are the bytes of its payload, 0 when that had expired.
    """

    queue: str
    job_id: str
    task: str
    reason: str
    error: ErrorRecord = field(repr=False)  # its text may hold a user's data
    attempt: int
    stalls: int
    died_at: float
    size: int


@dataclass(frozen=True, slots=True)
class DeadPage:
    """Dead letters, newest first, and ``cursor`` to ask for those that died before; None when there are none."""

    letters: tuple[DeadEntry, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class DeadDetails:
    """A dead letter with its decoded payload; ``unreadable`` says why there is none: see `JobEntry`."""

    letter: DeadLetter
    job: Job | None
    unreadable: str


class DeadLetters:
    """Dead letters on one server.

    Args:
        redis: the jobs server; owned by the caller.
        codec: reads payloads.
        now_ms: tells the scripts the time, 0 for the server's.
    """

    def __init__(self, redis: RedisClient, codec: JobCodec, now_ms: Callable[[], int]) -> None:
        self._redis = redis
        self._codec = codec
        self._now = now_ms

    async def page(
        self,
        queue: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        task: str | None = None,
        reason: str | None = None,
    ) -> DeadPage:
        """The newest letters, newest first. One round trip for each 100 that are looked at.

        Args:
            queue: where they died.
            limit: at most so many, 1 to 10,000.
            cursor: of the page before.
            task, reason: only letters of that task, or with that reason (see `DeadLetter`).

        Raises:
            InvalidArgument: names the argument.
            WrongType: the list of letters is something else.
        """
        _check_filter(queue, task, reason)
        check_whole("limit", limit, 1, MOST_LETTERS)
        position = _position(cursor)
        found: list[DeadEntry] = []
        while True:
            size = SLICE if task or reason else min(SLICE, limit - len(found))
            flat = await self._redis.run_script(script("letters"), [queue], [size, *position])
            read = 0
            fields = iter(flat)
            for job_id, at, record, length in zip(*[fields] * _FIELDS, strict=True):
                read += 1
                position = (at, job_id)
                entry = _entry(queue, job_id, at, record, length)
                if entry is not None and _fits(entry, task, reason):
                    found.append(entry)
                    if len(found) == limit:
                        return DeadPage(tuple(found), _cursor(position))
            if read < size:
                return DeadPage(tuple(found), None)

    async def inspect(self, queue: str, job_id: str) -> DeadDetails:
        """One letter with its payload. One round trip.

        Raises:
            InvalidArgument: names the argument.
            JobNotFound: there is no such letter.
        """
        check_queue_name("queue", queue)
        check_stored_id(job_id)
        key = _letter_key(queue, job_id_bytes(job_id))
        [fields] = await self._redis.pipeline([("HMGET", key, "payload", "record", "at")])
        if isinstance(fields, StoreError):
            if not isinstance(fields, WrongType):
                raise fields
            fields = [b"", b"", b""]
        payload, record, at = fields
        if payload is None and record is None and at is None:
            raise JobNotFound(job_id)
        known, died_at = _decoded(record, at)
        job, unreadable = read_payload(self._codec, payload or b"")
        letter = DeadLetter(
            queue, job_id, known.task, known.reason, known.error, known.attempt, known.stalls, died_at,
            payload or b"",
        )  # fmt: skip
        return DeadDetails(letter, job, unreadable)

    async def requeue(self, queue: str, job_id: str) -> Requeue:
        """Bring one letter back: its payload as it was, due now, with no try made. One round trip.

        Headers are kept. A priority and a time to expire are not: it waits for a day at most.

        Raises:
            InvalidArgument: names the argument.
            StoreUnavailable: whether it came back is not known, unless ``sent`` is False. A repeat says GONE if
                it did.
        """
        check_queue_name("queue", queue)
        check_stored_id(job_id)
        [answer] = await self._requeue(queue, [job_id_bytes(job_id)])
        return answer

    async def requeue_all(
        self, queue: str, *, task: str | None = None, reason: str | None = None
    ) -> RequeueReport:
        """Bring all letters back, oldest first, or those of a task or with a reason.

        One round trip for each 100 letters or 4 MB, two with a filter. After an error the letters before it have
        come back; a repeat goes on with the others.

        Raises:
            InvalidArgument: names the argument.
            StoreError: the server refused, or did not answer.
        """
        _check_filter(queue, task, reason)
        requeued = 0
        kept: list[tuple[str, Requeue]] = []
        async for ids in self._slices(queue, task, reason):
            for job_id, answer in zip(ids, await self._requeue(queue, ids), strict=True):
                if answer is Requeue.REQUEUED:
                    requeued += 1
                elif answer is not Requeue.GONE:
                    kept.append((text_of(job_id), answer))
        return RequeueReport(requeued, tuple(kept))

    async def delete(self, queue: str, job_id: str) -> bool:
        """Delete a letter for good; whether there was one. One round trip. Raises InvalidArgument."""
        check_queue_name("queue", queue)
        check_stored_id(job_id)
        [deleted] = await self._redis.run_script(script("discard"), [queue], [job_id_bytes(job_id)])
        return bool(deleted)

    async def delete_all(self, queue: str, *, task: str | None = None, reason: str | None = None) -> int:
        """Delete all letters, or those of a task or with a reason; how many. Round trips as `requeue_all`.

        Raises:
            InvalidArgument: names the argument.
        """
        _check_filter(queue, task, reason)
        deleted = 0
        async for ids in self._slices(queue, task, reason):
            deleted += sum(await self._redis.run_script(script("discard"), [queue], ids))
        return deleted

    async def _requeue(self, queue: str, ids: Sequence[bytes]) -> Sequence[Requeue]:
        answers: list[int] = []
        while len(answers) < len(ids):  # a call ends early when the payloads are large
            left = ids[len(answers) :]
            answers += await self._redis.run_script(
                script("requeue"), [queue], [self._now(), _LIFE_MS, *left]
            )
        return [Requeue(answer) for answer in answers]

    async def _slices(
        self, queue: str, task: str | None, reason: str | None
    ) -> AsyncIterator[Sequence[bytes]]:
        """The letters that are there now, oldest first. Those that die meanwhile are not met again."""
        ids: Sequence[bytes] = await self._redis.execute("ZRANGE", DEAD_PREFIX + queue, 0, MOST_LETTERS - 1)
        for at in range(0, len(ids), SLICE):
            chosen = ids[at : at + SLICE]
            if task is not None or reason is not None:
                chosen = await self._matching(queue, chosen, task, reason)
            if chosen:
                yield chosen

    async def _matching(
        self, queue: str, ids: Sequence[bytes], task: str | None, reason: str | None
    ) -> Sequence[bytes]:
        keys = [_letter_key(queue, job_id) for job_id in ids]
        records = await self._redis.pipeline([("HGET", key, "record") for key in keys])
        matching = []
        for job_id, record in zip(ids, records, strict=True):
            if isinstance(record, StoreError) and not isinstance(record, WrongType):
                raise record
            known, _ = _decoded(record, b"0")
            if _fits(known, task, reason):
                matching.append(job_id)
        return matching


def _letter_key(queue: str, job_id: bytes) -> bytes:
    return f"{DEAD_LETTER_PREFIX}{queue}:".encode() + job_id


def _check_filter(queue: str, task: object, reason: object) -> None:
    check_queue_name("queue", queue)
    check_name("task", task)
    check_name("reason", reason)


def _fits(letter: DeadEntry | DeadRecord, task: str | None, reason: str | None) -> bool:
    return task in (None, letter.task) and reason in (None, letter.reason)


def _entry(queue: str, job_id: bytes, at: bytes, record: bytes | None, size: int) -> DeadEntry | None:
    """A letter of a page; None when it has expired."""
    if record is None:
        return None
    known, died_at = _decoded(record, at)
    return DeadEntry(
        queue, text_of(job_id), known.task, known.reason, known.error, known.attempt, known.stalls, died_at,
        max(size, 0),
    )  # fmt: skip


def _decoded(record: Any, at: Any) -> tuple[DeadRecord, float]:
    """A stored record and its time of death, unix seconds."""
    try:
        return msgspec.json.decode(record, type=DeadRecord), max(0.0, float(at)) / 1000
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return UNREADABLE, 0.0


def _cursor(position: tuple[str | bytes, bytes]) -> str:
    at, job_id = position
    return f"{at.decode() if isinstance(at, bytes) else at}:{text_of(job_id)}"


def _position(cursor: str | None) -> tuple[str | bytes, bytes]:
    """Where a page begins, as the script takes it."""
    if cursor is None:
        return "", b""
    given: object = cursor
    at, mark, job_id = given.partition(":") if isinstance(given, str) else ("", "", "")
    if not mark or not at.isdecimal() or not at.isascii() or not job_id:
        raise InvalidArgument("cursor", "must be that of the page before")
    check_stored_id(job_id)
    return at, job_id_bytes(job_id)
