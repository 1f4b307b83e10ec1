"""Storing jobs: checked and encoded before any I/O, sent in batches, repeated while that is safe."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from aioinfra import context as correlation
from aioinfra.backoff import Backoff
from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.errors import (
    DeadlineExceeded,
    EnqueueUncertain,
    InvalidArgument,
    Overloaded,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from aioinfra.jobs.checks import check_is_list, check_name, check_request
from aioinfra.jobs.due import DueTimes
from aioinfra.jobs.job import NONCE_HEADER, QUEUE_HEADER, REPLY_HEADER, JobRequest, StoredRequest
from aioinfra.jobs.middleware import JobMiddleware, check_middleware
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.payload import JobCodec, JsonCodec, check_restored
from aioinfra.jobs.routing import DEFAULT_QUEUE, NO_ROUTES, Routes
from aioinfra.jobs.store import Added, JobStore

DAY_MS = 86_400_000
PRIORITY_STEP_MS = 10_000_000_000
"""How far one step of priority moves a job ahead in its queue; 100 steps stay a positive score."""

_RECONNECT = Backoff(tries=1_000, base=0.02, cap=0.25)
_BULK = 10_000
_BULK_BYTES = 4 << 20
"""What a bulk hands in at a time, jobs and bytes: so much is stored within one timeout on a slow link as well."""
_DUE_SLACK = 0.02
"""Seconds before it is due in which a request is not sent any more: there would hardly be an answer."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client enqueues.

    Attributes:
        default_queue: for requests that name none and match no route.
        routes: queues of requests that name none, by their task's name.
        middleware: stands around every enqueue of the client, the first one outermost.
        timeout: seconds from the call within which an enqueue is stored or raises, its wait behind other
            enqueues and its repeats included.
        batch: bounds of one enqueue script call, and of what may wait behind it.
    """

    default_queue: str = DEFAULT_QUEUE
    timeout: float = 2.0
    batch: BatchLimits = field(default_factory=lambda: BatchLimits(max_items=500))
    routes: Routes = NO_ROUTES
    middleware: Sequence[JobMiddleware] = ()

    def __post_init__(self) -> None:
        check_name("default_queue", self.default_queue)
        if not isinstance(self.routes, Routes):
            raise InvalidArgument("routes", "must be Routes")
        check_middleware("middleware", self.middleware)
        value: object = self.timeout
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InvalidArgument("timeout", "must be a finite number of seconds above 0")

    def queue_of(self, task: str) -> str:
        """Where a job goes that names no queue."""
        return self.routes.queue_of(task) or self.default_queue


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
        self._is_json = isinstance(codec, JsonCodec)
        self._queue_of = options.queue_of
        self._options = options
        self._observer = observer
        self._channel = channel
        self._batcher: Batcher[_Pending, bool] = Batcher(self._send, options.batch, size_of=_size_of)
        # Ends each request at its own time, in flight or waiting; `_send` keeps to it too.
        self._due_times: DueTimes[_Pending] = DueTimes(self._when_due)
        self._numbers = itertools.count()
        self._newest_sent = -1
        self._last_sent = -math.inf
        self._slack = min(_DUE_SLACK, options.timeout / 10)
        self._room: asyncio.Future[None] | None = None

    async def one(self, request: JobRequest[Any]) -> tuple[StoredRequest, bool]:
        """Store a job; answers it with whether it is new. Raises as `JobClient.enqueue`."""
        stored = self._encode(request, self._headers())
        created = await self._submit(time.monotonic() + self._options.timeout, stored)
        if created:
            self._observer.enqueued(stored.queue, request.task)
        return stored, created

    async def many(self, requests: Sequence[JobRequest[Any]]) -> list[tuple[StoredRequest, bool]]:
        """Store many jobs, in order. Raises as `JobClient.enqueue_many`."""
        check_is_list(requests)
        headers = self._headers()
        stored = [self._encode(request, headers) for request in requests]
        created: list[bool] = []
        while len(created) < len(stored):
            created += await self._part(stored, len(created))
        for request, entry, new in zip(requests, stored, created, strict=True):
            if new:
                self._observer.enqueued(entry.queue, request.task)
        return list(zip(stored, created, strict=True))

    async def _part(self, stored: Sequence[StoredRequest], first: int) -> list[bool]:
        """Store as many requests from ``first`` on as there is room for; which of them are new.

        Each part has a timeout of its own, so that a bulk may take as long as its bytes do.
        """
        try:
            count = await self._some_room()
        except Overloaded as error:
            raise Overloaded(f"{error}; {first} of {len(stored)} jobs are stored") from None
        due = time.monotonic() + self._options.timeout
        part = stored[first : first + count]
        ends = list(itertools.accumulate(len(entry.payload) for entry in part))
        part = part[: max(1, bisect_right(ends, _BULK_BYTES))]
        futures = [self._submit(due, entry) for entry in part]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        return _without_errors(answers, first, len(stored))

    async def _some_room(self) -> int:
        """How many requests a bulk may hand in now, waiting for room when there is none.

        A bulk takes half of the room at most, so that single enqueues find some.

        Raises:
            Overloaded: there was none for ``timeout`` seconds.
        """
        most = max(1, self._options.batch.max_waiting // 2)
        try:
            async with asyncio.timeout(self._options.timeout):
                while (room := most - len(self._batcher)) < 1:
                    if self._room is None:
                        self._room = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._room)
        except TimeoutError:
            raise Overloaded(f"{len(self._batcher)} enqueues wait behind the batch in flight") from None
        return min(_BULK, room)

    async def aclose(self) -> None:
        """Wait for the enqueues under way; then refuse."""
        try:
            await self._batcher.aclose()
        finally:
            self._due_times.close()

    def _headers(self) -> Mapping[str, str]:
        request_id = correlation.request_id()
        if request_id is None:
            return {REPLY_HEADER: self._channel}
        return {correlation.REQUEST_ID: request_id, REPLY_HEADER: self._channel}

    def _encode(self, request: JobRequest[Any], headers: Mapping[str, str]) -> StoredRequest:
        check_request(request)
        nonce = ""
        queue = request.queue or self._queue_of(request.task)
        if request.headers:
            headers = {**headers, **request.headers}
        if request.job_id is None:
            job_id = os.urandom(16).hex()
        else:
            job_id, nonce = request.job_id, os.urandom(8).hex()
            headers = {**headers, NONCE_HEADER: nonce, QUEUE_HEADER: queue}
        now = int(time.time() * 1000)
        payload = self._codec.encode_job(request.task, request.args, request.kwargs, now, headers)
        if self._is_json and (request.args or request.kwargs):
            check_restored(request.args, request.kwargs, request.plan)
        due = None if request.at is None else int(request.at * 1000)
        late = 0 if request.delay is None else int(request.delay * 1000)
        # A priority moves a job that is due at once ahead of the others; a deferred one keeps its time, since
        # its score is all that keeps it from starting.
        ahead = request.priority * PRIORITY_STEP_MS if due is None and not late else 0
        lives = DAY_MS if request.expires is None else max(1, int(request.expires * 1000))
        return StoredRequest(
            queue, job_id, request.job_id is not None, due, late - ahead, lives, nonce, payload
        )

    def _submit(self, due: float, stored: StoredRequest) -> asyncio.Future[bool]:
        pending = (due, next(self._numbers), stored)
        future = self._batcher.submit(pending)
        self._due_times.add(due, pending, future)
        return future

    def _when_due(self, pending: _Pending) -> BaseException:
        """What a caller is told whose time is over, from what may have been sent since the caller came."""
        due, number, stored = pending
        text = f"no answer within {self._options.timeout:g} s"
        if number <= self._newest_sent and self._last_sent >= due - self._options.timeout:
            return EnqueueUncertain([stored.job_id], text)
        return DeadlineExceeded(text, sent=False)

    async def _send(self, batch: list[_Pending]) -> Sequence[bool | BaseException]:
        """Store a batch, repeating while that is safe and there is time."""
        self._due_times.forget_done()
        try:
            return await self._sent(batch)
        finally:
            room, self._room = self._room, None
            if room is not None:
                room.set_result(None)

    async def _sent(self, batch: list[_Pending]) -> Sequence[bool | BaseException]:
        ends = batch[-1][0]
        requests = [stored for _, _, stored in batch]
        unknown = False
        failure = StoreUnavailable("its time was over before it could be sent", sent=False)
        attempt = 0
        while True:
            attempt += 1
            # Whoever was told that its job is not stored must not find it stored: what is due is not sent (again).
            now = time.monotonic()
            late = bisect_right(batch, now + self._slack, key=itemgetter(0))
            if late == len(batch):
                return _failures(requests, failure, unknown)
            self._newest_sent = batch[-1][1]
            before, self._last_sent = self._last_sent, math.inf
            try:
                added = await self._store.add(requests[late:], repeated=unknown, deadline=ends - now)
            except StoreUnavailable as error:
                failure, unknown = error, unknown or error.sent
                self._last_sent = time.monotonic() if error.sent else before
            except StoreError as error:
                # The server's answer to this attempt; an earlier one may have been stored all the same.
                self._last_sent = time.monotonic()
                self._observer.store_error("enqueue")
                return _failures(requests, error, unknown or not isinstance(error, _REFUSALS))
            except BaseException:
                self._last_sent = time.monotonic()
                raise
            else:
                self._last_sent = time.monotonic()
                answers = [
                    _answer(request, what) for request, what in zip(requests[late:], added, strict=True)
                ]
                return [*_failures(requests[:late], failure, unknown), *answers] if late else answers
            self._observer.store_error("enqueue")
            left = ends - time.monotonic()
            if left <= 2 * self._slack:
                return _failures(requests, failure, unknown)
            await asyncio.sleep(min(_RECONNECT.delay(attempt), left / 2))


_Pending = tuple[float, int, StoredRequest]
"""Due time, number and request. When it is due (monotonic), its caller is told, stored or not."""


_REFUSALS = (StoreFull, StoreDenied, WrongType)
"""Errors that the script meets before its first write."""


def _size_of(pending: _Pending) -> int:
    return len(pending[2].payload) + 128


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


def _without_errors(answers: Sequence[bool | BaseException], first: int, total: int) -> list[bool]:
    """The answers to a part of a bulk, which begins at request ``first`` of ``total``.

    Raises what the caller must know most, uncertain jobs before refused ones, with how many jobs are stored.
    """
    if not any(isinstance(answer, BaseException) for answer in answers):
        return [answer is True for answer in answers]
    stored = first + sum(not isinstance(answer, BaseException) for answer in answers)
    at = next(at for at, answer in enumerate(answers, first) if isinstance(answer, BaseException))
    more = f"{stored} of {total} jobs are stored; the first that failed is requests[{at}]"
    uncertain = [answer for answer in answers if isinstance(answer, EnqueueUncertain)]
    if uncertain:
        raise EnqueueUncertain([error.job_id for error in uncertain], f"{uncertain[0].reason}; {more}")
    error = answers[at - first]
    if isinstance(error, StoreUnavailable):
        raise type(error)(f"{error}; {more}", sent=False) from None
    if isinstance(error, StoreError):
        raise type(error)(f"{error}; {more}") from None
    assert isinstance(error, BaseException)  # noqa: S101 - narrows the type
    raise error
