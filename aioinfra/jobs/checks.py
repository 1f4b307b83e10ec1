"""What a producer may ask for; checked before any I/O."""

from __future__ import annotations

from typing import Any, Final

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.job import JobRequest

MAX_ID_BYTES: Final = 512


def check_request(request: JobRequest[Any]) -> None:
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
    check_priority(request.priority)
    check_name("queue", request.queue)
    check_name("job_id", request.job_id)
    check_name("task", request.task)


def check_priority(priority: object) -> None:
    """Raise InvalidArgument unless it is a whole number from 0 to 100."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 100:
        raise InvalidArgument("priority", "must be a whole number from 0 to 100")


def check_name(argument: str, value: object) -> None:
    """Raise InvalidArgument unless it is None, or printable text of 1 to 512 bytes."""
    if value is None:
        return
    if not isinstance(value, str) or not value:
        raise InvalidArgument(argument, "must be a non-empty string")
    if not value.isprintable():  # control characters and lone surrogates
        raise InvalidArgument(argument, "must be printable text")
    if len(value.encode()) > MAX_ID_BYTES:
        raise InvalidArgument(argument, f"must have at most {MAX_ID_BYTES} bytes")
