"""On which queue the job lies that has a chosen id already: an id is unique among all queues of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aioinfra.connection.pool import RedisClient
from aioinfra.errors import DecodeError, StoreError
from aioinfra.jobs.job import QUEUE_HEADER
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.redis_store import RESULT_PREFIX, job_id_bytes

_JOB_PREFIX = b"arq:job:"


class JobLocator:
    """Finds jobs by their ids.

    Args:
        redis: the server; owned by the caller.
        codec: reads jobs and results.
    """

    def __init__(self, redis: RedisClient, codec: JobCodec) -> None:
        self._redis = redis
        self._codec = codec

    async def queues(self, jobs: Sequence[tuple[str, str]]) -> list[str]:
        """For each (queue that was asked for, id) the queue where the job is. One round trip.

        Where that cannot be known (the job of a plain arq producer, a server that has just gone) it is the one
        that was asked for.
        """
        if not jobs:
            return []
        commands = [
            command
            for queue, job_id in jobs
            for command in (
                ("ZSCORE", queue, job_id_bytes(job_id)),
                ("GET", RESULT_PREFIX.encode() + job_id_bytes(job_id)),
                ("GET", _JOB_PREFIX + job_id_bytes(job_id)),
            )
        ]
        try:
            replies = iter(await self._redis.pipeline(commands))
        except StoreError:
            return [queue for queue, _ in jobs]
        found = zip(*[replies] * 3, strict=True)
        return [self._queue(queue, *each) for (queue, _), each in zip(jobs, found, strict=True)]

    def _queue(self, asked: str, score: Any, result: Any, payload: Any) -> str:
        try:
            if isinstance(result, bytes):
                return self._codec.decode_result(result).queue
            if isinstance(score, StoreError | None) and isinstance(payload, bytes):
                return self._codec.decode_job(payload).headers.get(QUEUE_HEADER, asked)
        except DecodeError:
            pass
        return asked
