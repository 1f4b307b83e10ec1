"""Every error that aioinfra raises on purpose.

    AioinfraError
    ├── InvalidArgument (ValueError)        bad input, found before any I/O; names the argument
    ├── ConfigError (ValueError)            the environment or an option object does not add up
    ├── LifecycleError (RuntimeError)       used before it was opened, after it was closed
    │   ├── NotInstalled                    a module-level convenience without a process default
    │   └── WrongEventLoop                  used from another loop than the one it was opened on
    ├── CodecError (ValueError)
    │   ├── EncodeError                     a value that the codec cannot write
    │   └── DecodeError                     stored bytes that cannot be read
    │       ├── PayloadTooLarge             a size bound was reached
    │       └── UntrustedPayload            unsigned, tampered or refused: never handed to a loader
    ├── StoreError                          what a server answered, or did not
    │   ├── StoreUnavailable (ConnectionError)   no usable server: refused, reset, loading, read-only
    │   │   ├── DeadlineExceeded (TimeoutError)  no answer within the budget
    │   │   └── PoolExhausted                    no free connection within the budget
    │   ├── StoreFull                       out of memory, and nothing may be evicted
    │   ├── StoreDenied                     authentication or permission
    │   ├── WrongType                       the key holds another type
    │   └── ReplyTooLarge                   more than the bound of one call's replies
    ├── Overloaded                          a bounded queue is full
    ├── LoadTimeout (TimeoutError)          a loader took longer than its hard timeout
    ├── CounterOverflow (OverflowError)     a counter would pass 2**53
    ├── LockLost                            the lease of a lock ended too early
    ├── LockTimeout (TimeoutError)          a lock did not become free in time
    ├── EmbeddedServerError                 the embedded server cannot be found or started
    └── JobError
        ├── EnqueueUncertain                stored or not: unknown after every safe retry
        ├── UnknownTask                     no task of that name here
        ├── JobNotFound                     neither queued, running nor finished
        ├── JobFailed                       the job ended with an error; carries its record
        └── JobAborted                      the job was aborted

Messages never contain values, payloads or credentials: those may be secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AioinfraError(Exception):
    """Base of every error raised on purpose by aioinfra."""


class InvalidArgument(AioinfraError, ValueError):
    """An argument was refused before any I/O. ``argument`` is its name as the caller wrote it."""

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(argument, reason)
        self.argument = argument
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.argument}: {self.reason}"


class ConfigError(AioinfraError, ValueError):
    """Settings that are missing, malformed or contradict each other. Names variables, never values."""


class LifecycleError(AioinfraError, RuntimeError):
    """An object was used outside its open time."""


class NotInstalled(LifecycleError):
    """A module-level convenience was used and no process default is installed."""


class WrongEventLoop(LifecycleError):
    """An object that belongs to one event loop was used from another."""


class CodecError(AioinfraError, ValueError):
    """A value or payload that cannot pass the codec."""


class EncodeError(CodecError):
    """A value that cannot be encoded. ``argument`` names where it came from."""

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(argument, reason)
        self.argument = argument
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.argument}: {self.reason}"


class DecodeError(CodecError):
    """Stored bytes that cannot be decoded."""


class PayloadTooLarge(DecodeError):
    """A payload is, or would expand to, more than its bound in bytes."""


class UntrustedPayload(DecodeError):
    """A payload whose origin is not proven. It was not loaded."""


class StoreError(AioinfraError):
    """The server answered with an error, or did not answer."""


class StoreUnavailable(StoreError, ConnectionError):
    """No usable server right now; the same call may work later.

    ``sent`` says whether the command may have reached the server: a write that raised with
    ``sent=False`` certainly had no effect.
    """

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent


class DeadlineExceeded(StoreUnavailable, TimeoutError):
    """The server did not answer within the budget. The call was left to end by itself."""


class PoolExhausted(StoreUnavailable):
    """No connection became free within the budget."""


class StoreFull(StoreError):
    """The server is out of memory and may not evict."""


class StoreDenied(StoreError):
    """The server refused the credentials or the command."""


class WrongType(StoreError):
    """The key holds a value of another type."""


class ReplyTooLarge(StoreError):
    """The replies of a call have, or announce, more than ``most`` bytes. It has run; its connection was closed."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most

    def __str__(self) -> str:
        return f"the reply has more than {self.most} bytes"


class Overloaded(AioinfraError):
    """A bounded queue in this process is full; nothing was sent."""


class LoadTimeout(AioinfraError, TimeoutError):
    """A loader took longer than its hard timeout; it was cancelled."""


class CounterOverflow(AioinfraError, OverflowError):
    """A counter would pass 2**53, and is as it was."""


class LockLost(AioinfraError):
    """The lease of a lock ended before its holder released it: others may have held it meanwhile."""


class LockTimeout(AioinfraError, TimeoutError):
    """A lock did not become free in the time that was given."""


class EmbeddedServerError(AioinfraError):
    """The embedded server cannot be found, started or reached."""


class JobError(AioinfraError):
    """Base of the errors about jobs."""


class EnqueueUncertain(JobError):
    """The job may or may not be stored. ``job_ids`` can be looked up once the server answers again."""

    def __init__(self, job_ids: Sequence[str], reason: str) -> None:
        super().__init__(tuple(job_ids), reason)
        self.job_ids = tuple(job_ids)
        self.reason = reason

    @property
    def job_id(self) -> str:
        """The first job's id: the only one, unless the jobs were enqueued in bulk."""
        return self.job_ids[0]

    def __str__(self) -> str:
        more = f" and {len(self.job_ids) - 1} more" if len(self.job_ids) > 1 else ""
        return f"job {self.job_ids[0]}{more}: {self.reason}"


class UnknownTask(JobError):
    """No task of that name is registered here."""


class _OfOneJob(JobError):
    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class JobNotFound(_OfOneJob):
    """The job is neither queued, running nor finished: it never was, or its result has expired."""

    def __str__(self) -> str:
        return f"job {self.job_id} is not known (never stored, or its result is not kept or has expired)"


class JobFailed(JobError):
    """The job ended with an error.

    Attributes:
        job_id: the job's id.
        error_type: class name of the original exception.
        error_message: its text.
        traceback: its frames, outermost first, as ``(file, line, function)``.
    """

    def __init__(
        self,
        job_id: str,
        error_type: str,
        error_message: str,
        traceback: Sequence[tuple[str, int, str]] = (),
    ) -> None:
        super().__init__(job_id, error_type, error_message)
        self.job_id = job_id
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = tuple(traceback)

    def __str__(self) -> str:
        return f"job {self.job_id} failed: {self.error_type}: {self.error_message}"


class JobAborted(_OfOneJob):
    """The job was aborted before it ended."""

    def __str__(self) -> str:
        return f"job {self.job_id} was aborted"
