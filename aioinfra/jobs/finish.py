"""Recording how jobs ended: finishes are collected, sent in batches, and repeated until the server has them.

One batch is in flight at a time, under a nonce of its own. A repeat after a lost reply carries the same nonce,
and the server answers what it answered before: a job's end counts once.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence

from aioinfra.backoff import Backoff
from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.errors import EncodeError, StoreError, StoreFull, StoreUnavailable
from aioinfra.jobs.dead import encode_dead_letter
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.job import (
    REPLY_HEADER,
    Aborted,
    Action,
    Failed,
    Finish,
    Outcome,
    Released,
    Retried,
    Succeeded,
)
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.payload import JobCodec, Run, error_record
from aioinfra.jobs.store import FinishStatus, JobStore

logger = logging.getLogger("aioinfra.jobs")

_RETRY = Backoff(tries=1_000_000, base=0.05, cap=0.5)
_LIMITS = BatchLimits(max_items=500, max_bytes=1 << 20, max_waiting=1_000_000)


class Finisher:
    """Sends finishes to the store. Owned by one worker.

    Args:
        store: where they go.
        observer: told of batches and errors.
    """

    def __init__(self, store: JobStore, observer: JobObserver) -> None:
        self._store = store
        self._observer = observer
        self._worker = uuid.uuid4().hex
        self._batches = 0
        self._outstanding = 0
        self._give_up = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._batcher: Batcher[Finish, FinishStatus] = Batcher(self._send, _LIMITS, size_of=_size_of)

    @property
    def outstanding(self) -> int:
        """Finishes that the server has not confirmed yet."""
        return self._outstanding

    def submit(self, finish: Finish) -> asyncio.Future[FinishStatus]:
        """Send a finish with the next batch. The future need not be awaited."""
        self._outstanding += 1
        self._empty.clear()
        future = self._batcher.submit(finish)
        future.add_done_callback(self._done)
        return future

    async def flush(self, timeout: float) -> bool:
        """Wait until everything is recorded, at most ``timeout`` seconds; whether it is."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def aclose(self, timeout: float = 5.0) -> None:
        """Record what is left, at most ``timeout`` seconds; jobs beyond that run again after their lease."""
        if not await self.flush(timeout):
            logger.error("%d finished jobs could not be recorded; they will run again", self._outstanding)
            self._give_up = True
        await self._batcher.aclose()

    def _done(self, future: asyncio.Future[FinishStatus]) -> None:
        self._outstanding -= 1
        if not self._outstanding:
            self._empty.set()
        if not future.cancelled() and future.exception() is not None:
            logger.error("a finished job could not be recorded; it will run again: %s", future.exception())

    async def _send(self, finishes: list[Finish]) -> Sequence[FinishStatus | BaseException]:
        self._batches += 1
        nonce = f"{self._worker}-{self._batches}"
        try:
            statuses = await self._until_answered(nonce, finishes)
        except StoreError as error:
            if len(finishes) == 1:
                return [error]
            # One of them is refused (its queue's key has another type, say): it must not take the others along.
            return [answer for finish in finishes for answer in await self._send([finish])]
        fenced = sum(not status.recorded for status in statuses)
        if fenced:
            logger.warning("%d finishes refused: their jobs were taken over after a lapsed lease", fenced)
        return statuses

    async def _until_answered(self, nonce: str, finishes: list[Finish]) -> list[FinishStatus]:
        attempt = 0
        while True:
            attempt += 1
            before = time.perf_counter()
            try:
                statuses = await self._store.finish(self._worker, nonce, finishes)
            except (StoreUnavailable, StoreFull):
                self._observer.store_error("finish")
                if self._give_up:
                    raise
                await asyncio.sleep(_RETRY.delay(attempt))
            else:
                self._observer.recorded(len(finishes), time.perf_counter() - before)
                return statuses


def _size_of(finish: Finish) -> int:
    return len(finish.result) + len(finish.record) + 256


_FOR_EVER = -1
_KEEP_UNKNOWN = 3600.0


def settle(
    run: Run, outcome: Outcome, runnable: Runnable | None, codec: JobCodec, reason: str = "exhausted"
) -> tuple[Finish, Outcome]:
    """An outcome as the store takes it, and the outcome that counts: a result that cannot be encoded is a failure.

    Args:
        run: what ran.
        outcome: how it ended.
        runnable: the task, or None when it was never found.
        codec: encodes the result.
        reason: why a failed job is buried, for its dead letter.
    """
    claim = run.claim
    if isinstance(outcome, Released):
        number = claim.score if outcome.due_ms is None else outcome.due_ms
        return Finish(claim, Action.RELEASE, number=number), outcome
    if isinstance(outcome, Retried):
        tries, pause = claim.attempt, int(outcome.delay * 1000)
        return Finish(claim, Action.RETRY, result_ttl_ms=tries, number=pause), outcome
    keep = _KEEP_UNKNOWN if runnable is None else runnable.keep_result
    ttl = _FOR_EVER if keep is None else int(keep * 1000)
    result = b""
    if ttl:
        result, faithful = codec.encode_result(run, outcome)
        if not faithful and isinstance(outcome, Succeeded):
            reason = "unencodable-result"
            outcome = Failed(EncodeError("result", "cannot be encoded"))
    reply_to = run.job.headers.get(REPLY_HEADER, "")
    if isinstance(outcome, Failed) and outcome.bury:
        record = encode_dead_letter(claim, run.job.function, reason, error_record(outcome.error))
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
