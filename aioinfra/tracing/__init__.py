"""Traces of requests, jobs and cache loaders, through the OpenTelemetry API where that is installed.

`setup` decides once a process whether spans go anywhere, `spans` makes them, `propagate` carries the correlation id
and the trace context to jobs and to other services. Importing this imports nothing of OpenTelemetry.
"""

from __future__ import annotations

from aioinfra.tracing.propagate import TracedJobs, context_headers, send_context, send_context_sync
from aioinfra.tracing.setup import TracingOptions, current_tracing, initialize, is_initialized
from aioinfra.tracing.spans import CacheSpans, Tracing

__all__ = [
    "CacheSpans",
    "TracedJobs",
    "Tracing",
    "TracingOptions",
    "context_headers",
    "current_tracing",
    "initialize",
    "is_initialized",
    "send_context",
    "send_context_sync",
]
