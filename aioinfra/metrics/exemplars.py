"""Which trace an observation belongs to."""

from __future__ import annotations

from collections.abc import Callable

from aioinfra import context

TraceId = Callable[[], str | None]


def request_trace_id() -> str | None:
    """The correlation id in force: one that aioinfra made is a valid W3C trace id, and all log lines carry it.

    With tracing on, hand the span's trace id to the observers instead.
    """
    return context.request_id()
