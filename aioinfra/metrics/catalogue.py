"""Every metric of aioinfra: one table. Dashboards and alerts use these names and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

_CALL: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_JOB: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MODEL: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name, kind, HELP text, labels, a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def group(self) -> str:
        """cache, jobs, redis, http, database, model, system, loop or metrics: the second word of the name."""
        return self.name.split("_")[1]


def _counter(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, "gauge", text, labels)


def _histogram(name: str, buckets: tuple[float, ...], text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, "histogram", text, labels, buckets)


_CACHE: Final = (
    _counter("aioinfra_cache_operations_total", "Calls to the cache.", "operation", "outcome"),
    _histogram("aioinfra_cache_operation_seconds", _CALL, "Duration of a call to the cache.", "operation"),
    _counter("aioinfra_cache_keys_total", "Keys that reads looked up.", "operation", "result"),
    # Read from the open caches at a scrape: `CacheMetrics.watch`.
    _counter("aioinfra_cache_l1_hits_total", "Reads that L1 answered."),
    _counter("aioinfra_cache_l1_misses_total", "Reads of keys that L1 did not answer."),
    _counter("aioinfra_cache_l1_bypassed_total", "Reads that L1 had but that nothing vouched for."),
    _counter("aioinfra_cache_l1_evictions_total", "Values that left L1 for want of room."),
    _gauge("aioinfra_cache_l1_entries", "Values in L1."),
    _gauge("aioinfra_cache_l1_bytes", "Bytes of the values in L1, estimated."),
    _gauge("aioinfra_cache_l1_state", "Open caches whose L1 is in this state.", "state"),
    _counter("aioinfra_cache_invalidations_total", "Keys heard to have changed."),
    _counter("aioinfra_cache_stale_answers_total", "Old values answered in place of new ones."),
    _counter("aioinfra_cache_refreshes_total", "Values made anew behind their readers."),
    _counter("aioinfra_cache_loads_total", "Loaders that ran."),
    _counter("aioinfra_cache_load_errors_total", "Loaders that raised."),
    _counter("aioinfra_cache_outages_total", "Times that the server was lost."),
    _counter("aioinfra_cache_compression_input_bytes_total", "Bytes before compression."),
    _counter("aioinfra_cache_compression_output_bytes_total", "The same after compression."),
)

_JOBS: Final = (
    _counter("aioinfra_jobs_enqueued_total", "Jobs stored by this process.", "queue", "task"),
    _counter("aioinfra_jobs_claimed_total", "Jobs claimed by this process.", "queue"),
    _counter("aioinfra_jobs_started_total", "Runs started.", "queue", "task"),
    _histogram("aioinfra_jobs_wait_seconds", _JOB, "Time from due to start of a run.", "queue"),
    _counter("aioinfra_jobs_finished_total", "Runs ended.", "queue", "task", "outcome"),
    _histogram("aioinfra_jobs_run_seconds", _JOB, "Duration of a run.", "queue", "task"),
    _counter("aioinfra_jobs_recorded_total", "Ends of runs that the server has recorded."),
    _histogram("aioinfra_jobs_record_seconds", _CALL, "Round trip that records a batch of ends."),
    _counter("aioinfra_jobs_store_errors_total", "Calls that the server failed.", "step"),
    _gauge("aioinfra_jobs_queue_depth", "Jobs on a queue, running ones included.", "queue"),
    _gauge("aioinfra_jobs_running", "Jobs that run in this process."),
    _gauge("aioinfra_jobs_slots", "Jobs that may run in this process at once."),
)

_REDIS: Final = (
    _gauge("aioinfra_redis_connections", "Connections to Redis now: idle, in_use.", "pool", "state"),
    _gauge("aioinfra_redis_connections_limit", "Most connections to Redis.", "pool"),
)

_HTTP: Final = (
    _counter("aioinfra_http_requests_total", "Requests answered.", "method", "route", "status"),
    _histogram("aioinfra_http_request_seconds", _REQUEST, "Duration of a request.", "method", "route"),
    _gauge("aioinfra_http_requests_in_flight", "Requests being answered."),
)

_DATABASE: Final = (
    _counter("aioinfra_database_queries_total", "Queries ended.", "operation", "table", "outcome"),
    _histogram("aioinfra_database_query_seconds", _CALL, "Duration of a query.", "operation", "table"),
    _gauge("aioinfra_database_connections", "Connections of the pool.", "state"),
)

_MODELS: Final = (
    _counter("aioinfra_model_requests_total", "Requests to a model ended.", "model", "operation", "outcome"),
    _histogram("aioinfra_model_request_seconds", _MODEL, "Duration of a request.", "model", "operation"),
    _histogram(
        "aioinfra_model_first_item_seconds",
        _MODEL,
        "Time to the first item of a streamed answer.",
        "model",
        "operation",
    ),
    _gauge("aioinfra_model_requests_in_flight", "Requests that a model works on.", "model"),
    _counter("aioinfra_model_tokens_total", "Tokens read and written.", "model", "direction"),
)

_SYSTEM: Final = (
    _counter("aioinfra_system_cpu_seconds_total", "CPU time of the machine.", "mode"),
    _gauge("aioinfra_system_cpus", "Processors of the machine."),
    _gauge("aioinfra_system_memory_bytes", "Memory of the machine: total, available, used.", "state"),
    _counter("aioinfra_system_disk_io_bytes_total", "Bytes of disk I/O.", "direction"),
    _counter("aioinfra_system_disk_io_operations_total", "Reads and writes of disks.", "direction"),
    _counter("aioinfra_system_network_io_bytes_total", "Bytes of network I/O.", "direction"),
    _counter("aioinfra_system_network_io_packets_total", "Packets of network I/O.", "direction"),
    _counter("aioinfra_system_process_cpu_seconds_total", "CPU time of this process.", "mode"),
    _gauge("aioinfra_system_process_memory_bytes", "Resident memory of this process."),
    _gauge("aioinfra_system_process_threads", "Threads of this process."),
    _gauge("aioinfra_system_process_open_files", "Open file descriptors of this process."),
    _gauge("aioinfra_system_process_start_time_seconds", "Unix time at which this process began."),
)

_LOOP: Final = (
    _histogram("aioinfra_loop_lag_seconds", _LAG, "How late the event loop runs what is due."),
    _counter("aioinfra_loop_blocked_total", "Times that the event loop was blocked.", "culprit"),
    _counter("aioinfra_loop_blocked_seconds_total", "Time that the event loop was blocked.", "culprit"),
)

_METRICS: Final = (
    _counter("aioinfra_metrics_overflow_total", "Uses of label values beyond the bound.", "metric"),
)

CATALOGUE: Final = (
    *_CACHE,
    *_JOBS,
    *_REDIS,
    *_HTTP,
    *_DATABASE,
    *_MODELS,
    *_SYSTEM,
    *_LOOP,
    *_METRICS,
)

BY_NAME: Final = {spec.name: spec for spec in CATALOGUE}
