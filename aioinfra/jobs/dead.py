"""Dead letters: jobs that will not run again by themselves, with everything needed to understand why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import StoreError
from aioinfra.jobs.job import Claim, ErrorRecord
from aioinfra.jobs.redis_store import DEAD_LETTER_PREFIX, DEAD_PREFIX


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A buried job.

    Attributes:
        queue, job_id: where and what it was.
        task: its name, '' when the payload could not be read.
        reason: why it was buried: failed (an error that is not retried), exhausted (the last try failed),
            unencodable-result, undecodable (payload, id or arguments), expired, poison or unknown-task;
            unreadable when what is stored is no dead letter.
        error: what went wrong last.
        attempt, stalls: tries made, and runs whose worker died.
        died_at: unix seconds.
        payload: the job as it was stored, byte for byte; empty when it had expired.
    """

    queue: str
    job_id: str
    task: str
    reason: str
    error: ErrorRecord
    attempt: int
    stalls: int
    died_at: float
    payload: bytes = field(repr=False)  # a user's data


class DeadRecord(msgspec.Struct):
    """What is stored of a dead letter beside its payload."""

    task: str
    reason: str
    error: ErrorRecord
    attempt: int
    stalls: int


def encode_dead_letter(claim: Claim, task: str, reason: str, error: ErrorRecord) -> bytes:
    """The record that the store keeps beside the payload."""
    return msgspec.json.encode(DeadRecord(task, reason, error, claim.attempt, claim.stalls))


async def read_dead_letters(redis: RedisClient, queue: str, limit: int) -> list[DeadLetter]:
    """The newest dead letters of a queue, newest first; see `JobClient.dead_letters`. Two round trips."""
    ids: list[bytes] = await redis.execute("ZRANGE", DEAD_PREFIX + queue, 0, limit - 1, "REV")
    prefix = f"{DEAD_LETTER_PREFIX}{queue}:".encode()
    found = await redis.pipeline([("HMGET", prefix + job_id, "payload", "record", "at") for job_id in ids])
    return [
        _letter(queue, job_id.decode("utf-8", "surrogateescape"), fields)
        for job_id, fields in zip(ids, found, strict=True)
        if isinstance(fields, StoreError) or set(fields) != {None}  # else it has gone meanwhile
    ]


def _letter(queue: str, job_id: str, fields: Any) -> DeadLetter:
    payload, stored, at = (b"", b"", b"") if isinstance(fields, StoreError) else fields
    try:
        record, died_at = msgspec.json.decode(stored or b"", type=DeadRecord), int(at) / 1000
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        record, died_at = UNREADABLE, 0.0
    return DeadLetter(
        queue, job_id, record.task, record.reason, record.error, record.attempt, record.stalls,
        died_at, payload or b"",
    )  # fmt: skip


UNREADABLE = DeadRecord("", "unreadable", ErrorRecord("unknown", "the dead letter cannot be read"), 0, 0)
