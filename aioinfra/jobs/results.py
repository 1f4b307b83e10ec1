"""What became of a job: its result, its status, its progress."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from aioinfra.codec.bounds import check_number
from aioinfra.errors import (
    DecodeError,
    JobAborted,
    JobFailed,
    JobNotFound,
    StoreUnavailable,
)
from aioinfra.jobs.arguments import restore
from aioinfra.jobs.job import ErrorRecord, JobStatus, Progress
from aioinfra.jobs.payload import JobCodec, ResultInfo
from aioinfra.jobs.records import ABORTED
from aioinfra.jobs.replies import ReplyListener
from aioinfra.jobs.store import AbortAnswer, JobStore

_LONGEST_WAIT = 1e9
"""Seconds."""


class ResultReader:
    """`JobReader` over a store. Owned by the client.

    Args:
        store: where the results are.
        codec: reads them.
        replies: says when to look.
    """

    def __init__(self, store: JobStore, codec: JobCodec, replies: ReplyListener) -> None:
        self._store = store
        self._codec = codec
        self._replies = replies

    async def result(self, queue: str, job_id: str, returns: Any, timeout: float | None) -> Any:
        """Wait for a job; see `JobHandle.result`."""
        if timeout is not None:
            check_number("timeout", timeout, 0, _LONGEST_WAIT)
        if timeout == 0:
            data = await self._look(queue, job_id)
            if data is None:
                raise TimeoutError(f"job {job_id} on queue {queue!r} has not ended")
        else:
            try:
                async with asyncio.timeout(timeout):
                    data = await self._wait(queue, job_id, patient=timeout is not None)
            except StoreUnavailable:
                raise  # some of these are TimeoutErrors as well
            except TimeoutError:
                raise TimeoutError(
                    f"job {job_id} on queue {queue!r} has not ended within {timeout} s; does a worker serve it?"
                ) from None
        return value_of(self._codec.decode_result(data), job_id, returns)

    async def _wait(self, queue: str, job_id: str, *, patient: bool) -> bytes:
        self._replies.start()
        with self._replies.watch(job_id) as watch:
            while True:
                try:
                    data = await self._look(queue, job_id)
                except StoreUnavailable:
                    if not patient:
                        raise
                    data = None
                if data is not None:
                    return data
                await watch.wait()
                if watch.result is not None:
                    return watch.result

    async def _look(self, queue: str, job_id: str) -> bytes | None:
        status, data = await self._store.status(queue, job_id)
        if status is JobStatus.NOT_FOUND:
            # It may have ended between the two reads of that one round trip.
            data = await self._store.result(job_id)
            if data is None:
                raise JobNotFound(job_id)
        return data

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
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise DecodeError("the progress of the job cannot be read") from None

    async def abort(self, queue: str, job_id: str) -> bool:
        """Ask for a job to be aborted; False when it has ended. Raises JobNotFound. One round trip."""
        answer = await self._store.abort(job_id, queue)
        if answer is AbortAnswer.UNKNOWN:
            raise JobNotFound(job_id)
        return answer is not AbortAnswer.ENDED


def value_of(info: ResultInfo, job_id: str, returns: Any) -> Any:
    """What a result says, as the type ``returns``; a failure is raised."""
    if info.success:
        return restore(info.value, "result", returns)
    record = info.value if isinstance(info.value, ErrorRecord) else ErrorRecord("unknown", str(info.value))
    if record.type == ABORTED:
        raise JobAborted(job_id)
    raise JobFailed(job_id, record.type, record.message, record.traceback)
