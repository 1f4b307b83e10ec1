"""From how a run ended to what the store is told."""

from __future__ import annotations

import math

from aioinfra.errors import EncodeError
from aioinfra.jobs.dead import encode_dead_letter
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.job import (
    REPLY_HEADER,
    REPLY_PREFIX,
    Action,
    Failed,
    Finish,
    Outcome,
    Released,
    Retried,
    Run,
    Succeeded,
)
from aioinfra.jobs.payload import JobCodec, JsonCodec
from aioinfra.jobs.records import error_record
from aioinfra.jobs.retry import LONGEST_RETRY

_FOR_EVER = -1
_KEEP_UNKNOWN = 3600.0


def settle(run: Run, outcome: Outcome, runnable: Runnable | None, codec: JobCodec) -> tuple[Finish, Outcome]:
    """An outcome as the store takes it, and the outcome that counts: a result that cannot be encoded is a failure.

    Args:
        run: what ran.
        outcome: how it ended.
        runnable: the task, or None when it was never found.
        codec: encodes the result.
    """
    claim = run.claim
    if isinstance(outcome, Retried):
        tries, pause = claim.attempt, _milliseconds(outcome.delay)
        return Finish(claim, Action.RETRY, result_ttl_ms=tries, number=pause), outcome
    if isinstance(outcome, Released):
        later = claim.claimed_ms + run.finished_ms - run.started_ms + _milliseconds(outcome.delay)
        return Finish(claim, Action.RELEASE, number=later if outcome.delay else claim.score), outcome
    keep = _KEEP_UNKNOWN if runnable is None else runnable.keep_result
    ttl = _FOR_EVER if keep is None else math.ceil(keep * 1000)
    result = b""
    if ttl:
        result, faithful = codec.encode_result(run, outcome)
        if isinstance(outcome, Succeeded):
            error = (
                _altered(outcome.value, runnable, codec)
                if faithful
                else EncodeError("result", "cannot be encoded")
            )
            if error is not None:
                outcome = Failed(error, reason="unencodable-result")
                result = codec.encode_result(run, outcome)[0] if faithful else result
        if not result:
            ttl = 0
    reply_to = run.job.headers.get(REPLY_HEADER, "")
    if not reply_to.startswith(REPLY_PREFIX):  # a payload may not make its worker publish anywhere else
        reply_to = ""
    if isinstance(outcome, Failed) and outcome.bury:
        record = encode_dead_letter(claim, run.job.function, outcome.reason, error_record(outcome.error))
        return Finish(claim, Action.BURY, result, ttl, 0, reply_to, record), outcome
    lease = 0 if runnable is None else int(runnable.keep_lease * 1000)
    return Finish(claim, Action.DONE, result, ttl, lease, reply_to), outcome


def _altered(value: object, runnable: Runnable | None, codec: JobCodec) -> EncodeError | None:
    """Why a result would be read as something else than was returned."""
    return None if runnable is None or not isinstance(codec, JsonCodec) else runnable.altered(value)


def _milliseconds(delay: object) -> int:
    """A pause as the store takes it, whatever a policy answered: at most a year, and 0 for what is no number."""
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not delay > 0:
        return 0
    return int(min(delay, LONGEST_RETRY) * 1000)


def outcome_name(outcome: Outcome) -> str:
    """The outcome's word in metrics and logs."""
    if type(outcome) is Succeeded:
        return "succeeded"
    if isinstance(outcome, Failed):
        return "dead" if outcome.bury else "failed"
    if isinstance(outcome, Retried):
        return "retried"
    if isinstance(outcome, Released):
        return "released"
    return "aborted"
