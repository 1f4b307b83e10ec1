"""The producer's side: enqueue jobs, and read what became of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.checks import check_name, check_request, check_requests, check_stored_id
from aioinfra.jobs.dead import DeadLetter, read_dead_letters
from aioinfra.jobs.enqueue import DEFAULT_OPTIONS, ClientOptions, Enqueuer
from aioinfra.jobs.handle import JobHandle
from aioinfra.jobs.job import JobRequest, QueueDepth, StoredRequest
from aioinfra.jobs.locate import JobLocator
from aioinfra.jobs.middleware import around_enqueue, enqueue_many, layers_with
from aioinfra.jobs.observer import JobObserver, guarded
from aioinfra.jobs.payload import JobCodec, JsonCodec
from aioinfra.jobs.redis_store import RedisJobStore, script_time
from aioinfra.jobs.replies import ReplyListener
from aioinfra.jobs.results import ResultReader
from aioinfra.jobs.store import JobStore
from aioinfra.process_default import ProcessDefault

__all__ = ["ClientOptions", "JobClient", "default_client"]

R = TypeVar("R")


class JobClient:
    """Enqueues jobs and reads their results. One per event loop.

    Args:
        redis: the jobs server; owned by the caller.
        codec: how jobs are written; the workers of a queue must read it.
        options: see `ClientOptions`.
        observer: told of every stored job and store error.
        clock: from whose time delays count: the server's, but in tests.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        codec: JobCodec | None = None,
        options: ClientOptions = DEFAULT_OPTIONS,
        observer: JobObserver | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._layers = layers_with("enqueue", options.middleware)
        self._around_store = around_enqueue(self._layers, self._store_one)
        codec = codec or JsonCodec()
        self._options = options
        self._redis = redis
        self._store: JobStore = RedisJobStore(redis, now_ms=script_time(clock))
        self._locator = JobLocator(redis, codec)
        self._replies = ReplyListener(redis, os.urandom(8).hex() if options.replies else None)
        self._reader = ResultReader(self._store, codec, self._replies)
        self._enqueuer = Enqueuer(
            self._store, codec, options, observer=guarded(observer), channel=self._replies.channel
        )

    async def enqueue(self, request: JobRequest[R]) -> JobHandle[R]:
        """Store one job. One round trip, shared with whatever else is enqueued meanwhile.

        Raises:
            InvalidArgument, EncodeError: before any I/O; name the argument.
            EnqueueUncertain: it is not known whether the job was stored.
            StoreUnavailable, StoreFull, StoreDenied, WrongType: it was not stored.
            Overloaded: too many enqueues wait already; it was not stored.
            Exception: whatever a middleware raises.
        """
        if self._layers:
            check_request(request)
            return await self._around_store(request)
        return await self._store_one(request)

    async def _store_one(self, request: JobRequest[R]) -> JobHandle[R]:
        stored, created = await self._enqueuer.one(request)
        queue = stored.queue
        if not created:  # the id is taken, maybe on another queue
            [queue] = await self._locator.queues([(queue, stored.job_id)])
        return JobHandle(self._reader, queue, stored.job_id, created=created, returns=request.returns)

    async def enqueue_many(self, requests: Sequence[JobRequest[R]]) -> list[JobHandle[R]]:
        """Store many jobs, 500 a round trip.

        Raises:
            EnqueueUncertain: names jobs whose fate is unknown; others may be stored.
            Overloaded: there was no room behind other enqueues for ``timeout`` seconds.
            Else as `enqueue`. What is wrong with a request is found before any is stored; after an error of the
            server some may be, and the error says how many.
        """
        if self._layers:
            check_requests(requests)
            return await enqueue_many(self._layers, requests, self._store_many)
        return await self._store_many(requests)

    async def _store_many(self, requests: Sequence[JobRequest[R]]) -> list[JobHandle[R]]:
        handles = await self._enqueuer.many(requests, self._handle)
        taken = [handle for handle in handles if not handle.created]
        found = await self._locator.queues([(handle.queue, handle.id) for handle in taken])
        for handle, queue in zip(taken, found, strict=True):
            handle.queue = queue
        return handles

    def _handle(self, request: JobRequest[R], stored: StoredRequest, created: bool) -> JobHandle[R]:
        return JobHandle(self._reader, stored.queue, stored.job_id, created=created, returns=request.returns)

    def handle(self, job_id: str, queue: str | None = None, *, returns: Any = Any) -> JobHandle[Any]:
        """The handle of a job that was enqueued elsewhere. No I/O.

        Args:
            job_id: its id; also one that this client would refuse to give.
            queue: where it is, or None for the client's default queue.
            returns: the type to restore its result as.

        Raises:
            InvalidArgument: an id or a queue that is no text.
        """
        check_stored_id(job_id)
        check_name("queue", queue)
        return JobHandle(self._reader, queue or self._options.default_queue, job_id, returns=returns)

    def queue_of(self, task: str) -> str:
        """The queue of a task's jobs when neither the task nor the enqueue names one: by route, or the default."""
        return self._options.queue_of(task)

    async def depths(self, queues: Sequence[str]) -> dict[str, QueueDepth]:
        """How full queues are; those whose key is of another type are left out. One round trip."""
        given: object = queues
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise InvalidArgument("queues", "must be a list of names")
        for queue in queues:
            _check_queue(queue)
        return await self._store.depths(queues)

    async def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters of a queue, newest first. Two round trips.

        What is stored under a dead letter's key and cannot be read is one with the reason ``unreadable``.

        Raises:
            InvalidArgument: ``queue`` or ``limit`` is none.
            WrongType: the list of dead letters is something else.
        """
        _check_queue(queue)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument("limit", "must be a whole number of at least 1")
        return await read_dead_letters(self._redis, queue, limit)

    async def aclose(self) -> None:
        """Wait for the enqueues under way, then close. The server's client stays open."""
        try:
            await self._enqueuer.aclose()
        finally:
            await self._replies.aclose()


def _check_queue(queue: object) -> None:
    if queue is None:
        raise InvalidArgument("queue", "must be a name")
    check_name("queue", queue)


default_client: ProcessDefault[JobClient] = ProcessDefault("job client")
"""What `task.delay` enqueues with when its task belongs to no service."""
