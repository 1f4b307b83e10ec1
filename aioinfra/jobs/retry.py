"""When a failed task runs again: a policy judges an error, and says what becomes of the job."""

from __future__ import annotations

from dataclasses import dataclass, field

from aioinfra.backoff import Backoff
from aioinfra.codec.bounds import check_number
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.job import Failed, Outcome, Retried

LONGEST_RETRY = 366 * 86_400.0
"""Seconds. Far below what the store can hold: whoever asks for more has confused units."""


class Retry(Exception):
    """Raise it inside a task to run the job again.

    Args:
        delay: seconds to wait, up to a year, or None for what the task's backoff says.

    Raises:
        InvalidArgument: not a number of seconds in these bounds.
    """

    def __init__(self, delay: float | None = None) -> None:
        if delay is not None:
            _checked(delay)
        super().__init__(delay)
        self.delay = delay


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which errors are worth another try, how many tries there are, and how late the next one is.

    Attributes:
        backoff: number of tries and their spacing.
        retry_on: errors that are retried.
        dont_retry_on: errors that are not, even if ``retry_on`` covers them.

    A raised `Retry` is always granted while there are tries left. When there are none, the error that it was
    raised for (``raise Retry() from error``, or inside its ``except``) is what is kept.
    """

    backoff: Backoff = field(default_factory=Backoff)
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    dont_retry_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        for name in ("retry_on", "dont_retry_on"):
            kinds = getattr(self, name)
            if not isinstance(kinds, tuple) or not all(_is_error(kind) for kind in kinds):
                raise InvalidArgument(name, "must be a tuple of exception classes")
        if not isinstance(self.backoff, Backoff):
            raise InvalidArgument("retry", "must be a Backoff")

    def judge(self, error: BaseException, attempt: int) -> Outcome:
        """What becomes of a job whose attempt (from 1) ended with ``error``. Pure but for the jitter.

        Raises:
            InvalidArgument: the delay of a `Retry` was set to what its constructor refuses.
        """
        if attempt >= self.backoff.tries:
            cause = (error.__cause__ or error.__context__) if isinstance(error, Retry) else None
            retried = isinstance(error, Retry) or self._retries(error)
            return Failed(cause or error, reason="exhausted" if retried else "failed")
        if isinstance(error, Retry):
            return Retried(self.backoff.delay(attempt) if error.delay is None else _checked(error.delay))
        if not self._retries(error):
            return Failed(error)
        return Retried(self.backoff.delay(attempt), error)

    def _retries(self, error: BaseException) -> bool:
        return isinstance(error, self.retry_on) and not isinstance(error, self.dont_retry_on)


def _checked(delay: float) -> float:
    check_number("delay", delay, 0, LONGEST_RETRY)
    return delay


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)
