"""From how a run ended to what the store is told."""

from __future__ import annotations

import math

from aioinfra.errors import EncodeError
from aioinfra.jobs.dead import encode_dead_letter
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.job import (
    REPLY_HEADER,
    REPLY_PREFIX,
    Aborted,
    Action,
    Failed,
    Finish,
    Outcome,
    Released,
    Retried,
    Run,
    Succeeded,
)
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.records import error_record

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
        tries, pause = claim.attempt, int(outcome.delay * 1000)
        return Finish(claim, Action.RETRY, result_ttl_ms=tries, number=pause), outcome
    if isinstance(outcome, Released):
        later = claim.claimed_ms + run.finished_ms - run.started_ms + int(outcome.delay * 1000)
        return Finish(claim, Action.RELEASE, number=later if outcome.delay else claim.score), outcome
    keep = _KEEP_UNKNOWN if runnable is None else runnable.keep_result
    ttl = _FOR_EVER if keep is None else math.ceil(keep * 1000)
    result = b""
    if ttl:
        result, faithful = codec.encode_result(run, outcome)
        if not faithful and isinstance(outcome, Succeeded):
            outcome = Failed(EncodeError("result", "cannot be encoded"), reason="unencodable-result")
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


def outcome_name(outcome: Outcome) -> str:
    """The outcome's word in metrics and logs."""
    if isinstance(outcome, Failed):
        return "dead" if outcome.bury else "failed"
    if isinstance(outcome, Retried):
        return "retried"
    if isinstance(outcome, Released):
        return "released"
    return "aborted" if isinstance(outcome, Aborted) else "succeeded"
