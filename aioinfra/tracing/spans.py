"""The spans that aioinfra makes: one a request, a job and a cache loader, and of cache operations a sample.

No span holds what a user gave: no arguments, keys, queries or texts of errors, only the type of an error.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from aioinfra import context

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

TRACESTATE: Final = "tracestate"

_LONGEST_STATE: Final = 512  # what Trace Context asks everyone to carry; a longer one is dropped whole
_LONGEST_TEXT: Final = 256
_FLUSH_TIMEOUT: Final = 5.0
_CLIENT_ERROR_ENDS: Final = 500


class Tracing:
    """Tracing as it is set up in this process. Made by `initialize`.

    Args:
        provider: an OpenTelemetry TracerProvider.
        cache_sampling: fraction of the cache's operations that get a span.
    """

    def __init__(self, provider: Any, cache_sampling: float) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("aioinfra")
        self.cache_sampling = cache_sampling
        self.pid = os.getpid()

    async def aflush(self) -> None:
        """Hand the spans so far to the exporter, beside the event loop; at most 5 seconds."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            await asyncio.to_thread(flush, int(_FLUSH_TIMEOUT * 1000))

    # What crosses to others

    def in_span(self) -> bool:
        """Whether this runs inside of a span, whoever made it."""
        return self._trace.get_current_span().get_span_context().is_valid

    def carrier(self) -> dict[str, str]:
        """``traceparent`` and ``tracestate`` of the span in force, else of the context; empty without either."""
        here = self._trace.get_current_span().get_span_context()
        if not here.is_valid:
            given = context.traceparent()
            return {} if given is None else {context.TRACEPARENT: given}
        carried = {
            context.TRACEPARENT: f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags & 0xFF:02x}"
        }
        state = here.trace_state.to_header() if here.trace_state else ""
        if state and len(state) <= _LONGEST_STATE:
            carried[TRACESTATE] = state
        return carried

    def note(self) -> None:
        """Let the context of this unit of work name the span in force: for its log lines and processes."""
        parent = self.carrier().get(context.TRACEPARENT)
        if parent is not None:
            context.set_request_context(traceparent=parent)

    def _remote(self, headers: Mapping[str, str]) -> Context:
        """What to make a span in: the sender's trace if its headers are sound, else a trace of its own."""
        from opentelemetry.context import Context

        trace = self._trace
        parent = context.parse_traceparent(headers.get(context.TRACEPARENT))
        if parent is None:
            return Context()
        _, trace_id, span_id, flags = parent.split("-")
        span = trace.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(flags, 16)),
            trace_state=trace.TraceState.from_header([_sound_state(headers.get(TRACESTATE))]),
        )
        made: Context = trace.set_span_in_context(trace.NonRecordingSpan(span), Context())
        return made

    # Spans

    @contextmanager
    def server_span(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Around a request; name it with `end_server_span`. What is raised is noted and goes on."""
        attributes = {"http.request.method": method, **_id()}
        kind = self._trace.SpanKind.SERVER
        span = self._tracer.start_span(method, self._remote(headers), kind=kind, attributes=attributes)
        with self._current(span):
            self.note()
            yield span

    def end_server_span(self, span: Span, method: str, route: str, status: int) -> None:
        """Say which route answered a request, and how."""
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= _CLIENT_ERROR_ENDS:
            span.set_status(self._trace.StatusCode.ERROR)

    @contextmanager
    def job_span(self, job: TracedJob, expected: tuple[type[BaseException], ...]) -> Iterator[None]:
        """Around a job's run, in the trace of whoever enqueued it.

        Args:
            job: the job; its headers come from outside.
            expected: what it may raise without having failed.
        """
        attributes = {
            "messaging.system": "aioinfra",
            "messaging.operation.type": "process",
            "messaging.destination.name": job.queue[:_LONGEST_TEXT],
            "messaging.message.id": job.job_id[:_LONGEST_TEXT],
            "aioinfra.task": job.task[:_LONGEST_TEXT],
            "aioinfra.attempt": job.attempt,
            **_id(),
        }
        kind = self._trace.SpanKind.CONSUMER
        name = f"job {job.task[:_LONGEST_TEXT]}"
        span = self._tracer.start_span(name, self._remote(job.headers), kind=kind, attributes=attributes)
        with self._current(span, expected):
            self.note()
            yield

    def ended(self, name: str, outcome: str, seconds: float) -> None:
        """A span of something that has just ended, inside of the span in force."""
        end = time.time_ns()
        span = self._tracer.start_span(
            name, start_time=end - int(seconds * 1e9), attributes={"aioinfra.outcome": outcome, **_id()}
        )
        if outcome == "error":
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end)

    @contextmanager
    def _current(self, span: Span, expected: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        # record_exception would write the error's text and arguments, where secrets are found.
        with self._trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except expected as outcome:
                span.set_attribute("aioinfra.outcome", type(outcome).__name__)
                raise
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__[:_LONGEST_TEXT])
                span.set_status(self._trace.StatusCode.ERROR)
                raise


class TracedJob(Protocol):
    """What a job's span tells of it."""

    @property
    def job_id(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class CacheObserver(Protocol):
    """Who is told of the cache's operations."""

    def operation(self, operation: str, outcome: str, seconds: float) -> None: ...
    def keys(self, operation: str, hits: int, misses: int) -> None: ...


class CacheSpans:
    """An observer of the cache that makes spans, and tells another one.

    Every loader gets a span. It is made when the loader has ended, since that is when an observer is told: what
    the loader itself called is beside it in the trace, not below it.
    """

    __slots__ = ("_inner", "_tracing")

    def __init__(self, tracing: Tracing, inner: CacheObserver) -> None:
        self._tracing = tracing
        self._inner = inner

    def operation(self, operation: str, outcome: str, seconds: float) -> None:
        self._inner.operation(operation, outcome, seconds)
        tracing = self._tracing
        if operation == "load":
            tracing.ended("cache load", outcome, seconds)
        elif (
            random.random() < tracing.cache_sampling  # noqa: S311 - a sample, not a secret
            and tracing.in_span()
        ):
            tracing.ended(f"cache {operation}", outcome, seconds)

    def keys(self, operation: str, hits: int, misses: int) -> None:
        self._inner.keys(operation, hits, misses)


def _id() -> dict[str, str]:
    request_id = context.request_id()
    return {} if request_id is None else {"aioinfra.request_id": request_id}


def _sound_state(text: str | None) -> str:
    usable = text is not None and len(text) <= _LONGEST_STATE and text.isascii() and text.isprintable()
    return text if usable and text is not None else ""
