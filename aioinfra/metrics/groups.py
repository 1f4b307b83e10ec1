"""The groups that no part of aioinfra fills by itself: database and model server. See `MetricsCollector`."""

from __future__ import annotations

from aioinfra.metrics.exemplars import TraceId, request_trace_id
from aioinfra.metrics.registry import MetricsRegistry


class DatabaseMetrics:
    """The database group."""

    def __init__(self, registry: MetricsRegistry, *, trace_id: TraceId = request_trace_id) -> None:
        self._trace_id = trace_id
        self._queries = registry.counter("aioinfra_database_queries_total")
        self._seconds = registry.histogram("aioinfra_database_query_seconds")
        self._connections = registry.gauge("aioinfra_database_connections")

    def query(self, operation: str, table: str, outcome: str, seconds: float) -> None:
        """A query has ended: ok, error or cancelled."""
        self._queries.labels(operation, table, outcome).inc()
        self._seconds.labels(operation, table).observe(seconds, self._trace_id())

    def connections(self, active: int, idle: int) -> None:
        """The pool as it is now."""
        self._connections.labels("active").set(active)
        self._connections.labels("idle").set(idle)


class ModelMetrics:
    """The model server group."""

    def __init__(self, registry: MetricsRegistry, *, trace_id: TraceId = request_trace_id) -> None:
        self._trace_id = trace_id
        self._requests = registry.counter("aioinfra_model_requests_total")
        self._seconds = registry.histogram("aioinfra_model_request_seconds")
        self._first = registry.histogram("aioinfra_model_first_item_seconds")
        self._in_flight = registry.gauge("aioinfra_model_requests_in_flight")
        self._tokens = registry.counter("aioinfra_model_tokens_total")

    def started(self, model: str) -> None:
        """A request is being worked on."""
        self._in_flight.labels(model).inc()

    def left(self, model: str) -> None:
        """It is no longer."""
        self._in_flight.labels(model).dec()

    def first_item(self, model: str, operation: str, seconds: float) -> None:
        """A streamed answer has begun."""
        self._first.labels(model, operation).observe(seconds, self._trace_id())

    def finished(self, model: str, operation: str, outcome: str, seconds: float) -> None:
        """A request has ended: ok, error or cancelled."""
        self._requests.labels(model, operation, outcome).inc()
        self._seconds.labels(model, operation).observe(seconds, self._trace_id())

    def tokens(self, model: str, read: int, written: int) -> None:
        """Tokens of a request and its answer."""
        self._tokens.labels(model, "input").add(read)
        self._tokens.labels(model, "output").add(written)
