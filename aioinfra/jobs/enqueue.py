"""Storing jobs: checked and encoded before any I/O, sent in batches, repeated while that is safe."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aioinfra import context as correlation
from aioinfra.backoff import Backoff
from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.errors import (
    EnqueueUncertain,
    InvalidArgument,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from aioinfra.jobs.checks import check_name, check_request
from aioinfra.jobs.job import NONCE_HEADER, REPLY_HEADER, JobRequest, StoredRequest
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.store import Added, JobStore

DAY_MS = 86_400_000
PRIORITY_STEP_MS = 10_000_000_000
"""How far one step of priority moves a job ahead in its queue; 100 steps stay a positive score."""

_RECONNECT = Backoff(tries=1_000, base=0.02, cap=0.25)
_BULK = 10_000


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client enqueues.

    Attributes:
        default_queue: for requests that name none.
        timeout: seconds within which an enqueue is stored or raises, its repeats included.
        batch: bounds of one enqueue script call, and of what may wait behind it.
    """

    default_queue: str = "default"
    timeout: float = 2.0
    batch: BatchLimits = field(default_factory=lambda: BatchLimits(max_items=500))

    def __post_init__(self) -> None:
        check_name("default_queue", self.default_queue)
        value: object = self.timeout
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InvalidArgument("timeout", "must be a finite number of seconds above 0")


DEFAULT_OPTIONS: Final = ClientOptions()


class Enqueuer:
    """Stores jobs. One per event loop; owned by the client.

    Args:
        store: where they go.
        codec: how they are written.
        options: see `ClientOptions`.
        observer: told of every stored job and store error.
        channel: where the producer hears of a job's end.
    """

    def __init__(
        self,
        store: JobStore,
        codec: JobCodec,
        options: ClientOptions,
        *,
        observer: JobObserver,
        channel: str,
    ) -> None:
        self._store = store
        self._codec = codec
        self._options = options
        self._observer = observer
        self._channel = channel
        self._batcher: Batcher[StoredRequest, bool] = Batcher(self._send, options.batch, size_of=_size_of)

    async def one(self, request: JobRequest[Any]) -> tuple[StoredRequest, bool]:
        """Store a job; answers it with whether it is new. Raises as `JobClient.enqueue`."""
        stored = self._encode(request, self._headers())
        created = await self._batcher.submit(stored)
        if created:
            self._observer.enqueued(stored.queue, request.task)
        return stored, created

    async def many(self, requests: Sequence[JobRequest[Any]]) -> list[tuple[StoredRequest, bool]]:
        """Store many jobs, in order. Raises as `JobClient.enqueue_many`."""
        headers = self._headers()
        stored = [self._encode(request, headers) for request in requests]
        created: list[bool] = []
        # Piecewise, so that a large bulk leaves room behind the batch in flight.
        bulk = min(_BULK, self._options.batch.max_waiting)
        for at in range(0, len(stored), bulk):
            part = [self._batcher.submit(entry) for entry in stored[at : at + bulk]]
            answers = await asyncio.gather(*part, return_exceptions=True)
            created += _without_errors(answers)
        for request, entry, new in zip(requests, stored, created, strict=True):
            if new:
                self._observer.enqueued(entry.queue, request.task)
        return list(zip(stored, created, strict=True))

    async def aclose(self) -> None:
        """Wait for the enqueues under way; then refuse."""
        await self._batcher.aclose()

    def _headers(self) -> Mapping[str, str]:
        request_id = correlation.request_id()
        if request_id is None:
            return {REPLY_HEADER: self._channel}
        return {correlation.REQUEST_ID: request_id, REPLY_HEADER: self._channel}

    def _encode(self, request: JobRequest[Any], headers: Mapping[str, str]) -> StoredRequest:
        check_request(request)
        nonce = ""
        if request.headers:
            headers = {**headers, **request.headers}
        if request.job_id is None:
            job_id = os.urandom(16).hex()
        else:
            job_id, nonce = request.job_id, os.urandom(8).hex()
            headers = {**headers, NONCE_HEADER: nonce}
        now = int(time.time() * 1000)
        payload = self._codec.encode_job(request.task, request.args, request.kwargs, now, headers)
        due = None if request.at is None else int(request.at * 1000)
        late = 0 if request.delay is None else int(request.delay * 1000)
        # A priority moves a job that is due at once ahead of the others; a deferred one keeps its time, since
        # its score is all that keeps it from starting.
        ahead = request.priority * PRIORITY_STEP_MS if due is None and not late else 0
        lives = DAY_MS if request.expires is None else max(1, int(request.expires * 1000))
        queue = request.queue or self._options.default_queue
        return StoredRequest(
            queue, job_id, request.job_id is not None, due, late - ahead, lives, nonce, payload
        )

    async def _send(self, requests: list[StoredRequest]) -> Sequence[bool | BaseException]:
        """Store a batch, repeating while that is safe and there is time."""
        ends = time.monotonic() + self._options.timeout
        unknown = False
        attempt = 0
        while True:
            attempt += 1
            left = max(0.001, ends - time.monotonic())
            try:
                added = await self._store.add(requests, repeated=unknown, deadline=left)
            except StoreUnavailable as error:
                failure, unknown = error, unknown or error.sent
            except StoreError as error:
                # The server's answer to this attempt; an earlier one may have been stored all the same.
                self._observer.store_error("enqueue")
                return _failures(requests, error, unknown or not isinstance(error, _REFUSALS))
            else:
                return [_answer(request, what) for request, what in zip(requests, added, strict=True)]
            self._observer.store_error("enqueue")
            pause = _RECONNECT.delay(attempt)
            if time.monotonic() + pause >= ends:
                return _failures(requests, failure, unknown)
            await asyncio.sleep(pause)


_REFUSALS = (StoreFull, StoreDenied, WrongType)
"""Errors that the script meets before its first write."""


def _size_of(request: StoredRequest) -> int:
    return len(request.payload) + 128


def _answer(request: StoredRequest, added: Added) -> bool | BaseException:
    if added is Added.STORED or added is Added.FOUND:
        return True
    if added is Added.TAKEN:
        return False
    if added is Added.WRONG_TYPE:
        return WrongType(f"queue {request.queue!r}: the key holds a value of another type")
    return EnqueueUncertain([request.job_id], "no answer, and the result under its id may be another job's")


def _failures(
    requests: Sequence[StoredRequest], failure: StoreError, unknown: bool
) -> list[bool | BaseException]:
    if unknown:
        return [EnqueueUncertain([request.job_id], str(failure)) for request in requests]
    if isinstance(failure, StoreUnavailable):
        return [StoreUnavailable(str(failure), sent=False) for _ in requests]
    return [type(failure)(*failure.args) for _ in requests]


def _without_errors(answers: Sequence[bool | BaseException]) -> list[bool]:
    """The answers of a bulk enqueue; raises what its caller must know most, uncertain jobs before refused ones."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    uncertain = [error for error in errors if isinstance(error, EnqueueUncertain)]
    if uncertain:
        raise EnqueueUncertain([error.job_id for error in uncertain], uncertain[0].reason)
    if errors:
        raise errors[0]
    return [answer is True for answer in answers]
