"""What a producer may ask for; checked before any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.job import NO_HEADERS, JobRequest

MAX_ID_BYTES: Final = 512


def check_request(request: JobRequest[Any]) -> None:
    """Refuse what no worker could run. Raises InvalidArgument before any I/O."""
    if not isinstance(request, JobRequest):
        raise InvalidArgument("request", "must be a JobRequest: task.job(...) makes one")
    if request.task is None:
        raise InvalidArgument("task", "must be a task's name")
    check_name("task", request.task)
    if type(request.args) is not tuple:
        raise InvalidArgument("args", "must be a tuple")
    _check_text_keys("kwargs", request.kwargs)
    if request.headers is not NO_HEADERS:
        _check_text_keys("headers", request.headers)
        if not all(isinstance(text, str) for text in request.headers.values()):
            raise InvalidArgument("headers", "must have text as values")
    _check_times(request)
    check_priority(request.priority)
    check_name("queue", request.queue)
    check_name("job_id", request.job_id)


def check_requests(requests: Sequence[JobRequest[Any]]) -> None:
    """Refuse what is no list of requests that a worker could run. Raises InvalidArgument before any I/O."""
    check_is_list(requests)
    for request in requests:
        check_request(request)


def check_is_list(requests: object) -> None:
    """Raise InvalidArgument unless it is a list, or another sequence but text."""
    if isinstance(requests, str | bytes) or not isinstance(requests, Sequence):
        raise InvalidArgument("requests", "must be a list of JobRequests")


def _check_text_keys(argument: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise InvalidArgument(argument, "must be a mapping")
    if value and not all(isinstance(name, str) for name in value):
        raise InvalidArgument(argument, "must have text as keys")


def _check_times(request: JobRequest[Any]) -> None:
    for name, value in (("delay", request.delay), ("at", request.at), ("expires", request.expires)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
            raise InvalidArgument(name, "must be seconds: a finite number, at least 0")
    if request.delay is not None and request.at is not None:
        raise InvalidArgument("at", "give either delay or at")
    if request.expires is not None and request.expires <= 0:
        raise InvalidArgument("expires", "must be positive")


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


def check_stored_id(value: object) -> None:
    """Raise InvalidArgument unless it may be the id of a stored job, also of one that this client would refuse."""
    if not isinstance(value, str) or not value:
        raise InvalidArgument("job_id", "must be a non-empty string")
    try:
        value.encode("utf-8", "surrogateescape")  # ids that are not UTF-8 are shown so
    except UnicodeEncodeError:
        raise InvalidArgument("job_id", "must be text that can be encoded") from None
