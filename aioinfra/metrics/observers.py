"""What cache, jobs and web tell, turned into metrics. They satisfy the observers' protocols without importing them.

Every method runs on somebody's hot path: slots are bound once per combination of labels and kept in a dict.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from aioinfra.metrics.cache_totals import CacheTotals
from aioinfra.metrics.exemplars import TraceId, request_trace_id
from aioinfra.metrics.family import OVERFLOW
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.metrics.slots import CounterSlot, HistogramSlot

UNKNOWN_TASK: Final = "__unknown__"
_MAX_BOUND: Final = 10_000
"""Combinations of labels kept bound; beyond, they are looked up each time."""
_MAX_ENQUEUED_TASKS: Final = 200


class CacheMetrics(CacheTotals):
    """The cache group. Beside what it is told, it reads the totals of open caches at a scrape."""

    def __init__(self, registry: MetricsRegistry) -> None:
        super().__init__(registry)
        self._operations = registry.counter("aioinfra_cache_operations_total")
        self._seconds = registry.histogram("aioinfra_cache_operation_seconds")
        self._keys = registry.counter("aioinfra_cache_keys_total")
        self._by_operation: dict[tuple[str, str], tuple[CounterSlot, HistogramSlot]] = {}
        self._by_read: dict[str, tuple[CounterSlot, CounterSlot]] = {}

    def operation(self, operation: str, outcome: str, seconds: float) -> None:
        bound = self._by_operation.get((operation, outcome))
        if bound is None:
            bound = self._operations.labels(operation, outcome), self._seconds.labels(operation)
            if len(self._by_operation) < _MAX_BOUND:
                self._by_operation[operation, outcome] = bound
        counter, histogram = bound
        counter.inc()
        if outcome != "fallback":  # counted beside the call's own outcome, without a duration
            histogram.observe(seconds)

    def keys(self, operation: str, hits: int, misses: int) -> None:
        bound = self._by_read.get(operation)
        if bound is None:
            bound = self._keys.labels(operation, "hit"), self._keys.labels(operation, "miss")
            if len(self._by_read) < _MAX_BOUND:
                self._by_read[operation] = bound
        bound[0].add(hits)
        bound[1].add(misses)


class JobMetrics:
    """The jobs group.

    Names of tasks come out of payloads, and whoever may enqueue may write any. Runs are counted under a task's own
    name once a worker here has started one or ``known_tasks`` holds it, else under ``__unknown__``; jobs stored
    here under the first 200 names, then under ``__other__``.

    Args:
        registry: where the metrics are.
        known_tasks: further names that stand for themselves; looked into whenever a new one is met.
        trace_id: of the run that ends, for exemplars.
    """

    def __init__(
        self,
        registry: MetricsRegistry,
        known_tasks: Container[str] = (),
        *,
        trace_id: TraceId = request_trace_id,
    ) -> None:
        self._trace_id = trace_id
        self._known_tasks = known_tasks
        self._started_tasks: set[str] = set()
        self._enqueued_tasks: set[str] = set()
        self._enqueued = registry.counter("aioinfra_jobs_enqueued_total")
        self._claimed = registry.counter("aioinfra_jobs_claimed_total")
        self._started = registry.counter("aioinfra_jobs_started_total")
        self._waited = registry.histogram("aioinfra_jobs_wait_seconds")
        self._finished = registry.counter("aioinfra_jobs_finished_total")
        self._ran = registry.histogram("aioinfra_jobs_run_seconds")
        self._recorded = registry.counter("aioinfra_jobs_recorded_total").labels()
        self._record_seconds = registry.histogram("aioinfra_jobs_record_seconds").labels()
        self._errors = registry.counter("aioinfra_jobs_store_errors_total")
        self._depth = registry.gauge("aioinfra_jobs_queue_depth")
        self._running = registry.gauge("aioinfra_jobs_running").labels()
        self._slots = registry.gauge("aioinfra_jobs_slots").labels()
        self._starts: dict[tuple[str, str], tuple[CounterSlot, HistogramSlot]] = {}
        self._ends: dict[tuple[str, str, str], tuple[CounterSlot, HistogramSlot]] = {}

    def know(self, task: str) -> None:
        """Let a task stand under its own name; who calls answers for there being few."""
        self._started_tasks.add(task)

    def enqueued(self, queue: str, task: str) -> None:
        if task not in self._enqueued_tasks and task not in self._known_tasks:
            if len(self._enqueued_tasks) < _MAX_ENQUEUED_TASKS:
                self._enqueued_tasks.add(task)
            else:
                task = OVERFLOW
        self._enqueued.labels(queue, task).inc()

    def claimed(self, queue: str, count: int) -> None:
        self._claimed.labels(queue).add(count)

    def started(self, queue: str, task: str, waited: float) -> None:
        bound = self._starts.get((queue, task))
        if bound is None:
            self._started_tasks.add(task)  # a worker starts only the tasks that it has
            bound = self._started.labels(queue, task), self._waited.labels(queue)
            if len(self._starts) < _MAX_BOUND:
                self._starts[queue, task] = bound
        bound[0].inc()
        bound[1].observe(waited)

    def finished(self, queue: str, task: str, outcome: str, seconds: float) -> None:
        bound = self._ends.get((queue, task, outcome))
        if bound is None:
            known = task in self._started_tasks or task in self._known_tasks
            label = task if known else UNKNOWN_TASK
            bound = self._finished.labels(queue, label, outcome), self._ran.labels(queue, label)
            if known and len(self._ends) < _MAX_BOUND:
                self._ends[queue, task, outcome] = bound
        bound[0].inc()
        bound[1].observe(seconds, self._trace_id())

    def recorded(self, count: int, seconds: float) -> None:
        self._recorded.add(count)
        self._record_seconds.observe(seconds)

    def store_error(self, step: str) -> None:
        self._errors.labels(step).inc()

    def depth(self, queue: str, waiting: int) -> None:
        self._depth.labels(queue).set(waiting)

    def slots(self, running: int, limit: int) -> None:
        self._running.set(running)
        self._slots.set(limit)


class HttpMetrics:
    """The http group.

    Args:
        registry: where the metrics are.
        trace_id: of the request that ends, for exemplars.
    """

    def __init__(self, registry: MetricsRegistry, *, trace_id: TraceId = request_trace_id) -> None:
        self._trace_id = trace_id
        self._requests = registry.counter("aioinfra_http_requests_total")
        self._seconds = registry.histogram("aioinfra_http_request_seconds")
        self._in_flight = registry.gauge("aioinfra_http_requests_in_flight").labels()
        self._bound: dict[tuple[str, str, int], tuple[CounterSlot, HistogramSlot]] = {}

    def request_started(self) -> None:
        self._in_flight.inc()

    def request_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        self._in_flight.dec()
        bound = self._bound.get((method, route, status))
        if bound is None:
            bound = self._requests.labels(method, route, status), self._seconds.labels(method, route)
            if len(self._bound) < _MAX_BOUND:
                self._bound[method, route, status] = bound
        bound[0].inc()
        bound[1].observe(seconds, self._trace_id())
