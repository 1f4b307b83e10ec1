"""What a producer holds after an enqueue: ask the job for its result, status, progress, or to be aborted."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from aioinfra.jobs.job import JobStatus, Progress
from aioinfra.jobs.payload import ResultInfo

R_co = TypeVar("R_co", covariant=True)


class JobReader(Protocol):
    """What a handle needs of the client that made it."""

    async def result(self, queue: str, job_id: str, returns: Any, timeout: float | None) -> Any: ...

    async def result_info(self, job_id: str) -> ResultInfo | None: ...

    async def status(self, queue: str, job_id: str) -> JobStatus: ...

    async def progress(self, job_id: str) -> Progress | None: ...

    async def abort(self, queue: str, job_id: str) -> bool: ...


class JobHandle(Generic[R_co]):
    """A job by its id.

    Attributes:
        id: the job's id.
        queue: where it was enqueued.
        created: False when a job with the chosen id existed already; this is then the handle of that one.
    """

    __slots__ = ("_reader", "_returns", "created", "id", "queue")

    def __init__(
        self, reader: JobReader, queue: str, job_id: str, *, created: bool = True, returns: Any = Any
    ) -> None:
        self._reader = reader
        self._returns = returns
        self.id = job_id
        self.queue = queue
        self.created = created

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} on {self.queue}>"

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait for the job and return what its task returned, restored by the task's return annotation.

        Args:
            timeout: seconds to wait, across outages of the server; 0 takes a look. None waits as long as the
                job is known and the server answers.

        Raises:
            JobFailed: the task ended with an error; carries its type, text and frames.
            JobAborted: the job was aborted.
            JobNotFound: no such job, or its result is not kept or has expired.
            TimeoutError: it did not end in time. The job goes on.
            StoreUnavailable: the server did not answer.
        """
        value: R_co = await self._reader.result(self.queue, self.id, self._returns, timeout)
        return value

    get = result

    async def info(self) -> ResultInfo | None:
        """The ended job's particulars, or None while it has not ended. One round trip."""
        return await self._reader.result_info(self.id)

    async def status(self) -> JobStatus:
        """Where the job is now. One round trip."""
        return await self._reader.status(self.queue, self.id)

    async def progress(self) -> Progress | None:
        """What the job last said of its progress, or None. One round trip."""
        return await self._reader.progress(self.id)

    async def abort(self) -> bool:
        """Ask for the job to be aborted; False when it has ended. One round trip.

        One that waits ends without running, at once if a worker is free, also when it is due later. One that runs
        is cancelled by its worker within half a second; a function that runs in a thread ends as it ends. `result`
        then raises JobAborted.

        Raises:
            JobNotFound: there is no such job. Nothing is written.
            StoreUnavailable: the server did not answer.
        """
        return await self._reader.abort(self.queue, self.id)
