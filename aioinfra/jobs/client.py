"""The producer's side: enqueue jobs, and read what became of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aioinfra import context as correlation
from aioinfra.backoff import Backoff
from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import (
    DecodeError,
    EnqueueUncertain,
    InvalidArgument,
    JobAborted,
    JobFailed,
    JobNotFound,
    StoreError,
    StoreUnavailable,
)
from aioinfra.jobs.dead import DeadLetter, read_dead_letter
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import (
    NONCE_HEADER,
    REPLY_HEADER,
    ErrorRecord,
    JobRequest,
    JobStatus,
    Progress,
    QueueDepth,
    StoredRequest,
)
from aioinfra.jobs.observer import JobObserver, SilentObserver
from aioinfra.jobs.payload import JobCodec, JsonCodec, ResultInfo
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.results import ReplyListener
from aioinfra.jobs.store import JobStore
from aioinfra.process_default import ProcessDefault

DAY_MS = 86_400_000
PRIORITY_STEP_MS = 10_000_000_000
"""How far one step of priority moves a job ahead in its queue; 100 steps stay a positive score."""
MAX_ID_BYTES = 512

_RECONNECT = Backoff(tries=1_000, base=0.02, cap=0.25)


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


class JobClient:
    """Enqueues jobs and reads their results. One per event loop.

    Args:
        redis: the jobs server; owned by the caller.
        codec: how jobs are written; the workers of a queue must read it.
        options: see `ClientOptions`.
        observer: told of every stored job and store error.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        codec: JobCodec | None = None,
        options: ClientOptions = ClientOptions(),
        observer: JobObserver | None = None,
    ) -> None:
        self._store: JobStore = RedisJobStore(redis)
        self._codec = codec or JsonCodec()
        self._options = options
        self._observer = observer or SilentObserver()
        self._replies = ReplyListener(redis, os.urandom(8).hex())
        self._batcher: Batcher[StoredRequest, bool] = Batcher(
            self._send, options.batch, size_of=_size_of_request
        )

    async def enqueue(self, request: JobRequest, *, returns: Any = Any) -> JobHandle[Any]:
        """Store one job. One round trip, shared with whatever else is enqueued meanwhile.

        Raises:
            InvalidArgument, EncodeError: before any I/O; name the argument.
            EnqueueUncertain: it is not known whether the job was stored.
            StoreUnavailable, StoreFull, StoreDenied: it was not stored.
            Overloaded: too many enqueues wait already; it was not stored.
        """
        stored = self._encode(request, _headers(self._replies.channel))
        created = await self._batcher.submit(stored)
        if created:
            self._observer.enqueued(stored.queue, request.task)
        return JobHandle(self, stored.queue, stored.job_id, created=created, returns=returns)

    async def enqueue_many(self, requests: Sequence[JobRequest]) -> list[JobHandle[Any]]:
        """Store many jobs, 500 a round trip. Each call of the script stores all of its jobs or none.

        Raises:
            EnqueueUncertain: names the jobs whose fate is unknown; others may be stored.
            And as `enqueue`.
        """
        headers = _headers(self._replies.channel)
        stored = [self._encode(request, headers) for request in requests]
        answers = await asyncio.gather(*map(self._batcher.submit, stored), return_exceptions=True)
        _raise_first(answers)
        handles = []
        for request, entry, created in zip(requests, stored, answers, strict=True):
            if created:
                self._observer.enqueued(entry.queue, request.task)
            handles.append(JobHandle[Any](self, entry.queue, entry.job_id, created=created is True))
        return handles

    def handle(self, job_id: str, queue: str | None = None, *, returns: Any = Any) -> JobHandle[Any]:
        """The handle of a job that was enqueued elsewhere. No I/O."""
        return JobHandle(self, queue or self._options.default_queue, job_id, returns=returns)

    async def depths(self, queues: Sequence[str]) -> dict[str, QueueDepth]:
        """How full queues are. One round trip."""
        return await self._store.depths(queues)

    async def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters of a queue, newest first. Two round trips."""
        return [read_dead_letter(data) for data in await self._store.dead_letters(queue, limit)]

    async def status(self, queue: str, job_id: str) -> JobStatus:
        """Where a job is. One round trip."""
        status, data = await self._store.status(queue, job_id)
        if data is None:
            return status
        return JobStatus.SUCCEEDED if self._codec.decode_result(data).success else JobStatus.FAILED

    async def result_info(self, job_id: str) -> ResultInfo | None:
        """An ended job's particulars, or None. One round trip."""
        data = await self._store.result(job_id)
        return None if data is None else self._codec.decode_result(data)

    async def progress(self, job_id: str) -> Progress | None:
        """What the job last said of its progress, or None. One round trip."""
        data = await self._store.progress(job_id)
        try:
            return None if data is None else msgspec.json.decode(data, type=Progress)
        except msgspec.MsgspecError:
            raise DecodeError("the progress of the job cannot be read") from None

    async def result(self, queue: str, job_id: str, returns: Any, timeout: float | None) -> Any:
        """Wait for a job; see `JobHandle.result`."""
        if timeout is not None and (isinstance(timeout, bool) or not timeout >= 0):
            raise InvalidArgument("timeout", "must be seconds, at least 0, or None")
        async with asyncio.timeout(timeout):
            await self._replies.start()
            data = await self._wait(queue, job_id)
        return _value_of(self._codec.decode_result(data), job_id, returns)

    async def _wait(self, queue: str, job_id: str) -> bytes:
        with self._replies.watch(job_id) as watch:
            while True:
                status, data = await self._store.status(queue, job_id)
                if status is JobStatus.NOT_FOUND:
                    # It may have ended between the two reads of that one round trip.
                    data = await self._store.result(job_id)
                    if data is None:
                        raise JobNotFound(job_id)
                if data is not None:
                    return data
                await watch.wait()

    async def aclose(self) -> None:
        """Wait for the enqueues under way, then close. The server's client stays open."""
        await self._batcher.aclose()
        await self._replies.aclose()

    def _encode(self, request: JobRequest, headers: Mapping[str, str]) -> StoredRequest:
        _check(request)
        nonce = ""
        merged = {**headers, **request.headers} if request.headers else headers
        if request.job_id is None:
            job_id = os.urandom(16).hex()
        else:
            job_id, nonce = request.job_id, os.urandom(8).hex()
            merged = {**merged, NONCE_HEADER: nonce}
        now = time.time()
        payload = self._codec.encode_job(request.task, request.args, request.kwargs, int(now * 1000), merged)
        due = None if request.at is None else int(request.at * 1000)
        late = 0 if request.delay is None else int(request.delay * 1000)
        # A priority moves a job that is due at once ahead of the others; a deferred one keeps its time, since
        # its score is all that keeps it from starting.
        ahead = request.priority * PRIORITY_STEP_MS if due is None and not late else 0
        lives = DAY_MS if request.expires is None else max(1, int(request.expires * 1000))
        queue = request.queue or self._options.default_queue
        chosen = request.job_id is not None
        return StoredRequest(queue, job_id, chosen, due, late - ahead, lives, nonce, payload)

    async def _send(self, requests: list[StoredRequest]) -> Sequence[bool | BaseException]:
        """Store a batch, repeating while that is safe and there is time."""
        deadline = time.monotonic() + self._options.timeout
        unknown = False
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(max(0.001, deadline - time.monotonic())):
                    return await self._store.add(requests, repeated=unknown)
            except TimeoutError as error:
                # Ours, or the store's own DeadlineExceeded: either way the call may have had its effect.
                failure: StoreError = StoreUnavailable("no answer in time")
                unknown = unknown or getattr(error, "sent", True)
            except StoreUnavailable as error:
                failure, unknown = error, unknown or error.sent
            self._observer.store_error("enqueue")
            pause = _RECONNECT.delay(attempt)
            if time.monotonic() + pause >= deadline:
                return _failures(requests, failure, unknown)
            await asyncio.sleep(pause)


default_client: ProcessDefault[JobClient] = ProcessDefault("job client")
"""What `task.delay` enqueues with when its task belongs to no service."""


def _headers(channel: str) -> Mapping[str, str]:
    request_id = correlation.request_id()
    if request_id is None:
        return {REPLY_HEADER: channel}
    return {correlation.REQUEST_ID: request_id, REPLY_HEADER: channel}


def _size_of_request(request: StoredRequest) -> int:
    return len(request.payload) + 128


def _failures(
    requests: Sequence[StoredRequest], failure: StoreError, unknown: bool
) -> list[bool | BaseException]:
    if unknown:
        return [EnqueueUncertain([request.job_id], str(failure)) for request in requests]
    return [StoreUnavailable(str(failure), sent=False) for _ in requests]


def _raise_first(answers: Sequence[bool | BaseException]) -> None:
    """Raise for a bulk enqueue what its caller must know most: uncertain jobs before refused ones."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    uncertain = [error for error in errors if isinstance(error, EnqueueUncertain)]
    if uncertain:
        raise EnqueueUncertain([error.job_id for error in uncertain], uncertain[0].reason)
    if errors:
        raise errors[0]


def _check(request: JobRequest) -> None:
    """Refuse what no worker could run. Raises InvalidArgument before any I/O."""
    for name, value in (("delay", request.delay), ("at", request.at), ("expires", request.expires)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
            raise InvalidArgument(name, "must be seconds: a finite number, at least 0")
    if request.delay is not None and request.at is not None:
        raise InvalidArgument("at", "give either delay or at")
    if request.expires is not None and request.expires <= 0:
        raise InvalidArgument("expires", "must be positive")
    if isinstance(request.priority, bool) or not isinstance(request.priority, int):
        raise InvalidArgument("priority", "must be a whole number from 0 to 100")
    if not 0 <= request.priority <= 100:
        raise InvalidArgument("priority", "must be a whole number from 0 to 100")
    _check_name("queue", request.queue)
    _check_name("job_id", request.job_id)
    _check_name("task", request.task)


def _check_name(argument: str, value: str | None) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value:
        raise InvalidArgument(argument, "must be a non-empty string")
    if not value.isprintable():
        raise InvalidArgument(argument, "must not hold control characters")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidArgument(argument, "must be valid Unicode") from None
    if size > MAX_ID_BYTES:
        raise InvalidArgument(argument, f"must have at most {MAX_ID_BYTES} bytes")


def _value_of(info: ResultInfo, job_id: str, returns: Any) -> Any:
    if info.success:
        return info.value if returns is Any else _restored(info.value, returns)
    record = info.value if isinstance(info.value, ErrorRecord) else ErrorRecord("unknown", str(info.value))
    if record.type == f"{JobAborted.__module__}.{JobAborted.__qualname__}":
        raise JobAborted(job_id)
    raise JobFailed(job_id, record.type, record.message, record.traceback)


def _restored(value: Any, returns: Any) -> Any:
    try:
        return msgspec.convert(value, returns)
    except msgspec.ValidationError:
        raise DecodeError("the stored result does not fit the task's return annotation") from None
    except TypeError:
        # An annotation that msgspec does not know, or None: the value is what JSON says it is.
        return value
