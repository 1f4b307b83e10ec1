"""Carrying the correlation id and the trace context on: to jobs, and to other services over HTTP.

Both are checked where they come in, and again where they go out: what is no sound id is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from fnmatch import translate
from typing import Any, Final, TypeVar

from aioinfra import context
from aioinfra.errors import InvalidArgument
from aioinfra.tracing.setup import current_tracing
from aioinfra.tracing.spans import TracedJob, Tracing

REQUEST_ID_HEADER: Final = "x-request-id"

Request = TypeVar("Request", bound=Any)
Handle = TypeVar("Handle")


def context_headers() -> dict[str, str]:
    """``x-request-id``, ``traceparent`` and ``tracestate`` of the unit of work that this is in, if it has them.

    For any HTTP client; see `send_context` for httpx. An id that is not sound is left out.
    """
    tracing = current_tracing()
    given = context.traceparent()
    trace = (
        tracing.carrier() if tracing is not None else {} if given is None else {context.TRACEPARENT: given}
    )
    request_id = context.request_id()
    return (
        {REQUEST_ID_HEADER: request_id, **trace} if context.is_valid_id(request_id) and request_id else trace
    )


def send_context(*hosts: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """An httpx event hook that adds `context_headers` to requests::

        httpx.AsyncClient(event_hooks={"request": [send_context("*.internal")]})

    A header that the caller has set is left alone. A redirect is a request of its own, to a host of its own.

    Args:
        hosts: names of hosts, or patterns such as ``*.internal``; none: all that the client calls.

    Raises:
        InvalidArgument: a host is not the name of one.
    """
    add = send_context_sync(*hosts)

    async def add_context(request: Any) -> None:
        add(request)

    return add_context


def send_context_sync(*hosts: str) -> Callable[[Any], None]:
    """`send_context` for ``httpx.Client``."""
    is_meant = _matcher(hosts)

    def add_context(request: Any) -> None:
        if is_meant(request.url.host):
            for name, value in context_headers().items():
                request.headers.setdefault(name, value)

    return add_context


def _matcher(hosts: Iterable[object]) -> Callable[[str], bool]:
    patterns = []
    for host in hosts:
        if not isinstance(host, str) or not re.fullmatch(r"[\w.*?:-]+", host):
            raise InvalidArgument(
                "hosts", "must be names of hosts alone, such as 'api.internal' or '*.internal'"
            )
        patterns.append(translate(host.lower()))
    if not patterns:
        return lambda _: True
    compiled = re.compile("|".join(patterns))
    return lambda host: compiled.match(host.lower()) is not None


class TracedJobs:
    """A job middleware: an enqueue carries the trace of the span in force, and a run is a span in that trace.

    A retry carries what its job was enqueued with: each attempt is a span beside the others.

    Args:
        tracing: of this process.
        expected: what a task may raise without having failed.
    """

    only_stamps: Final = True
    """Its enqueue does no more than `stamp`: a bulk needs no task for each of its jobs."""

    def __init__(self, tracing: Tracing, expected: tuple[type[BaseException], ...] = ()) -> None:
        self._tracing = tracing
        self._expected = expected

    def stamp(self, request: Request) -> Request:
        """A request with the headers of the trace."""
        carried = self._tracing.carrier()
        return replace(request, headers={**carried, **request.headers}) if carried else request

    async def enqueue(self, request: Request, call_next: Callable[[Request], Awaitable[Handle]]) -> Handle:
        """Around an enqueue."""
        return await call_next(self.stamp(request))

    async def run(self, job: TracedJob, call_next: Callable[[], Awaitable[object]]) -> object:
        """Around a run."""
        with self._tracing.job_span(job, self._expected):
            return await call_next()
