"""Dead letters: jobs that will not run again by themselves, with everything needed to understand why."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from aioinfra.jobs.job import Claim, ErrorRecord


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A buried job.

    Attributes:
        queue, job_id: where and what it was.
        task: its name, '' when the payload could not be read.
        reason: why it was buried: failed (an error that is not retried), exhausted (the last try failed),
            unencodable-result, undecodable (payload, id or arguments), expired, poison or unknown-task.
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


class _Record(msgspec.Struct):
    task: str
    reason: str
    error: ErrorRecord
    attempt: int
    stalls: int


def encode_dead_letter(claim: Claim, task: str, reason: str, error: ErrorRecord) -> bytes:
    """The record that the store keeps beside the payload."""
    return msgspec.json.encode(_Record(task, reason, error, claim.attempt, claim.stalls))


def read_dead_letter(data: DeadLetterSource) -> DeadLetter:
    """A stored dead letter; a record that cannot be read says so instead of raising."""
    queue, job_id, payload, stored, died_ms = data
    try:
        record = msgspec.json.decode(stored, type=_Record)
    except msgspec.MsgspecError:
        record = _Record("", "unknown", ErrorRecord("unknown", "the record cannot be read"), 0, 0)
    return DeadLetter(
        queue, job_id, record.task, record.reason, record.error, record.attempt, record.stalls,
        died_ms / 1000, payload,
    )  # fmt: skip


DeadLetterSource = tuple[str, str, bytes, bytes, int]
