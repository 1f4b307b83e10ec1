"""`MetricsCollector`: the ready groups, filled by one call each."""

from __future__ import annotations

from typing import Final

from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.metrics.groups import DatabaseMetrics, ModelMetrics
from aioinfra.metrics.observers import CacheMetrics, HttpMetrics, JobMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.metrics.system import SystemMetrics
from aioinfra.metrics.tracker import ERROR, OK
from aioinfra.metrics.trackers import ModelTracker, QueryTracker, RequestTracker
from aioinfra.process_default import ProcessDefault

default_registry: Final[ProcessDefault[MetricsRegistry]] = ProcessDefault("metrics registry")
"""That of the service which is the process default."""

_LONGEST: Final = 1e9  # seconds
_MOST: Final = 1 << 53


class _Groups:
    """The groups of one registry, made when they are first asked for."""

    def __init__(self, registry: MetricsRegistry) -> None:
        self.registry = registry
        self.cache = CacheMetrics(registry)
        self.http = HttpMetrics(registry)
        self.jobs = JobMetrics(registry)
        self.database = DatabaseMetrics(registry)
        self.model = ModelMetrics(registry)


class MetricsCollector:
    """Records what happened elsewhere: in a database driver, a model server, a cache or queue of another make.

    All durations are in seconds. Label values should be few: a table, not a query; a route's template, not a path.
    Each metric keeps 1,000 combinations and counts the others under ``__other__``.

    Args:
        registry: where; by default that of the service that is the process default, and while there is none one of
            its own, so that recording never fails for want of a service.
    """

    def __init__(self, registry: MetricsRegistry | None = None) -> None:
        self._given = registry
        self._own: MetricsRegistry | None = None
        self._groups: _Groups | None = None

    @property
    def registry(self) -> MetricsRegistry:
        """Where it records now."""
        if self._given is not None:
            return self._given
        if default_registry.current is not None:
            return default_registry.current
        if self._own is None:
            self._own = MetricsRegistry()
        return self._own

    def _of(self) -> _Groups:
        registry = self.registry
        if self._groups is None or self._groups.registry is not registry:
            self._groups = _Groups(registry)
        return self._groups

    def _http(self) -> HttpMetrics:
        return self._of().http

    def _database(self) -> DatabaseMetrics:
        return self._of().database

    def _model(self) -> ModelMetrics:
        return self._of().model

    # API

    def record_request(self, endpoint: str, method: str, status: int, duration: float) -> None:
        """A request was answered.

        Args:
            endpoint: the route's template, such as ``/users/{id}``.
            method: such as GET.
            status: 100 to 599.
            duration: seconds.

        Raises:
            InvalidArgument: names what does not fit.
        """
        check_whole("status", status, 100, 599)
        check_number("duration", duration, 0, _LONGEST)
        http = self._http()
        http.request_started()
        http.request_finished(method, endpoint, status, duration)

    def track_request_duration(self, endpoint: str, method: str) -> RequestTracker:
        """Measure a request: ``with``, ``async with`` or decorator; say the status with ``set_status``."""
        return RequestTracker(self._http, endpoint, method)

    # Cache

    def record_cache_operation(
        self, operation: str, *, hit: bool | None = None, duration: float = 0.0, error: bool = False
    ) -> None:
        """A call to a cache has ended; aioinfra's own counts by itself.

        Args:
            operation: such as get or set.
            hit: whether a read found its key; None for what is no read.
            duration: seconds.
            error: whether it failed.

        Raises:
            InvalidArgument: names what does not fit.
        """
        check_number("duration", duration, 0, _LONGEST)
        cache = self._of().cache
        outcome = ERROR if error else OK if hit is None else "hit" if hit else "miss"
        cache.operation(operation, outcome, duration)
        if hit is not None and not error:
            cache.keys(operation, int(hit), int(not hit))

    # Database

    def record_db_query_duration(
        self, operation: str, table: str, duration: float, *, error: bool = False
    ) -> None:
        """A query has ended.

        Args:
            operation: such as SELECT.
            table: the one it is about.
            duration: seconds.
            error: whether it failed.

        Raises:
            InvalidArgument: names what does not fit.
        """
        check_number("duration", duration, 0, _LONGEST)
        self._database().query(operation, table, ERROR if error else OK, duration)

    def track_db_query(self, operation: str, table: str) -> QueryTracker:
        """Measure a query: ``with``, ``async with`` or decorator."""
        return QueryTracker(self._database, operation, table)

    def set_db_connections(self, active: int, idle: int = 0) -> None:
        """The connection pool as it is now.

        Raises:
            InvalidArgument: not a whole number, or negative.
        """
        check_whole("active", active, 0, _MOST)
        check_whole("idle", idle, 0, _MOST)
        self._database().connections(active, idle)

    # Model server

    def record_model_request(
        self, model: str, duration: float, operation: str = "predict", *, error: bool = False
    ) -> None:
        """A model has answered; for tokens and streams see `track_model_request`.

        Args:
            model: its name.
            duration: seconds.
            operation: such as predict, embed, chat.
            error: whether it failed.

        Raises:
            InvalidArgument: names what does not fit.
        """
        check_number("duration", duration, 0, _LONGEST)
        self._model().finished(model, operation, ERROR if error else OK, duration)

    def track_model_request(self, model: str, operation: str = "predict") -> ModelTracker:
        """Measure a request to a model: ``with``, ``async with`` or decorator.

        A decorated async generator also tells the time to its first item.
        """
        return ModelTracker(self._model, model, operation)

    # Background jobs

    def record_job(
        self, task: str, duration: float, *, queue: str = "default", outcome: str = "succeeded"
    ) -> None:
        """A background job has ended; aioinfra's own count by themselves.

        Args:
            task: its name.
            duration: seconds that it ran.
            queue: where it came from.
            outcome: succeeded, failed, retried, dead, aborted or released.

        Raises:
            InvalidArgument: names what does not fit.
        """
        check_number("duration", duration, 0, _LONGEST)
        jobs = self._of().jobs
        jobs.know(task)
        jobs.finished(queue, task, outcome, duration)

    # System

    def watch_system(self) -> SystemMetrics:
        """Have every scrape read CPU, memory, disk and network I/O, until the answer is closed."""
        return SystemMetrics(self.registry)
