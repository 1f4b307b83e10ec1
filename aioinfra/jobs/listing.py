"""Jobs as an operator sees them: where each one is, without its arguments, whatever lies under its keys."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from aioinfra.errors import PayloadTooLarge, StoreError, UntrustedPayload
from aioinfra.jobs.job import ErrorRecord, Job, JobStatus
from aioinfra.jobs.payload import JobCodec, ResultInfo

WHOLE: Final = 16_384
"""Payloads of up to so many bytes are read for a list; of larger ones the beginning, which has the task's name."""

NO_PAYLOAD: Final = -1
_FIELDS: Final = 7
_STATES: Final = {b"q": JobStatus.QUEUED, b"d": JobStatus.DEFERRED, b"r": JobStatus.RUNNING}
# arq's dictionary begins with the try and the function, as every JSON encoder that keeps the order writes it.
_TASK_NAME: Final = re.compile(rb'\s*\{\s*"t":\s*(?:null|\d+),\s*"f":\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class JobEntry:
    """A job on a queue.

    Attributes:
        queue, job_id: where and what it is; bytes of an id that are not UTF-8 appear as lone surrogates.
        status: deferred, queued or running; for one that is looked at by its id also succeeded or failed.
        due_at: unix seconds from which it may start; None while it runs, and where nothing useful is stored.
        attempt: the try that runs or comes next; the first one is 1.
        stalls: runs that ended without a word.
        task: its name; '' when that cannot be read.
        size: bytes of the payload; -1 when there is none.
        unreadable: why the payload cannot be read (expired, pickle, too-large, undecodable, wrong-type), or ''.
    """

    queue: str
    job_id: str
    status: JobStatus
    due_at: float | None
    attempt: int
    stalls: int
    task: str
    size: int
    unreadable: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of a queue's jobs, and ``cursor`` to ask for those that follow; None when there are no more."""

    jobs: tuple[JobEntry, ...]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class JobDetails:
    """All that is stored of one job.

    Attributes:
        entry: where it is.
        job: the decoded payload, arguments and headers included; None when it cannot be read or has gone.
        result: how it ended, or None; also that of an earlier job with the same id.
        abort_requested: whether somebody has asked for its abortion.
    """

    entry: JobEntry
    job: Job | None
    result: ResultInfo | None
    abort_requested: bool


def read_payload(codec: JobCodec, payload: bytes) -> tuple[Job | None, str]:
    """A stored payload decoded, or None and the word for what is wrong with it. Runs nothing that it names."""
    if not payload:
        return None, "expired"
    try:
        return codec.decode_job(payload), ""
    except UntrustedPayload:
        return None, "pickle"
    except PayloadTooLarge:
        return None, "too-large"
    except Exception:  # noqa: BLE001 - a codec may be anybody's, and so may the bytes
        return None, "undecodable"


def entries(codec: JobCodec, queue: str, flat: Sequence[Any]) -> list[JobEntry]:
    """The members that list.lua shows."""
    fields = iter(flat)
    return [_entry(codec, queue, member) for member in zip(*[fields] * _FIELDS, strict=True)]


def _entry(codec: JobCodec, queue: str, member: tuple[Any, ...]) -> JobEntry:
    job_id, score, state, tries, claim, size, payload = member
    job: Job | None = None
    task, unreadable = "", ""
    if size < NO_PAYLOAD:
        unreadable = "wrong-type"
    elif size <= WHOLE:
        job, unreadable = read_payload(codec, payload)
        task = "" if job is None else job.function
    else:
        task, unreadable = _name_in(payload)
    return JobEntry(
        queue,
        text_of(job_id),
        _STATES[state],
        due_at(score, _STATES[state], job),
        attempt_of(tries, job),
        stalls_of(claim),
        task,
        max(size, NO_PAYLOAD),
        unreadable,
    )


def _name_in(beginning: bytes) -> tuple[str, str]:
    """The task's name in the beginning of a payload, or what is wrong with it."""
    if beginning[:1] == b"\x80":
        return "", "pickle"
    found = _TASK_NAME.match(beginning)
    try:
        return (msgspec.json.decode(found[1], type=str), "") if found else ("", "undecodable")
    except (msgspec.MsgspecError, ValueError):
        return "", "undecodable"


def text_of(job_id: bytes) -> str:
    """An id as text; see `JobEntry`."""
    return job_id.decode("utf-8", "surrogateescape")


def due_at(score: bytes, status: JobStatus, job: Job | None) -> float | None:
    """When a member is due, unix seconds. A running one's score is its lease's end; a priority's is in the past."""
    try:
        due = float(score)
    except ValueError:
        return None
    if status is JobStatus.RUNNING or not math.isfinite(due):
        return None
    return max(due, job.enqueued_ms if job is not None else 0) / 1000


def attempt_of(tries: bytes | None, job: Job | None) -> int:
    """The try that comes next, after so many that ended; the producer may have named a first one."""
    ended = int(tries) if tries and len(tries) <= 9 and tries.isdigit() else 0
    first = 0 if job is None or job.first_attempt is None else job.first_attempt
    return max(ended + 1, first)


def stalls_of(claim: bytes | None) -> int:
    """How many stalls a claim's key tells of."""
    _, mark, past = (claim or b"").partition(b"|")
    digits = past.partition(b"|")[0]
    return int(digits) if mark and digits.isdigit() and len(digits) <= 9 else 0


def details(codec: JobCodec, queue: str, job_id: str, found: Sequence[Any]) -> JobDetails | None:
    """A job from what its keys hold, in the order of `JobAdmin.inspect`; None when there is nothing.

    A key of another type is read as junk, the queue's own is not.
    """
    score, held, requested, tries, claim, payload, encoded = found[:7]
    seconds, microseconds = found[7]
    result = _result(codec, encoded)
    if score is None and result is None:
        return None
    job, unreadable = (
        (None, "wrong-type") if isinstance(payload, StoreError) else read_payload(codec, payload)
    )
    if score is None:
        ended = result is not None and result.success
        status = JobStatus.SUCCEEDED if ended else JobStatus.FAILED
    elif held:
        status = JobStatus.RUNNING
    else:
        now = int(seconds) * 1000 + int(microseconds) / 1000
        status = JobStatus.QUEUED if float(score) <= now else JobStatus.DEFERRED
    ended_as = result if score is None else None
    entry = JobEntry(
        queue,
        job_id,
        status,
        None if score is None else due_at(score, status, job),
        attempt_of(_bytes(tries), job) if ended_as is None else ended_as.attempt,
        stalls_of(_bytes(claim)),
        job.function if job is not None else ("" if ended_as is None else ended_as.function),
        len(payload) if isinstance(payload, bytes) and payload else NO_PAYLOAD,
        "" if score is None else unreadable,
    )
    return JobDetails(entry, job, result, isinstance(requested, bytes))


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else None


_UNREADABLE: Final = ErrorRecord("unknown", "the result cannot be read")


def _result(codec: JobCodec, encoded: Any) -> ResultInfo | None:
    if encoded is None:
        return None
    try:
        return codec.decode_result(encoded)
    except Exception:  # noqa: BLE001 - a codec may be anybody's, and so may the bytes
        return ResultInfo(False, _UNREADABLE, "", 1, 0, 0, 0, "", "")
